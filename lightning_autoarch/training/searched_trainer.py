"""Arguments of the Trainer in a space: `trainer.gradient_clip_val`, `trainer.accumulate_grad_batches`.

A trial makes a Trainer of its own and could take any. But the winner is trained by the Trainer that the user has made,
so only what that one reads at each step, and can be set on it before training, is searched.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.enums import GradClipAlgorithmType

from lightning_autoarch.core.errors import SearchError, SpaceError, did_you_mean
from lightning_autoarch.seam.lightning import callbacks_of
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.nested import listed

PREFIX = "trainer."
SEARCHABLE = ("accumulate_grad_batches", "gradient_clip_algorithm", "gradient_clip_val")


def trainer_part(architecture: Mapping[str, Any]) -> Architecture:
    """The Trainer's part of an architecture, without the prefix.

    >>> trainer_part({"width": 8, "trainer.gradient_clip_val": 0.5})
    {'gradient_clip_val': 0.5}
    """
    return {name.removeprefix(PREFIX): value for name, value in architecture.items() if name.startswith(PREFIX)}


def check_trainer_names(names: Iterable[str], trial_trainer: Mapping[str, Any], trainer: Trainer) -> None:
    """Before the first trial: the `trainer.*` names (given without prefix) can be set on the outer Trainer.

    Raises:
        SpaceError: one cannot, or is no argument of Trainer.
        SearchError: something else sets the same.
    """
    for name in names:
        if name not in SEARCHABLE:
            raise SpaceError(_not_searchable(name))
        if name in trial_trainer:
            raise SearchError(f"`{PREFIX}{name}` of the space and `trial.trainer` set the same: leave one out.")
        callbacks = callbacks_of(trainer)
        if name == "accumulate_grad_batches" and any(isinstance(c, GradientAccumulationScheduler) for c in callbacks):
            raise SearchError(f"`{PREFIX}{name}` of the space and GradientAccumulationScheduler set the same.")


def check_trainer_values(draws: Iterable[Architecture]) -> None:
    """Architectures of the space have values that the Trainer takes.

    Raises:
        SpaceError: one has not.
    """
    for draw in draws:
        for name, value in trainer_part(draw).items():
            if (expected := _expected(name, value)) is not None:
                raise SpaceError(f"Expected `{PREFIX}{name}` to be {expected}, got {value!r}.")


def set_on_(trainer: Trainer, arguments: Mapping[str, Any]) -> None:
    """Give a Trainer that has not begun to train these arguments, as its constructor would."""
    for name, value in arguments.items():
        algorithm = name == "gradient_clip_algorithm" and value is not None
        setattr(trainer, name, GradClipAlgorithmType(value.lower()) if algorithm else value)


def _expected(name: str, value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "accumulate_grad_batches":
        return None if isinstance(value, int) and is_number and value >= 1 else "a whole number >= 1"
    if name == "gradient_clip_val":
        return None if value is None or (is_number and value >= 0) else "a number >= 0 or None"
    known = [str(algorithm.value) for algorithm in GradClipAlgorithmType]
    return None if value is None or value in known else f"one of {', '.join(known)}"


def _not_searchable(name: str) -> str:
    possible = [PREFIX + each for each in SEARCHABLE]
    if name in inspect.signature(Trainer.__init__).parameters:
        why = "can be set for the trials (`trial.trainer`), but no more on the Trainer that trains the winner."
    else:
        why = f"is no argument of Trainer.{did_you_mean(PREFIX + name, possible)}"
    return f"`{PREFIX}{name}` of the space {why} Possible are {listed(possible)}."
