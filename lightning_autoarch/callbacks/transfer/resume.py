"""A fit that goes on: it must have the groups of the checkpoint, and plans with the epochs of the fit before."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from lightning_autoarch.callbacks.transfer.recipe import Recipe
from lightning_autoarch.errors import TransferError, shown
from lightning_autoarch.schema import Schema, data, flag, mapping, optional, sequence, tensor, text, whole

SCHEMA = Schema(
    "TransferLearning",
    1,
    {"epochs": optional(whole()), "groups": mapping(data()), "start": mapping(tensor())},
    {"new": sequence(text()), "adapters": mapping(tensor()), "recomputed": flag()},
)
LONG = 10**6  # epochs of a fit that `fast_dev_run` cuts off after one: nothing is planned for that one


def planned_epochs(trainer: Trainer) -> int | None:
    """Of the fit, None where it has no known end."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return LONG
    epochs = trainer.max_epochs
    return None if epochs is None or epochs < 0 else epochs


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
    for name, today in recipe.groups().items():
        stored = state["groups"].get(name)
        if stored != today:
            raise TransferError(
                f"Expected `{name}={shown(repr(stored))}`, as in the fit that is resumed, got {today!r}: its "
                "optimizer has other parameter groups. To go on differently pass the file as `checkpoint`, not as "
                "`ckpt_path`."
            )
    if recipe.l2_sp is not None and not state["start"]:
        raise TransferError("Expected the weights that `l2_sp` began with in the checkpoint, got one of a fit without.")
    return state
