"""What a validation logs, before something is done to a module and after it."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

Scores = Mapping[str, float]  # empty where nothing validates


def validated(trainer: Trainer, module: LightningModule, datamodule: LightningDataModule | None) -> Scores:
    """What one validation logs."""
    source = module if datamodule is None else datamodule
    if not is_overridden("validation_step", module) or not is_overridden("val_dataloader", source):
        return {}
    scores: dict[str, float] = {}
    for logged in trainer.validate(module, datamodule=datamodule, verbose=False):
        scores |= logged
    return scores
