"""The values that a validation logs, to compare a module before and after a change."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

Scores = Mapping[str, float]  # empty if nothing validates


def validated(trainer: Trainer, module: LightningModule, datamodule: LightningDataModule | None) -> Scores:
    """Run one validation and return what it logs; nothing if the module or its data do not validate."""
    source = module if datamodule is None else datamodule
    if not is_overridden("validation_step", module) or not is_overridden("val_dataloader", source):
        return {}
    scores: dict[str, float] = {}
    for logged in trainer.validate(module, datamodule=datamodule, verbose=False):
        scores |= logged
    return scores
