"""What this package uses of Lightning beyond its public interface.

A search runs inside of `fit`, before Lightning tells callbacks which checkpoint it resumes from, and a trial that is
resumed has to continue exactly, down to the order of batches. Lightning has no public interface for either. Each
private attribute, function or local variable that is needed is one function here, and `tests/seam/test_lightning.py`
fails if the oldest or the newest supported version does not behave as its docstring says.

What would silently do nothing if Lightning renamed something (a local variable that is not found, an attribute that
nobody reads any more) raises UnsupportedVersionError instead.

Lightning sets some public attributes of a Trainer without declaring them. They are here too, with their types.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple, NoReturn

import lightning
import torch
from lightning.fabric.utilities.cloud_io import _load
from lightning.fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, Timer, WeightAveraging
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.trainer.call import _call_configure_model
from lightning.pytorch.trainer.connectors.callback_connector import _validate_callbacks_list
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.exceptions import _TunerExitException
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_autoarch.core.errors import UnsupportedVersionError

TESTED = "2.6.0 to 2.6.6"

INSTANTIATOR = "_instantiator"  # hyperparameter that LightningCLI adds: the function that makes a module from a config
CLASS_PATH = "_class_path"  # hyperparameter that LightningCLI adds: which subclass of the module was made

_RUN = Trainer._run.__name__
_COMPARE_KEYS = _validate_callbacks_list.__name__


class Resumed(NamedTuple):
    """The checkpoint that a running `fit` resumes from."""

    path: str | None  # a file or an address; None where `fit` begins anew
    trusted: bool  # whether `fit` was given `weights_only=False`, so that what the file holds may run code


# A Trainer and its callbacks


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The list of a Trainer's callbacks itself, in the order in which their hooks run."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The datamodule that was given to the running `fit`, or None."""
    datamodule: LightningDataModule | None = trainer.datamodule  # type: ignore[attr-defined]
    return datamodule


def profiler_of(trainer: Trainer) -> Profiler:
    """A Trainer's profiler; without one it is a PassThroughProfiler."""
    profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
    return profiler


def fast_dev_run(trainer: Trainer) -> int:
    """The number of batches of `fast_dev_run`; 0 where it is off."""
    return int(trainer.fast_dev_run)  # type: ignore[attr-defined]


def callbacks_being_compared() -> list[Callback] | None:
    """The callbacks of a Trainer that is being made, whose `state_key` Lightning compares at this moment; or None.

    To be called by what a `state_key` calls. Lightning compares the keys before any hook runs, and its error names
    neither the callbacks nor the remedy.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "state_key":
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name == "state_key":  # a class may ask its base class
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != _COMPARE_KEYS:
        return None
    callbacks = frame.f_locals.get("callbacks")
    if not isinstance(callbacks, list):
        _unsupported(f"a local variable `callbacks` in `{_COMPARE_KEYS}`")
    return [callback for callback in callbacks if isinstance(callback, Callback)]


def attach_logging(trainer: Trainer, module: LightningModule) -> None:
    """Let `self.log` of a Trainer's callbacks log as `module`, as `fit` does before `setup`."""
    for callback in callbacks_of(trainer):
        vars(callback).update(log=module.log, log_dict=module.log_dict)


def average_of(callback: Callback) -> nn.Module | None:
    """The running average of a module that `WeightAveraging` or `StochasticWeightAveraging` keeps; else None."""
    if not isinstance(callback, WeightAveraging | StochasticWeightAveraging):
        return None
    average = callback._average_model
    return average.module if isinstance(average, AveragedModel) else average


# A Trainer's arguments that have no public attribute


def detects_anomalies(trainer: Trainer) -> bool:
    """The argument `detect_anomaly`."""
    return trainer._detect_anomaly


def max_time(trainer: Trainer) -> timedelta | None:
    """The argument `max_time`, or the shortest duration of a `Timer` among the callbacks; None where there is none."""
    timers = [callback for callback in callbacks_of(trainer) if isinstance(callback, Timer)]
    durations = [timer._duration for timer in timers if timer._duration is not None]
    return timedelta(seconds=min(durations)) if durations else None


def val_check_interval(trainer: Trainer) -> float | timedelta:
    """The argument `val_check_interval`: a number of batches, a part of an epoch, or a time."""
    seconds: float | None = trainer._val_check_time_interval  # type: ignore[attr-defined]
    return trainer.val_check_interval if seconds is None else timedelta(seconds=seconds)


def spawning_start_method(trainer: Trainer) -> str | None:
    """How Lightning starts the processes that train copies of the module (`spawn`, `fork`); None where it does not."""
    launcher = trainer.strategy.launcher
    return launcher._start_method if isinstance(launcher, _MultiProcessingLauncher) else None


# A running fit


