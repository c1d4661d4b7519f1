"""`load_pruned`: the weights of a module that lost channels, into a fresh one that still has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from lightning_autoarch.core.errors import CheckpointError, PruneTypeError, PruneValueError, shown
from lightning_autoarch.core.schema import Mismatch, data, mapping
from lightning_autoarch.prune.rounds import all_rounds, catch_up_, rounds_of
from lightning_autoarch.reading.weights import read_with_weights

M = TypeVar("M", bound=nn.Module)
WEIGHTS = mapping(data())  # what `load_state_dict` takes: extra state need not be tensors


def load_pruned(module: M, checkpoint: str | Path | Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> M:
    """Make a dense module as small as the one that was saved, and load its weights.

    Args:
        module: with the shapes that the pruned one had at first: `MyModule(**hparams)`.
        checkpoint: path of a Lightning checkpoint of a fit with `ChannelPruning`, what is in it, or a state dict.
        recipe: what was removed; None: as the checkpoint says, of all rounds where there were several. A
            `Removed.recipe`, or that read from JSON.

    Returns:
        The module, in place.

    Raises:
        PruneValueError: the checkpoint holds no recipe, or the module lost other channels already.
        CheckpointError: there is no such file, it is broken, holds anything that is not data, or other weights.
        StructureError: the recipe is of another architecture; the module is as before.

    Example::

        model = load_pruned(MyModule(**hparams), "small.ckpt")
    """
    if not isinstance(checkpoint, Mapping | str | Path):
        raise PruneTypeError(f"Expected a path or what a checkpoint holds, got {shown(checkpoint)}.")
    content: Mapping[str, Any] = checkpoint if isinstance(checkpoint, Mapping) else read_with_weights(Path(checkpoint))
    rounds = (*rounds_of(module), recipe) if recipe is not None else all_rounds(content.get("callbacks"))
    if not rounds:
        raise PruneValueError(
            "Expected a checkpoint of a fit with ChannelPruning, got one without a recipe: give `recipe=`, or load it "
            "into the module as it is."
        )
    state = content.get("state_dict", content)
    try:
        WEIGHTS(state, "state_dict")
    except Mismatch as mismatch:
        raise CheckpointError(f"Expected the weights of a module that lost channels: {mismatch}.") from None
    catch_up_(module, rounds)
    try:
        module.load_state_dict(state)
    except Exception as error:  # `_load_from_state_dict` and hooks of the user's module may raise anything
        where = "the given dict" if isinstance(checkpoint, Mapping) else checkpoint
        raise CheckpointError(
            f"Expected the weights of {type(module).__name__}, with the shapes of the recipe, in {where}, got others: "
            f"{type(error).__name__}: {shown(str(error), 1000)}"
        ) from error
    return module
