"""A Trainer as the clock of thawing sees it: how long the fit is, which moment it is, and what a metric is worth.

Steps are those of `trainer.global_step`, which `max_steps` counts too: with gradient accumulation one for several
batches, with manual optimization each `step()` of each optimizer.
"""

from __future__ import annotations

import math

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_autoarch.callbacks.transfer.recipe import Recipe
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.seam.lightning import callbacks_of, fast_dev_run
from lightning_autoarch.transfer.tune.clock import Length, Moment

LONG = 10**6  # epochs of a fit that `fast_dev_run` cuts off after one: nothing is planned for that one


def planned(trainer: Trainer) -> Length:
    """As the Trainer's arguments say, before there are data."""
    if fast_dev_run(trainer):
        return Length(LONG)
    epochs, steps = trainer.max_epochs, trainer.max_steps
    return Length(None if epochs is None or epochs < 0 else epochs, steps if steps >= 0 else None)


def measured(trainer: Trainer, module: LightningModule) -> Length:
    """With the number of batches, which is known when training starts.

    With manual optimization, or an accumulation that changes, nobody knows how many steps an epoch has.
    """
    length, batches = planned(trainer), trainer.num_training_batches
    callbacks = callbacks_of(trainer)
    changes = any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks)
    if length.epochs in (None, LONG) or math.isinf(batches) or changes or not module.automatic_optimization:
        return length
    assert length.epochs is not None
    steps = length.epochs * math.ceil(batches / trainer.accumulate_grad_batches)
    return length._replace(steps=steps if length.steps is None else min(steps, length.steps))


def moment(trainer: Trainer, batch_idx: int = 0) -> Moment:
    """Before a batch. Within an epoch of unknown length the position is that of its beginning."""
    batches, epoch = trainer.num_training_batches, trainer.current_epoch
    part = batch_idx / batches if batch_idx else 0.0
    return Moment(epoch, trainer.global_step, epoch + part)


def begins_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether no gradients of batches before are waiting for the step that this batch is part of."""
    return batch_idx % trainer.accumulate_grad_batches == 0


def check_validation(recipe: Recipe, trainer: Trainer) -> None:
    """Raises TransferError where `monitor` cannot thaw anything: too few validations, or none."""
    if recipe.monitor is None or fast_dev_run(trainer):
        return
    if not trainer.enable_validation:
        raise TransferError(
            f"Expected a validation that logs `{recipe.monitor}`, for `monitor` to thaw by, but this fit has none. "
            "Give `fit` validation data and the module a `validation_step`, leave `limit_val_batches` above 0, or thaw "
            "by `thaw_every` alone."
        )
    epochs, every = planned(trainer).epochs, trainer.check_val_every_n_epoch
    if epochs is None or every is None or trainer.val_check_interval != 1.0 or recipe.thaw_every is not None:
        return
    if isinstance(trainer.val_check_interval, float) and (recipe.patience + 1) * every >= epochs:
        checks = (epochs - 1) // every
        raise TransferError(
            f"Expected more than `patience` validations before the last epoch, got `patience={recipe.patience}` and "
            f"{checks} of them: the first one is the value that others are compared with, so nothing would ever thaw. "
            "Pass a smaller `patience`, `thaw_every` as the longest time between two blocks, or train longer."
        )


def monitored(trainer: Trainer, name: str) -> float:
    """The value of a metric, the same on every rank.

    Raises:
        TransferError: nothing of this name has been logged, or it is no single number.
    """
    logged = trainer.callback_metrics
    if name not in logged:
        names = ", ".join(f"`{each}`" for each in sorted(logged)) or "nothing"
        raise TransferError(
            f"Expected `monitor` to name a metric that is logged, got {name!r}. After validation there is {names}. Log "
            f"it in `validation_step`, `self.log({name!r}, ...)`, or pass another `monitor`."
        )
    value = logged[name]
    if value.numel() != 1:
        raise TransferError(f"Expected `{name}` of `monitor` to be one number, got a tensor {tuple(value.shape)}.")
    return float(trainer.strategy.reduce(value.detach().float().reshape(()), reduce_op="mean"))
