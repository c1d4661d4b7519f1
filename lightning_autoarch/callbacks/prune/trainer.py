"""What pruning asks a Trainer: the length of the fit, averages of the module, agreement of ranks, what is ever trained.

What is pruned is looked for once, when a fit starts. A callback that thaws layers step by step has frozen most of them
by then: what is trained at any time of the fit is a target like any other.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.nn import Parameter

from lightning_autoarch.seam.lightning import average_of, callbacks_of


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole fit; None if it has no known end.

    Under manual optimization every optimizer is assumed to step once for each batch; `max_steps` counts all steps.
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
    """The averages of the module that callbacks of Lightning keep (`WeightAveraging`, SWA)."""
    yield from filter(None, map(average_of, callbacks_of(trainer)))


def assert_ranks_agree(strategy: Strategy, digest: bytes, callback: object) -> None:
    """Raises RuntimeError on every rank if one has pruned other weights."""
    mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(strategy.root_device)
    everybody = strategy.all_gather(mine)
    if not bool((everybody == mine).all()):
        raise RuntimeError(
            f"{type(callback).__name__} chose other masks on another rank: the weights differ between ranks. Is a "
            "parameter changed outside of the optimizer, or left out of the synchronisation?"
        )


def is_finite(trainer: Trainer) -> bool:
    """Whether `max_epochs` or `max_steps` ends the fit."""
    return trainer.max_epochs not in (None, -1) or trainer.max_steps != -1


def fraction_done(trainer: Trainer, batch_idx: int) -> float:
    """The fraction of the fit that is done before this batch, by epochs or optimizer steps, whichever ends it first."""
    by_steps = trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 0.0
    if trainer.max_epochs is None or trainer.max_epochs <= 0:
        return by_steps
    epochs = trainer.current_epoch + batch_idx / trainer.num_training_batches  # inf batches if the length is unknown
    return max(by_steps, epochs / trainer.max_epochs)


def number(callback: Callback, trainer: Trainer) -> str:
    """The suffix of logged names: none for the Trainer's first callback of a class, `_2` for the second, ..."""
    kin = [cb for cb in callbacks_of(trainer) if type(cb) is type(callback)]
    index = next((i for i, cb in enumerate(kin) if cb is callback), 0)
    return f"_{index + 1}" if index else ""


@runtime_checkable
class ThawsLater(Protocol):
    """A callback that trains some parameters during a part of the fit only."""

    def thawed_later(self) -> Iterable[Parameter]: ...


@contextlib.contextmanager
def as_ever_trained(trainer: Trainer) -> Iterator[None]:
    """Within the context, every parameter that is trained at any time of the fit requires a gradient."""
    callbacks = callbacks_of(trainer)
    frozen = [parameter for each in callbacks if isinstance(each, ThawsLater) for parameter in each.thawed_later()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
