"""How much of a fit is done, as a fraction, and whether it ends by itself."""

from __future__ import annotations

from lightning.pytorch import Trainer


def is_finite(trainer: Trainer) -> bool:
    """Whether `max_epochs` or `max_steps` ends the fit."""
    return trainer.max_epochs not in (None, -1) or trainer.max_steps != -1


def fraction_done(trainer: Trainer, batch_idx: int) -> float:
    """Of the fit, before this batch: by epochs or by optimizer steps, whichever ends it first."""
    by_steps = trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 0.0
    if trainer.max_epochs is None or trainer.max_epochs <= 0:
        return by_steps
    epochs = trainer.current_epoch + batch_idx / trainer.num_training_batches  # of unknown length: inf batches
    return max(by_steps, epochs / trainer.max_epochs)
