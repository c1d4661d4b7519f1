"""What a fit is surrounded by: the length and the moments of the Trainer, its metrics, and other callbacks.

Steps are those of `trainer.global_step`, which `max_steps` counts too: one for several batches with gradient
accumulation, and one for each `step()` of each optimizer with manual optimization.

Lightning's finders of a learning rate and of a batch size train inside their own `on_fit_start`, so groups and frozen
layers have to be in place by then. Lightning's `BaseFinetuning` freezes and thaws layers itself.
"""

from __future__ import annotations

import math

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
)

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.seam.lightning import callbacks_of, fast_dev_run
from lightning_autoarch.transfer.tune.clock import Length, Moment
from lightning_autoarch.transfer.tune.thawing import Thawing

LONG = 10**6  # epochs that are planned for with `fast_dev_run`, which stops after one


def planned(trainer: Trainer) -> Length:
    """The length by the Trainer's arguments, before data are loaded."""
    if fast_dev_run(trainer):
        return Length(LONG)
    epochs, steps = trainer.max_epochs, trainer.max_steps
    return Length(None if epochs is None or epochs < 0 else epochs, steps if steps >= 0 else None)


def measured(trainer: Trainer, module: LightningModule) -> Length:
    """The length with the number of batches, which is known when training starts.

    With manual optimization, or a changing accumulation, the number of steps in an epoch is unknown.
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
    """The moment before a batch. In an epoch of unknown length the position is that of its start."""
    batches, epoch = trainer.num_training_batches, trainer.current_epoch
    part = batch_idx / batches if batch_idx else 0.0
    return Moment(epoch, trainer.global_step, epoch + part)


def begins_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a batch is the first one of an optimizer step."""
    return batch_idx % trainer.accumulate_grad_batches == 0


def check_validation(thawing: Thawing, trainer: Trainer) -> None:
    """Raise TransferError if `monitor` cannot thaw anything because there are too few validations, or none."""
    if thawing.monitor is None or fast_dev_run(trainer):
        return
    if not trainer.enable_validation:
        raise TransferError(
            f"Expected a validation that logs `{thawing.monitor}`, for `monitor` to thaw by, but this fit has none. "
            "Pass validation data to `fit`, define a `validation_step`, keep `limit_val_batches` above 0, or thaw by "
            "`every` alone."
        )
    epochs, every = planned(trainer).epochs, trainer.check_val_every_n_epoch
    if epochs is None or every is None or trainer.val_check_interval != 1.0 or thawing.every is not None:
        return
    if isinstance(trainer.val_check_interval, float) and (thawing.patience + 1) * every >= epochs:
        checks = (epochs - 1) // every
        raise TransferError(
            f"Expected more than `patience` validations before the last epoch, got `patience={thawing.patience}` and "
            f"{checks} of them: the first one is the value that others are compared with, so nothing would ever thaw. "
            "Pass a smaller `patience`, `every` as the longest time between two blocks, or train longer."
        )


def monitored(trainer: Trainer, name: str) -> float:
    """The value of a metric, the same on every rank.

    Raises:
        TransferError: It has not been logged, or is not a single number.
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


def come_before_tuners(callback: Callback, trainer: Trainer) -> None:
    """Move a callback before the first finder of a learning rate or batch size."""
    callbacks = callbacks_of(trainer)
    finders = [i for i, other in enumerate(callbacks) if isinstance(other, BatchSizeFinder | LearningRateFinder)]
    here = callbacks.index(callback) if callback in callbacks else 0
    if finders and finders[0] < here:
        callbacks.insert(finders[0], callbacks.pop(here))


def check_alone(callback: Callback, trainer: Trainer) -> None:
    """Raise TransferError if another callback freezes and thaws layers too."""
    callbacks = callbacks_of(trainer)
    other = next((each for each in callbacks if isinstance(each, BaseFinetuning)), None)
    if other is not None:
        name = type(other).__name__
        raise TransferError(
            f"{type(callback).__name__} and {name} both freeze layers and decide when they train. Remove {name} and "
            'choose a `strategy`, such as "gradual" or "lp_ft"; or keep it, and take the weights over before `fit` by '
            "`transfer_weights(module, checkpoint)`."
        )
