"""How each block of a module is trained, in a few numbers: from when on, and how fast against the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_autoarch.callbacks.transfer.recipe import Plan
from lightning_autoarch.transfer.tune.clock import Clock, Timetable
from lightning_autoarch.transfer.tune.thawing import Thaw

Span = tuple[int, int] | None  # the first and the last time


@dataclass(frozen=True)
class Block:
    """Layers that are trained alike, from the input to the output.

    Attributes:
        name: of the modules around its parameters.
        parameters: how many numbers.
        frozen: how many of them are never trained, as far as is known: what a metric has not thawed yet is among them.
        epochs: the first and the last epoch from which one of the others is trained; None where it is not known.
        rates: the least and the greatest factor of the learning rate.
        steps: how many optimizer steps were taken before those epochs; None where it is not known.
    """

    name: str
    parameters: int
    frozen: int
    epochs: Span
    rates: tuple[float, float]
    steps: Span = None


def described(plan: Plan, phases: Thaw, clock: Clock, *, as_planned: bool = True) -> tuple[Block, ...]:
    """Each block of a plan.

    Args:
        plan: of a module.
        phases: name -> the phase from which on it is trained.
        clock: that says when phases begin.
        as_planned: whether what a timetable says counts as well, or only what has begun.
    """
    return tuple(_block(plan, phases, clock, names, as_planned) for names in plan.blocks if names)


def _block(plan: Plan, phases: Thaw, clock: Clock, names: Sequence[str], as_planned: bool) -> Block:
    numels = {name: plan.names.parameters[name].numel() for name in names}
    known = {name: phase for name in names if (phase := phases[name]) is not None}
    times = {
        name: [_time(clock, phase, unit, as_planned) for unit in ("epoch", "step")] for name, phase in known.items()
    }
    trained = {name: pair for name, pair in times.items() if pair != [None, None]}
    factors = [plan.factors.get(name, 1.0) for name in trained or names]
    return Block(
        name=_around(names),
        parameters=sum(numels.values()),
        frozen=sum(numel for name, numel in numels.items() if name not in trained),
        epochs=_span([epoch for epoch, _ in trained.values()]),
        rates=(min(factors), max(factors)),
        steps=_span([step for _, step in trained.values()]),
    )


def _time(clock: Clock, phase: int, unit: str, as_planned: bool) -> int | None:
    """When a phase begins; None where that is not known."""
    began, rule = clock.began(phase), clock.rule
    if began is not None:
        return began.of(unit)
    return rule.begins[phase - 1] if as_planned and isinstance(rule, Timetable) and rule.unit == unit else None


def _span(times: Sequence[int | None]) -> Span:
    known = [time for time in times if time is not None]
    return (min(known), max(known)) if known and len(known) == len(times) else None


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
