"""What pruning asks a Trainer: how many steps a fit has, which averages of the module there are, if ranks agree."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from torch import nn

from lightning_autoarch.seam.lightning import average_of, callbacks_of


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole fit; None where it has no known end.

    Under manual optimization every optimizer is taken to step once a batch; `max_steps` counts the steps of all.
    """
    estimated = trainer.estimated_stepping_batches
    if math.isinf(estimated):
        return None
    steps = max(0, int(estimated))  # -1 of no batches
    if trainer.lightning_module.automatic_optimization:
        return steps
    total = steps * max(1, len(trainer.optimizers))
    return total if trainer.max_steps == -1 else min(total, trainer.max_steps)


def averages(trainer: Trainer) -> Iterator[nn.Module]:
    """Running averages of the module that callbacks of Lightning keep (`WeightAveraging`, SWA)."""
    yield from filter(None, map(average_of, callbacks_of(trainer)))


def assert_ranks_agree(strategy: Strategy, digest: bytes, callback: object) -> None:
    """Raises RuntimeError on every rank where one has pruned other weights."""
    mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(strategy.root_device)
    everybody = strategy.all_gather(mine)
    if not bool((everybody == mine).all()):
        raise RuntimeError(
            f"{type(callback).__name__} chose other masks on another rank: the weights differ between ranks. Is a "
            "parameter changed outside of the optimizer, or left out of the synchronisation?"
        )
