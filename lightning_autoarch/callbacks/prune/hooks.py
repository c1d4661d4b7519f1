"""What pruning needs of a Trainer: a place after every optimizer step, averages of the module, ranks that agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

SHARDING = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)


def refuse_sharding(strategy: Strategy, callback: object) -> None:
    """Raises MisconfigurationException where a process holds only a part of each parameter."""
    if isinstance(strategy, SHARDING):
        name = type(strategy).__name__
        raise MisconfigurationException(
            f"{type(callback).__name__} works on whole parameters, which {name} cuts into parts. Train with DDP or "
            "on one device, or prune before or after."
        )


def after_each_step(trainer: Trainer, function: Callable[[torch.optim.Optimizer], None]) -> list[RemovableHandle]:
    """Call `function` after every step of every optimizer, also in manual optimization; the handles undo it."""

    def hook(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        function(optimizer)

    return [optimizer.register_step_post_hook(hook) for optimizer in trainer.optimizers]


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole fit; None where it has no known end.

    Under manual optimization every optimizer is taken to step once a batch.
    """
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        return None
    return int(steps) * (1 if trainer.lightning_module.automatic_optimization else max(1, len(trainer.optimizers)))


def averages(trainer: Trainer) -> Iterator[nn.Module]:
    """Running averages of the module that callbacks of Lightning keep (`WeightAveraging`, SWA)."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        average = getattr(callback, "_average_model", None)
        if isinstance(average, nn.Module):
            yield average.module if isinstance(average, AveragedModel) else average


def assert_ranks_agree(strategy: Strategy, digest: bytes, callback: object) -> None:
    """Raises RuntimeError on every rank where one has pruned other weights."""
    mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(strategy.root_device)
    everybody = strategy.all_gather(mine)
    if not bool((everybody == mine).all()):
        raise RuntimeError(
            f"{type(callback).__name__} chose other masks on another rank: the weights differ between ranks. Is a "
            "parameter changed outside of the optimizer, or left out of the synchronisation?"
        )
