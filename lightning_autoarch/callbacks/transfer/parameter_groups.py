"""Parameter groups: every trained parameter is in one group of one optimizer, and none is in two.

The user's `configure_optimizers` sees each parameter that is ever trained with `requires_grad=True`. So with or without
`filter(requires_grad)` all of them have their group from the start, with the user's options. What is not trained yet
has no gradient, and an optimizer skips it. Hence no group is ever added during training, and the same arguments make
the groups of a checkpoint again.

If learning rates differ within a group it is split; each part keeps all options, in the place of the whole. Learning
rate schedulers compute the rate of a group from its base rate, or from its current rate: both are multiplied by the
factor of the group, and with them the whole curve. `eta_min` of a cosine is one number for all groups, a floor that is
not multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.core.errors import TransferError

SCHEDULED_RATES = ("base_lrs", "min_lrs", "max_lrs")
COPIED = ("lr_lambdas", "base_momentums", "max_momentums")


def follow_groups(scheduler: Any, optimizer: Optimizer, origins: Sequence[int], factors: Sequence[float]) -> None:
    """Give a scheduler one entry for each group of a split optimizer.

    Args:
        scheduler: A scheduler of torch or like those of torch, also one that consists of others.
        optimizer: The optimizer whose groups were split.
        origins: For each group, the number of the group that it was part of.
        factors: For each group, the factor of its learning rate.

    Raises:
        TransferError: A floor of the scheduler is above the rate of a group, which would rise.
    """
    for each in _all(scheduler):
        if getattr(each, "optimizer", None) is not optimizer:
            continue
        for name in (*SCHEDULED_RATES, *COPIED):
            values = getattr(each, name, None)
            if isinstance(values, list) and values:
                scaled = name in SCHEDULED_RATES
                new = [values[i] * f if scaled else values[i] for i, f in zip(origins, factors, strict=True)]
                setattr(each, name, new)
        if getattr(each, "_last_lr", None) is not None:
            each._last_lr = [group["lr"] for group in optimizer.param_groups]
        _check_floor(each)


def _all(scheduler: Any) -> Iterator[Any]:
    """The scheduler, and those that it consists of."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _all(inner)


def _check_floor(scheduler: Any) -> None:
    floor, rates = getattr(scheduler, "eta_min", None), getattr(scheduler, "base_lrs", None)
    if floor and rates and min(map(float, rates)) < floor:
        raise TransferError(
            f"Expected `eta_min` of {type(scheduler).__name__} below the learning rate of every group, got {floor} and "
            f"{min(map(float, rates)):.3g}, the lowest rate with `layer_decay` and `lr_scale`: it would rise. "
            "Pass `eta_min=0`."
        )


RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a group; the last two are those of OneCycleLR
Group = dict[str, Any]
KeyOf = Callable[[Parameter], tuple[float, Hashable]]  # the factor of the learning rate, and what else splits a group


@dataclass(frozen=True)
class Split:
    """For each group of an optimizer, the group that it was part of, and the factor of its learning rate."""

    optimizer: Optimizer
    origins: list[int]
    factors: list[float]

    def is_flat(self) -> bool:
        """Whether other code has set one rate for parts of a group that should have different ones."""
        rates: dict[int, set[float]] = {}
        factors: dict[int, set[float]] = {}
        for group, i, factor in zip(self.optimizer.param_groups, self.origins, self.factors, strict=True):
            rates.setdefault(i, set()).add(float(group["lr"]))
            factors.setdefault(i, set()).add(factor)
        return any(len(factors[i]) > 1 and len(rates[i]) == 1 for i in rates)

    def scale_again(self) -> None:
        """Multiply the rates by their factors."""
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = group["lr"] * factor


def check_each_once(optimizers: Sequence[Optimizer], trained: Mapping[str, Parameter]) -> None:
    """Check that each parameter is in one group of one optimizer.

    Raises:
        TransferError: One is in none, or in several. The message names it.
    """
    places: dict[int, int] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                places[id(parameter)] = places.get(id(parameter), 0) + 1
    twice = [name for name, parameter in trained.items() if places.get(id(parameter), 0) > 1]
    if twice:
        raise TransferError(
            f"Expected each parameter in one optimizer, got {_few(twice)} in several. Pass each to one of them in "
            "`configure_optimizers`."
        )
    none = [name for name, parameter in trained.items() if id(parameter) not in places]
    if none:
        raise TransferError(
            f"Expected each trained parameter in an optimizer, got {_few(none)} in none: it would never learn. Pass it "
            "to one in `configure_optimizers`, or name it in `freeze`."
        )


