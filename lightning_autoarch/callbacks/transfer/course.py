"""How each block of a module is trained, in a few numbers: from which epoch, and how fast against the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_autoarch.callbacks.transfer.recipe import Plan
from lightning_autoarch.transfer.thawing import Thaw


@dataclass(frozen=True)
class Block:
    """Layers that are trained alike, from the input to the output.

    Attributes:
        name: of the modules around its parameters.
        parameters: how many numbers.
        frozen: how many of them are never trained.
        epochs: the first and the last from which one of the others is trained; None where all are frozen.
        rates: the least and the greatest factor of the learning rate.
    """

    name: str
    parameters: int
    frozen: int
    epochs: tuple[int, int] | None
    rates: tuple[float, float]


def described(plan: Plan, thaw: Thaw) -> tuple[Block, ...]:
    """Of each block of a plan."""
    return tuple(_block(plan, thaw, names) for names in plan.blocks if names)


def _block(plan: Plan, thaw: Thaw, names: Sequence[str]) -> Block:
    numels = {name: plan.names.parameters[name].numel() for name in names}
    trained = {name: epoch for name in names if (epoch := thaw[name]) is not None}
    factors = [plan.factors.get(name, 1.0) for name in trained or names]
    return Block(
        name=_around(names),
        parameters=sum(numels.values()),
        frozen=sum(numel for name, numel in numels.items() if name not in trained),
        epochs=(min(trained.values()), max(trained.values())) if trained else None,
        rates=(min(factors), max(factors)),
    )


def _around(names: Sequence[str]) -> str:
    """The module that holds them all, or the first and the last.

    >>> _around(["net.0.weight", "net.0.bias"]), _around(["net.0.weight", "net.1.bias"])
    ('net.0', 'net.0 to net.1')
    """
    owners = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    shared = [part for part in _shared(owners) if part]
    if len(owners) > 1 and len(shared) > 1:
        return ".".join(shared)
    return owners[0] if len(owners) == 1 else f"{owners[0]} to {owners[-1]}"


def _shared(owners: Sequence[str]) -> list[str]:
    shared = []
    for parts in zip(*(owner.split(".") for owner in owners), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared
