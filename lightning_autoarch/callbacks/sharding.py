"""Strategies under which no process holds whole parameters, and the error of callbacks that need them."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_autoarch.core.errors import PruneValueError

SHARDED = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)


def check_whole_parameters(callback: Callback, trainer: Trainer) -> None:
    """Raise PruneValueError if the strategy shards parameters."""
    if isinstance(trainer.strategy, SHARDED):
        raise PruneValueError(
            f"{type(callback).__name__} needs whole parameters in every process, but "
            f"{type(trainer.strategy).__name__} shards them. Train with `strategy='ddp'`, or on one device."
        )