def add_missing(optimizers: Sequence[Optimizer], later: Mapping[str, Parameter]) -> int | None:
    """Put what thaws during training, and is in no optimizer, into a group of its own with the options of the first.

    Args:
        optimizers: The optimizers of the fit.
        later: Name -> parameter that thaws during training.

    Returns:
        The number of groups before one was added; None if none was added.

    Raises:
        TransferError: There are several optimizers, so that it is ambiguous which one to use.
    """
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    missing = {name: p for name, p in later.items() if id(p) not in held}
    if not missing or not optimizers:
        return None
    if len(optimizers) > 1:
        raise TransferError(
            f"Expected what thaws during training in one of the {len(optimizers)} optimizers, got {_few(missing)} "
            "in none. Pass it to one of them in `configure_optimizers`."
        )
    (optimizer,) = optimizers
    had = len(optimizer.param_groups)
    first = optimizer.param_groups[0]
    options = {key: value for key, value in first.items() if key not in ("params", "param_names", "name")}
    named = list(missing.items()) if "param_names" in first else list(missing.values())
    optimizer.add_param_group({"params": named, **options, **({"name": "thawed"} if "name" in first else {})})
    return had


def split_groups(optimizer: Optimizer, key_of: KeyOf, schedulers: Sequence[Any], had: int | None = None) -> Split:
    """Split the groups of an optimizer so that all parameters of a group have one key, and adapt schedulers.

    Args:
        optimizer: The optimizer, changed in place. Its state stays with the parameters.
        key_of: The key of a parameter.
        schedulers: The schedulers of all optimizers.
        had: The number of groups when the schedulers were made, if a group was added since.

    Raises:
        TransferError: The optimizer cannot have several groups, or has no learning rate to multiply.
    """
    parts: list[Group] = []
    origins: list[int] = []
    factors: list[float] = []
    for i, group in enumerate(optimizer.param_groups):
        found = _parts(group, key_of)
        for number, (factor, part) in enumerate(found):
            parts.append(_scaled(part, factor, f"/{number}" if len(found) > 1 else ""))
            origins.append(0 if had is not None and i >= had else i)
            factors.append(factor)
    _check_splittable(optimizer, len(parts))
    optimizer.param_groups[:] = parts
    if origins != list(range(had or len(parts))) or set(factors) != {1.0}:
        for scheduler in schedulers:
            follow_groups(scheduler, optimizer, origins, factors)
    return Split(optimizer, origins, factors)


def _parts(group: Group, key_of: KeyOf) -> list[tuple[float, Group]]:
    """The parts of a group by key, in the order of its parameters. A group that is not split stays the same dict."""
    indices: dict[tuple[float, Hashable], list[int]] = {}
    for i, parameter in enumerate(group["params"]):
        indices.setdefault(key_of(parameter), []).append(i)
    if len(indices) <= 1:
        return [(next(iter(indices), (1.0, None))[0], group)]
    lists = [name for name in ("params", "param_names") if name in group]
    return [
        (factor, {**group, **{name: [group[name][i] for i in chosen] for name in lists}})
        for (factor, _), chosen in indices.items()
    ]


def _scaled(group: Group, factor: float, suffix: str) -> Group:
    if suffix and "name" in group:
        group["name"] = f"{group['name']}{suffix}"
    if factor == 1.0:
        return group
    if not isinstance(group.get("lr"), int | float | torch.Tensor):
        raise TransferError(
            f"Expected a learning rate in each parameter group, for `layer_decay` and `lr_scale` to multiply, got "
            f"{group.get('lr')!r}."
        )
    group.update({name: group[name] * factor for name in RATES if name in group})
    return group


def _check_splittable(optimizer: Optimizer, parts: int) -> None:
    if isinstance(optimizer, torch.optim.LBFGS) and parts > 1:
        raise TransferError(
            "Expected one learning rate for LBFGS, which has no parameter groups; remove `layer_decay`, "
            "`lr_scale` and `warmup_epochs`, or use another optimizer."
        )


def _few(names: Collection[str]) -> str:
    some = list(names)[:3]
    return ", ".join(f"`{name}`" for name in some) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
