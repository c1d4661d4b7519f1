"""`load_pruned`: the weights of a module that lost channels, into a fresh one that still has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from lightning_autoarch.errors import CheckpointError, shown
from lightning_autoarch.prune.errors import PruneValueError
from lightning_autoarch.reading import check_sizes, plain_tensor, read_archive
from lightning_autoarch.structure import apply_recipe_

M = TypeVar("M", bound=nn.Module)
KEY = "lightning_autoarch.ChannelPruning"


def load_pruned(module: M, checkpoint: str | Path | Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> M:
    """Make a dense module as small as the one that was saved, and load its weights.

    Args:
        module: with the shapes that the pruned one had at first: `MyModule(**hparams)`.
        checkpoint: path of a Lightning checkpoint of a fit with `ChannelPruning`, what is in it, or a state dict.
        recipe: what was removed; None: as the checkpoint says. A `Removed.recipe`, or that read from JSON.

    Returns:
        The module, in place.

    Raises:
        PruneValueError: there is no such file, or it holds no recipe.
        CheckpointError: the file is broken, or holds anything that is not data.
        StructureError: the recipe is of another architecture; the module is as before.

    Example::

        model = load_pruned(MyModule(**hparams), "small.ckpt")
    """
    content: Mapping[str, Any] = checkpoint if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    found = recipe if recipe is not None else _recipe_in(content)
    state = content.get("state_dict", content)
    apply_recipe_(module, found)
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        where = "the given dict" if isinstance(checkpoint, Mapping) else checkpoint
        raise CheckpointError(
            f"Expected the weights of {type(module).__name__}, with the shapes of the recipe, in {where}, got others: "
            f"{shown(str(error), 1000)}"
        ) from error
    return module


def _read(path: Path) -> Mapping[str, Any]:
    """A checkpoint, its weights as plain tensors that fit its size."""
    if not path.is_file():
        raise PruneValueError(f"Expected a checkpoint at {path}, there is none.")
    content = read_archive(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise PruneValueError(f"Expected a dict of tensors in {path}, got {shown(content)}.")
    plain = {
        name: plain_tensor(name, value, str(path), from_file=True) if isinstance(value, Tensor) else value
        for name, value in state.items()
    }
    check_sizes({n: v for n, v in plain.items() if isinstance(v, Tensor)}, str(path), path.stat().st_size)
    return {**content, "state_dict": plain} if state is not content else plain


def _recipe_in(content: Mapping[str, Any]) -> Mapping[str, Any]:
    states = content.get("callbacks")
    for key, state in states.items() if isinstance(states, Mapping) else ():
        if isinstance(key, str) and key.startswith(KEY) and isinstance(state, Mapping) and state.get("recipe"):
            recipe: Mapping[str, Any] = state["recipe"]
            return recipe
    raise PruneValueError(
        "Expected a checkpoint of a fit with ChannelPruning, got one without a recipe: give `recipe=`, or load it "
        "into the module as it is."
    )