def checkpoint_path(trainer: Trainer) -> Resumed:
    """The `ckpt_path` and the `weights_only` of the running `fit`, from the local variables of `Trainer._run`.

    Lightning tells callbacks only after `setup`.

    Raises:
        UnsupportedVersionError: the Trainer runs, but it cannot be seen from which checkpoint. To take this for "from
            none" would train a resumed module from its beginning.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        known = frame.f_locals if frame.f_code.co_name == _RUN else {}
        if known.get("self") is trainer and {"ckpt_path", "weights_only"} <= known.keys():
            path = known["ckpt_path"]
            return Resumed(None if path is None else str(path), known["weights_only"] is False)
        frame = frame.f_back
    if trainer.state.status == TrainerStatus.RUNNING:
        _unsupported(f"local variables `ckpt_path` and `weights_only` in `Trainer.{_RUN}`")
    return Resumed(None, False)


def run_configure_model(trainer: Trainer) -> None:
    """Run `configure_model` of the module as Lightning is about to, with the contexts of its strategy and precision."""
    _call_configure_model(trainer)


def logs_this_step(trainer: Trainer) -> bool:
    """Whether what is logged in this step goes to the loggers, by `log_every_n_steps`."""
    return trainer._logger_connector.should_update_logs


def end_of_tuning() -> Exception:
    """An exception for callbacks to raise: `fit` ends without training and without an error, as after a tuner."""
    return _TunerExitException()


def attach(trainer: Trainer, module: LightningModule, loaders: Mapping[str, Any]) -> None:
    """Let a Trainer, a module and its data know of each other as in `fit`, without running anything.

    Args:
        trainer: that has not run.
        module: to attach; `module.trainer = None` detaches it.
        loaders: `train_dataloaders`, `val_dataloaders` and `datamodule` as `fit` takes them.
    """
    trainer.state.fn, trainer.state.status, trainer.training = TrainerFn.FITTING, TrainerStatus.RUNNING, True
    trainer.strategy.connect(module)
    trainer._data_connector.attach_data(module, **loaders)
    module.trainer = trainer


# The loaders of a fit


def given_loaders(trainer: Trainer) -> tuple[Any, Any]:
    """What the training and the validation batches of the running `fit` come from, each as it was given.

    Loaders or collections of them, a datamodule, or the module whose hooks make them; None where there is none.
    """
    loop = trainer.fit_loop
    return loop._data_source.instance, loop.epoch_loop.val_loop._data_source.instance


def once_loaded(trainer: Trainer, stage: Literal["train", "val"], use: Callable[[Any], None]) -> None:
    """Call `use` on the loaders when Lightning asks for them for the first time, before it iterates over them.

    With `reload_dataloaders_every_n_epochs` it asks again, and `use` is not called again.
    """
    loop = trainer.fit_loop
    source = loop._data_source if stage == "train" else loop.epoch_loop.val_loop._data_source
    request = source.dataloader

    def dataloader() -> Any:
        _replace(source, "dataloader", request)
        loaders = request()
        use(loaders.iterables if isinstance(loaders, CombinedLoader) else loaders)
        return loaders

    _replace(source, "dataloader", dataloader)


def forget_train_loaders(trainer: Trainer) -> None:
    """Let Lightning make the training loaders again, where `estimated_stepping_batches` has made them before."""
    _replace(trainer.fit_loop, "_combined_loader", None)


def resume_after_last_epoch(trainer: Trainer) -> None:
    """Let a resumed fit with `max_steps` begin with the next epoch instead of entering the finished one again.

    Lightning does the latter if it counts in steps, which draws random numbers and runs the hooks of the epoch twice.
    """
    _replace(trainer.fit_loop, "_iteration_based_training", lambda: False)


# Modules


def trainer_of(module: LightningModule) -> Trainer | None:
    """The Trainer that a module is attached to, or None. `module.trainer` raises where there is none."""
    return module._trainer


def move_device_attribute(module: nn.Module, device: torch.device) -> None:
    """Set what `device` of each LightningModule in a module says, without moving a tensor."""
    for child in module.modules():
        if isinstance(child, _DeviceDtypeModuleMixin):
            _replace(child, "_device", device)


def is_compiled(module: LightningModule) -> bool:
    """Whether `torch.compile` has compiled a module, which Lightning has unwrapped when it was given to `fit`."""
    return module._compiler_ctx is not None


def hyperparameters_name(module: LightningModule | LightningDataModule) -> str | None:
    """The argument of `__init__` that `save_hyperparameters` took as a whole; "kwargs" for several; None for none."""
    name: str | None = getattr(module, "_hparams_name", None)
    return name


def saved_as(hyperparameters: Mapping[str, Any], instantiator: str) -> AbstractContextManager[None]:
    """Let modules that are made in the block save these hyperparameters, as LightningCLI does, with `INSTANTIATOR`."""
    return _given_hyperparameters_context(dict(hyperparameters), instantiator)


# Files


def load(path: str | Path, *, weights_only: bool) -> Any:
    """Read a file of `torch.save`, or an address that fsspec knows, as Lightning reads checkpoints; tensors on the CPU.

    Args:
        path: of the file, or its address.
        weights_only: whether to refuse what is more than data, since reading it may run code.
    """
    return _load(path, map_location="cpu", weights_only=weights_only)


def _replace(owner: object, name: str, value: object) -> None:
    """Set an attribute that Lightning reads."""
    if not hasattr(owner, name):
        _unsupported(f"an attribute `{name}` of {type(owner).__name__}")
    setattr(owner, name, value)


def _unsupported(what: str) -> NoReturn:
    raise UnsupportedVersionError(
        f"Expected Lightning to have {what}, but version {lightning.__version__} has none. Install a version that this "
        f"release of lightning-autoarch was tested with: lightning {TESTED}."
    )
