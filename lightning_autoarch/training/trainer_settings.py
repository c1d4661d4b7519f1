"""What a trial's Trainer takes over from the outer one: all that changes the score, nothing that writes or prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from lightning_autoarch.core.errors import SearchError, did_you_mean
from lightning_autoarch.seam.lightning import detects_anomalies, fast_dev_run, max_time, val_check_interval

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
    """The `accelerator` and `devices` that mean this one device."""
    if device.type == "cuda":
        return {"accelerator": "cuda", "devices": [device.index or 0]}
    return {"accelerator": device.type, "devices": 1}


def check_trial_trainer(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Trainer arguments that differ in the trials.

    Raises:
        SearchError: no mapping, a name that is no argument of Trainer, or one that a trial sets itself.
    """
    import inspect

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
            raise SearchError(f"`{name}` in `trial.trainer` is no argument of Trainer.{did_you_mean(name, known)}")
    return dict(arguments)


def check_ends(arguments: Mapping[str, Any], callbacks: Sequence[Callback]) -> None:
    """Raises SearchError for a Trainer that nothing would stop."""
    endless = arguments.get("max_epochs") == -1 and arguments.get("max_steps", -1) == -1 and not arguments["max_time"]
    if endless and not callbacks:
        raise SearchError('A trial would never end: give `trial={"trainer": {"max_epochs": ...}}`.')


def _deterministic() -> bool | str:
    if not torch.are_deterministic_algorithms_enabled():
        return False
    return "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else True
