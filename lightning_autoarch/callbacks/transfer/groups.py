"""Parameter groups by identity: every trained parameter in one group of one optimizer, none twice.

The user's `configure_optimizers` sees each parameter that is trained at any time with `requires_grad=True`, so with
`filter(requires_grad)` or without, all have their group from the start, with the options that the user gave it. What is
not trained yet has no gradient, and an optimizer passes over it. Hence no group is ever added while training, and the
groups of a checkpoint are those that the same arguments make again.

Where learning rates differ within a group it is split; each part keeps all options, in the place of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.callbacks.transfer.schedulers import follow_groups
from lightning_autoarch.core.errors import TransferError

RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a group: OneCycleLR keeps its own there
Group = dict[str, Any]
KeyOf = Callable[[Parameter], tuple[float, Hashable]]  # factor of the learning rate, and what else parts a group


@dataclass(frozen=True)
class Split:
    """Which group of an optimizer came from which, and the factor of its learning rate."""

    optimizer: Optimizer
    origins: list[int]
    factors: list[float]

    def is_flat(self) -> bool:
        """Whether somebody has set one rate for all parts of a group that should differ."""
        rates: dict[int, set[float]] = {}
        factors: dict[int, set[float]] = {}
        for group, i, factor in zip(self.optimizer.param_groups, self.origins, self.factors, strict=True):
            rates.setdefault(i, set()).add(float(group["lr"]))
            factors.setdefault(i, set()).add(factor)
        return any(len(factors[i]) > 1 and len(rates[i]) == 1 for i in rates)

    def scale_again(self) -> None:
        """Multiply the rates with their factors."""
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = group["lr"] * factor


def check_each_once(optimizers: Sequence[Optimizer], trained: Mapping[str, Parameter]) -> None:
    """Each parameter in one group of one optimizer.

    Raises:
        TransferError: in none, or in more; by name.
    """
    places: dict[int, int] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                places[id(parameter)] = places.get(id(parameter), 0) + 1
    twice = [name for name, parameter in trained.items() if places.get(id(parameter), 0) > 1]
    if twice:
        raise TransferError(
            f"Expected each parameter in one optimizer, got {_few(twice)} in more. Give each to one of them in "
            "`configure_optimizers`."
        )
    none = [name for name, parameter in trained.items() if id(parameter) not in places]
    if none:
        raise TransferError(
            f"Expected each trained parameter in an optimizer, got {_few(none)} in none: it would never learn. Give it "
            "to one in `configure_optimizers`, or name it in `freeze`."
        )


def add_missing(optimizers: Sequence[Optimizer], later: Mapping[str, Parameter]) -> int | None:
    """Put what thaws while training, and is in no optimizer, into a group of its own with the options of the first.

    Args:
        optimizers: the fit's.
        later: name -> parameter of what is thawed while training.

    Returns:
        How many groups the optimizer had before one was added; None where none was.

    Raises:
        TransferError: there are several optimizers, so nobody knows which.
    """
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    missing = {name: p for name, p in later.items() if id(p) not in held}
    if not missing or not optimizers:
        return None
    if len(optimizers) > 1:
        raise TransferError(
            f"Expected what is thawed while training in one of the {len(optimizers)} optimizers, got {_few(missing)} "
            "in none. Give it to one of them in `configure_optimizers`."
        )
    (optimizer,) = optimizers
    had = len(optimizer.param_groups)
    first = optimizer.param_groups[0]
    options = {key: value for key, value in first.items() if key not in ("params", "param_names", "name")}
    named = list(missing.items()) if "param_names" in first else list(missing.values())
    optimizer.add_param_group({"params": named, **options, **({"name": "thawed"} if "name" in first else {})})
    return had


def split_groups(optimizer: Optimizer, key_of: KeyOf, schedulers: Sequence[Any], had: int | None = None) -> Split:
    """Split the groups of an optimizer so that in each all parameters have one key; schedulers follow.

    Args:
        optimizer: changed in place; its state stays with the parameters.
        key_of: of a parameter.
        schedulers: those of all optimizers.
        had: how many groups it had when its schedulers were made, where one was added since.

    Raises:
        TransferError: it cannot have several groups, or no learning rate to multiply.
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
    """A group by key, in the order of its parameters. A group that is not split stays the same dict."""
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
            "Expected one learning rate for LBFGS, which knows no parameter groups; leave out `layer_decay`, "
            "`lr_scale` and `warmup_epochs`, or take another optimizer."
        )


def _few(names: Collection[str]) -> str:
    some = list(names)[:3]
    return ", ".join(f"`{name}`" for name in some) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
