"""Learning rate schedulers of an optimizer whose groups were split: what they keep for each group follows.

Schedulers compute a group's rate from its base rate, or from the rate that it has: both are multiplied with the group's
factor, so the whole curve is. `eta_min` of a cosine is one number for all groups, a floor that is not multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.optim import Optimizer

from lightning_autoarch.core.errors import TransferError

RATES = ("base_lrs", "min_lrs", "max_lrs")
COPIED = ("lr_lambdas", "base_momentums", "max_momentums")


def follow_groups(scheduler: Any, optimizer: Optimizer, origins: Sequence[int], factors: Sequence[float]) -> None:
    """Give a scheduler one entry for each group of today.

    Args:
        scheduler: of torch, or alike, also one made of others.
        optimizer: whose groups were split.
        origins: for each group the number of the one that it was part of.
        factors: of its learning rate.

    Raises:
        TransferError: a floor of the scheduler is above the rate of a group: it would rise.
    """
    for each in _all(scheduler):
        if getattr(each, "optimizer", None) is not optimizer:
            continue
        for name in (*RATES, *COPIED):
            values = getattr(each, name, None)
            if isinstance(values, list) and values:
                scaled = name in RATES
                new = [values[i] * f if scaled else values[i] for i, f in zip(origins, factors, strict=True)]
                setattr(each, name, new)
        if getattr(each, "_last_lr", None) is not None:
            each._last_lr = [group["lr"] for group in optimizer.param_groups]
        _check_floor(each)


def _all(scheduler: Any) -> Iterator[Any]:
    """The scheduler, and those that it is made of."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _all(inner)


def _check_floor(scheduler: Any) -> None:
    floor, rates = getattr(scheduler, "eta_min", None), getattr(scheduler, "base_lrs", None)
    if floor and rates and min(map(float, rates)) < floor:
        raise TransferError(
            f"Expected `eta_min` of {type(scheduler).__name__} below the learning rate of every group, got {floor} and "
            f"{min(map(float, rates)):.3g}, which `layer_decay` and `lr_scale` make of the lowest: it would rise. "
            "Pass `eta_min=0`."
        )
