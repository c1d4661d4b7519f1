"""What a search checks and changes in the outer Trainer, the one whose `fit` runs it.

`Callback.setup(stage="fit")` is the last hook in which a module may still change: before its optimizers are created,
before it is wrapped and moved, and before weights are restored. What Lightning had attached to the module by then is
attached again after the search has rebuilt it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.core.files import writable_directory
from lightning_autoarch.seam.lightning import (
    attach_logging,
    callbacks_of,
    move_device_attribute,
    profiler_of,
    spawning_start_method,
)
from lightning_autoarch.training.links import Links

Minima = tuple[int | None, int | None]  # epochs, steps


def check_one_process(trainer: Trainer) -> None:
    """Raise SearchError if several processes train the module."""
    if trainer.world_size > 1:
        raise SearchError(
            f"The search runs in one process, but this Trainer has {trainer.world_size}. Search with `devices=1`, then "
            "train the winner with as many as you like: `fit(model, ckpt_path=...)` resumes it without the search."
        )


def check_no_spawning(trainer: Trainer) -> None:
    """Raise SearchError if Lightning trains a copy of the module in processes that it starts for the fit."""
    method = spawning_start_method(trainer)
    if method is not None:
        raise SearchError(
            f"The search rebuilds the module that is given to `fit`, but {type(trainer.strategy).__name__} (start "
            f"method {method!r}: `ddp_spawn`, `ddp_fork`, `ddp_notebook`, XLA) trains a copy of it in "
            "a child process, and the weights that come back would not fit into the module here. Search with "
            '`strategy="auto"` and `devices=1`; to train the winner in several processes, start the script with '
            '`strategy="ddp"` and `fit(model, ckpt_path=...)`.'
        )


def check_results_are_writable(trainer: Trainer) -> None:
    """Raise SearchError if the outer fit could not write its results, before hours of search instead of after them.

    Checked are the directories of callbacks that have a `dirpath`, such as ModelCheckpoint, of loggers and of the
    profiler. Directories that are not on a local disk are left to Lightning.
    """
    for callback in callbacks_of(trainer):
        _check_local(getattr(callback, "dirpath", None), f"Give {type(callback).__name__} another `dirpath=`.")
    for logger in trainer.loggers:
        _check_local(logger.root_dir or logger.save_dir, f"Give {type(logger).__name__} another `save_dir=`.")
    profiler = profiler_of(trainer)
    if getattr(profiler, "filename", None):  # else it writes no file
        _check_local(profiler.dirpath, f"Give {type(profiler).__name__} another `dirpath=`.")
    if any(isinstance(cb, ModelCheckpoint) and cb.dirpath is None for cb in callbacks_of(trainer)):
        _check_local(trainer.default_root_dir, "Give the Trainer another `default_root_dir=`.")


def _check_local(directory: Any, remedy: str) -> None:
    if isinstance(directory, str | os.PathLike) and "://" not in (place := os.fspath(directory)):
        writable_directory(place, remedy)


def come_first(search: Callback, trainer: Trainer) -> list[Callback]:
    """Move the search before every callback that may keep a reference to the module.

    Returns:
        The callbacks whose `setup` has run already.

    Raises:
        MisconfigurationException: `setup` of a third party's callback has run; only the user knows if it may run again.
    """
    callbacks = callbacks_of(trainer)
    earlier = [cb for cb in callbacks[: callbacks.index(search)] if is_overridden("setup", cb, Callback)]
    foreign = [cb for cb in earlier if not _is_of_lightning(cb)]
    if foreign:
        names = ", ".join(type(cb).__name__ for cb in foreign)
        raise MisconfigurationException(
            f"{names} ran before {type(search).__name__} and may hold on to a module that the search rebuilds. "
            f"Put {type(search).__name__} first in `Trainer(callbacks=[...])`."
        )
    if earlier:
        callbacks.remove(search)
        callbacks.insert(0, search)
    return earlier


def set_up_again(search: Callback, trainer: Trainer, module: LightningModule, earlier: Sequence[Callback]) -> None:
    """Run `setup` of the callbacks that had seen the module before it was rebuilt."""
    if not earlier:
        return
    names = ", ".join(type(cb).__name__ for cb in earlier)
    rank_zero_info(f"{type(search).__name__} was moved before {names}, set up again for the rebuilt module.")
    for callback in earlier:
        callback.setup(trainer, module, "fit")


def save_cli_config(trainer: Trainer, module: LightningModule) -> None:
    """Let LightningCLI save its config before the search, so that an error comes before hours of trials."""
    cli = sys.modules.get("lightning.pytorch.cli")
    if cli is None:
        return
    for callback in callbacks_of(trainer):
        if isinstance(callback, cli.SaveConfigCallback):
            callback.setup(trainer, module, "fit")


def links_of_cli(trainer: Trainer) -> Links:
    """The linked arguments of the LightningCLI that made a Trainer, from its SaveConfigCallback; none without one."""
    cli = sys.modules.get("lightning.pytorch.cli")
    found = [] if cli is None else [cb for cb in callbacks_of(trainer) if isinstance(cb, cli.SaveConfigCallback)]
    return Links.of(found[0].parser, found[0].config) if found else Links()


def reattach(trainer: Trainer, module: LightningModule) -> None:
    """Set again what Lightning set on the module between `fit` and `setup`, and what rebuilding it undid."""
    move_device_attribute(module, trainer.strategy.root_device)
    attach_logging(trainer, module)


def end_before_training(trainer: Trainer) -> Minima:
    """End the fit without a step, even if `min_epochs` or `min_steps` ask for more; returns these two."""
    loop = trainer.fit_loop
    minima = loop.min_epochs, loop.epoch_loop.min_steps
    loop.min_epochs = loop.epoch_loop.min_steps = None
    trainer.should_stop = True
    return minima


def restore_minima(trainer: Trainer, minima: Minima) -> None:
    """Restore what `end_before_training` returned."""
    trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = minima


def _is_of_lightning(callback: Callback) -> bool:
    return type(callback).__module__.startswith((f"{pl.__name__}.", "lightning_autoarch."))
