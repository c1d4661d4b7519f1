"""Arguments of a trial's Trainer: those that it inherits from the outer Trainer, and those that the space varies.

A trial inherits all that changes the score, and nothing that writes files or prints. It could vary any argument. The
winner, however, is trained by the Trainer that the user has made, so a space may only vary what that Trainer reads at
each step and what can be set on it before training: `trainer.gradient_clip_val`, `trainer.accumulate_grad_batches`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.enums import GradClipAlgorithmType

from lightning_autoarch.core.errors import SearchError, SpaceError, did_you_mean
from lightning_autoarch.seam.lightning import (
    callbacks_of,
    detects_anomalies,
    fast_dev_run,
    max_time,
    val_check_interval,
)
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.nested import listed

PREFIX = "trainer."  # of names in a space
SEARCHABLE = ("accumulate_grad_batches", "gradient_clip_algorithm", "gradient_clip_val")

_TAKEN_OVER = (
    "max_steps",
    "min_epochs",
    "min_steps",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "check_val_every_n_epoch",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "precision",
    "reload_dataloaders_every_n_epochs",
)
_OURS = (
    "logger",
    "callbacks",
    "default_root_dir",
    "enable_checkpointing",
    "strategy",
    "num_nodes",
    "use_distributed_sampler",
)
SILENT = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_autolog_hparams": False,
    "num_sanity_val_steps": 0,
}


def inherited_arguments(trainer: Trainer) -> dict[str, Any]:
    """Arguments for a Trainer that trains on one device just as `trainer` would."""
    arguments = {name: getattr(trainer, name) for name in _TAKEN_OVER}
    clip = trainer.gradient_clip_algorithm
    arguments |= {
        "max_epochs": trainer.fit_loop.max_epochs,
        "max_time": max_time(trainer),
        "val_check_interval": val_check_interval(trainer),
        "gradient_clip_algorithm": clip.value if clip is not None else None,
        "deterministic": _deterministic(),
        "benchmark": torch.backends.cudnn.benchmark,
        "inference_mode": trainer.validate_loop.inference_mode,
        "detect_anomaly": detects_anomalies(trainer),
        **one_device(trainer.strategy.root_device),
    }
    if batches := fast_dev_run(trainer):
        arguments = {k: v for k, v in arguments.items() if not k.startswith(("max_", "min_", "limit_", "val_check"))}
        arguments["fast_dev_run"] = batches
    return {**arguments, **SILENT}


def one_device(device: torch.device) -> dict[str, Any]:
    """The arguments `accelerator` and `devices` that select a single device."""
    if device.type == "cuda":
        return {"accelerator": "cuda", "devices": [device.index or 0]}
    return {"accelerator": device.type, "devices": 1}


def check_trial_trainer(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments that the user gives for the Trainers of the trials, and return a copy.

    Raises:
        SearchError: it is not a mapping, or a name is not an argument of Trainer or is set by each trial itself.
    """
    if not isinstance(arguments, Mapping):
        raise SearchError(
            'Expected `trial.trainer` to map Trainer arguments to values, such as {"max_epochs": 3}, '
            f"got {arguments!r}."
        )
    known = inspect.signature(Trainer.__init__).parameters
    for name in arguments:
        if name in _OURS:
            hint = " Use `trial.callbacks`." if name == "callbacks" else ""
            raise SearchError(f"`trial.trainer` cannot set `{name}`: a trial sets it itself.{hint}")
        if name not in known:
            raise SearchError(f"`{name}` in `trial.trainer` is not an argument of Trainer.{did_you_mean(name, known)}")
    return dict(arguments)


def check_ends(arguments: Mapping[str, Any], callbacks: Sequence[Callback]) -> None:
    """Raise SearchError if nothing limits the length of a fit with these arguments."""
    endless = arguments.get("max_epochs") == -1 and arguments.get("max_steps", -1) == -1 and not arguments["max_time"]
    if endless and not callbacks:
        raise SearchError('A trial would never end: give `trial={"trainer": {"max_epochs": ...}}`.')


def _deterministic() -> bool | str:
    if not torch.are_deterministic_algorithms_enabled():
        return False
    return "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else True


def trainer_part(architecture: Mapping[str, Any]) -> Architecture:
    """The Trainer's part of an architecture, without the prefix.

    >>> trainer_part({"width": 8, "trainer.gradient_clip_val": 0.5})
    {'gradient_clip_val': 0.5}
    """
    return {name.removeprefix(PREFIX): value for name, value in architecture.items() if name.startswith(PREFIX)}


def check_trainer_names(names: Iterable[str], trial_trainer: Mapping[str, Any], trainer: Trainer) -> None:
    """Check before the first trial that the `trainer.*` names (given without prefix) can be set on the outer Trainer.

    Raises:
        SpaceError: a name cannot be set later, or is not an argument of Trainer.
        SearchError: the same argument is set elsewhere too.
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
    """Check that architectures drawn from the space have values that the Trainer accepts.

    Raises:
        SpaceError: a value is not accepted.
    """
    for draw in draws:
        for name, value in trainer_part(draw).items():
            if (expected := _expected(name, value)) is not None:
                raise SpaceError(f"Expected `{PREFIX}{name}` to be {expected}, got {value!r}.")


def set_on_(trainer: Trainer, arguments: Mapping[str, Any]) -> None:
    """Set arguments on a Trainer that has not started training, as its constructor would."""
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
        why = "can be set for the trials (`trial.trainer`), but not later on the Trainer that trains the winner."
    else:
        why = f"is not an argument of Trainer.{did_you_mean(PREFIX + name, possible)}"
    return f"`{PREFIX}{name}` of the space {why} Possible are {listed(possible)}."
