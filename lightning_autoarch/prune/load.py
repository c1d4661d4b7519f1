"""`load_pruned`: the weights of a module that lost channels, loaded into a fresh one that still has them.

A module can lose channels several times ("rounds"). The recipe of a round is for the shapes that the round before left,
so every checkpoint of `ChannelPruning` holds the earlier recipes too, in whichever fit and by whichever callback they
were made, and the rounds that a module lacks can be applied to it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from lightning_autoarch.core.errors import CheckpointError, PruneTypeError, PruneValueError, StructureError, shown
from lightning_autoarch.core.schema import VERSION, Mismatch, Schema, data, is_empty, mapping, sequence
from lightning_autoarch.reading.archive import read_with_weights
from lightning_autoarch.structure.recipe import RECIPE, apply_recipe_, chain_recipes

KEY = "lightning_autoarch.ChannelPruning"  # in checkpoints; followed by the name of the callback if it has one
SCHEMA = Schema("ChannelPruning", 1, {"recipe": RECIPE}, {"earlier": sequence(RECIPE)})
MOST_UNORDERED = 4  # states of unknown order, of which every order is tried

Recipe = Mapping[str, Any]
Rounds = tuple[Recipe, ...]

_LOST: WeakKeyDictionary[nn.Module, Rounds] = WeakKeyDictionary()


def rounds_of(module: nn.Module) -> Rounds:
    """The rounds of this object so far, by `ChannelPruning` or `load_pruned`; a copy of it has none."""
    return _LOST.get(module, ())


def add_round(module: nn.Module, recipe: Recipe) -> None:
    """Record what was just removed."""
    _LOST[module] = (*rounds_of(module), recipe)


def state_of(rounds: Rounds) -> dict[str, Any]:
    """The state of the callback that made the last of these rounds."""
    if not rounds:
        return {}
    earlier = {"earlier": list(rounds[:-1])} if len(rounds) > 1 else {}
    return {VERSION: SCHEMA.version, "recipe": rounds[-1], **earlier}


def rounds_in(state: object) -> Rounds:
    """The rounds in the state of one callback.

    Raises:
        CheckpointError: the state is not well formed.
    """
    checked = SCHEMA.read(state)
    return (*checked.get("earlier", ()), checked["recipe"])


def all_rounds(states: object) -> Rounds:
    """The rounds in the states of callbacks in a checkpoint; none if no channels were removed.

    Raises:
        CheckpointError: a state is not well formed.
        PruneValueError: the recipes do not follow one another.
    """
    found = states.items() if isinstance(states, Mapping) else ()
    kin = [state for key, state in found if isinstance(key, str) and (key == KEY or key.startswith(f"{KEY}."))]
    chains = [rounds_in(state) for state in kin if not is_empty(state)]
    longest = max(chains, key=len, default=())
    if all(longest[: len(chain)] == chain for chain in chains):
        return longest
    for order in itertools.permutations(chains[:MOST_UNORDERED]):  # states of before they held the earlier rounds
        rounds = tuple(itertools.chain(*order))
        if len(chains) <= MOST_UNORDERED and _follow(rounds):
            return rounds
    raise PruneValueError(
        f"Expected recipes that follow one another, got {len(chains)} states of ChannelPruning that are not of "
        "one module: give the right one as `recipe=`."
    )


def catch_up_(module: nn.Module, rounds: Rounds, *copies: nn.Module) -> None:
    """Apply the rounds that the module lacks.

    Args:
        module: in place.
        rounds: all rounds, starting with the dense module.
        copies: modules of the same shapes, such as averages of it.

    Raises:
        PruneValueError: the module lost other channels.
        StructureError: the recipes belong to another architecture; the modules are then unchanged.
    """
    done = rounds_of(module)
    if rounds[: len(done)] != done:
        raise PruneValueError(
            f"Expected a {type(module).__name__} that lost no channels, or the same ones as that of the checkpoint "
            f"({len(rounds)} times), got one that lost others ({len(done)} times): create it again."
        )
    missing = rounds[len(done) :]
    if missing:
        recipe = functools.reduce(chain_recipes, (dict(each) for each in missing))
        for each in (module, *copies):
            apply_recipe_(each, recipe)
        _LOST[module] = rounds


def _follow(rounds: Sequence[Recipe]) -> bool:
    try:
        functools.reduce(chain_recipes, (dict(each) for each in rounds))
    except StructureError:
        return False
    return True


M = TypeVar("M", bound=nn.Module)
WEIGHTS = mapping(data())  # extra state need not be tensors


def load_pruned(module: M, checkpoint: str | Path | Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> M:
    """Make a dense module as small as the one that was saved, in place, and load its weights.

    Args:
        module: has the original shapes of the pruned module: `MyModule(**hparams)`.
        checkpoint: the path of a Lightning checkpoint of a fit with `ChannelPruning`, its content, or a state dict.
        recipe: what was removed: a `Removed.recipe`, also read from JSON. None: all rounds in the checkpoint.

    Returns:
        The module, in place.

    Raises:
        PruneTypeError: `checkpoint` is neither a path nor a mapping.
        PruneValueError: the checkpoint holds no recipe, or the module already lost other channels.
        CheckpointError: the file does not exist, is damaged, holds anything but data, or holds other weights.
        StructureError: the recipe belongs to another architecture; the module is unchanged.

    Example::

        model = load_pruned(MyModule(**hparams), "small.ckpt")
    """
    if not isinstance(checkpoint, Mapping | str | Path):
        raise PruneTypeError(f"Expected a path or what a checkpoint holds, got {shown(checkpoint)}.")
    content: Mapping[str, Any] = checkpoint if isinstance(checkpoint, Mapping) else read_with_weights(Path(checkpoint))
    rounds = (*rounds_of(module), recipe) if recipe is not None else all_rounds(content.get("callbacks"))
    if not rounds:
        raise PruneValueError(
            "Expected a checkpoint of a fit with ChannelPruning, got one without a recipe: pass `recipe=`, or load it "
            "into the dense module."
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
