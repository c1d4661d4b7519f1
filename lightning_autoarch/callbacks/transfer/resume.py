"""A fit that goes on: it must have the groups of the checkpoint, and thaw by the same rule."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_autoarch.callbacks.transfer.recipe import Recipe
from lightning_autoarch.core.errors import TransferError, shown
from lightning_autoarch.core.schema import (
    Mismatch,
    Schema,
    data,
    flag,
    items,
    mapping,
    optional,
    real,
    record,
    sequence,
    tensor,
    text,
    whole,
)


def _setting(value: Any, where: str) -> None:
    """Numbers, strings, lists and dicts, which can be compared with those of today."""
    data()(value, where)
    held = next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)), None)
    if held is not None:
        raise Mismatch(where, "numbers, strings, lists and dicts", held)


MOMENT = items(whole(), whole(), real(0.0))
CLOCK = record({"begun": sequence(MOMENT), "best": optional(real(finite=False)), "wait": whole(), "checked": whole(-1)})
SCHEMA = Schema(
    "TransferLearning",
    1,
    {"epochs": optional(whole()), "groups": mapping(_setting), "start": mapping(tensor())},
    {"new": sequence(text()), "adapters": mapping(tensor()), "recomputed": flag(), "clock": optional(CLOCK)},
)


def check_state(state: dict[str, Any] | None, recipe: Recipe, *, resumes: bool) -> dict[str, Any] | None:
    """What a checkpoint holds of the callback.

    Args:
        state: as it was saved; None where there is none.
        recipe: of today.
        resumes: whether the fit goes on from a checkpoint.

    Raises:
        TransferError: the checkpoint has other groups, or not the weights that L2-SP began with.
    """
    if state is None or not resumes:
        if resumes and recipe.l2_sp is not None:
            raise TransferError(
                "Expected a checkpoint of a fit with TransferLearning, for `l2_sp` needs the weights that it began "
                "with. To start from another checkpoint pass it as `checkpoint`, not as `ckpt_path`."
            )
        return None
    groups, stored = recipe.groups(), state["groups"]
    for name in {**groups, **stored}:
        before, today = stored.get(name), groups.get(name)
        if before != today:
            raise TransferError(
                f"Expected `{shown(name)}={shown(repr(before))}`, as in the fit that is resumed, got {today!r}: its "
                "optimizer has other parameter groups, or its layers thaw at other times. To go on differently pass "
                "the file as `checkpoint`, not as `ckpt_path`."
            )
    if recipe.l2_sp is not None and not state["start"]:
        raise TransferError("Expected the weights that `l2_sp` began with in the checkpoint, got one of a fit without.")
    return state
