"""What the names of a space set of a callback: arguments of its constructor. Here they come without their prefix.

every_n_steps, layer_decay    an argument
end                           a field of its schedule, which is replaced, so that the schedule's own checks run
sparsity                      the schedule's final sparsity, whatever its field is called
sparsity.encoder.*            the final sparsity of the layers that match: an entry of `scope`
weight.encoder, lr_scale.*    an entry of `weight`, of `lr_scale`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from lightning.pytorch import Callback

from lightning_autoarch.callbacks.joint.arguments import arguments, initialise_again_, remade
from lightning_autoarch.callbacks.joint.families import Family
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.penalized import Regularization
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import SpaceError, did_you_mean

# Objects; and what a checkpoint finds the callback by.
_NOT_VARIED = ("schedule", "distill", "name", "rules", "classes", "unfreeze", "lora", "example_inputs", "ramp")
_FINAL = ("sparsity", "final_sparsity")
_ENTRIES: dict[type[Callback], dict[str, str]] = {  # prefix of a pattern -> the argument that has patterns
    MagnitudePruning: {"sparsity": "scope"},
    Regularization: {"weight": "weight"},
    TransferLearning: {"lr_scale": "lr_scale", "lora": "lora"},
}

C = TypeVar("C", bound=Callback)


def check_names(family: Family, callback: Callback, names: Iterable[str]) -> None:
    """Each name sets something, and no two of them the same.

    Raises:
        SpaceError: naming the first that does not, and the nearest that would.
    """
    given, prefix = list(names), family.prefix
    known = [*_own(callback), *_fields(callback)]
    entries = {name: entry[0] for name in given if (entry := _entry(callback, name)) is not None}
    for name in given:
        if name not in known and name not in entries:
            near = did_you_mean(name, [*known, *(f"{before}.<pattern>" for before in _entries(callback))])
            raise SpaceError(
                f"`{prefix}{name}` of the space is no argument of {_described(callback)}."
                f"{near.replace('`', f'`{prefix}', 1)}"
            )
    for name, argument in entries.items():
        if argument in given:
            raise SpaceError(f"`{prefix}{argument}` and `{prefix}{name}` of the space set the same: leave one out.")
    by_layer = "scope" in entries.values() or isinstance(vars(callback).get("scope"), Mapping)
    if "sparsity" in given and "scope" not in given and by_layer:
        raise SpaceError(
            f"`{prefix}sparsity` of the space has no effect where `scope` says the sparsity of each layer: give "
            f"`{prefix}sparsity.<pattern>` alone."
        )


def takes(family: Family, callback: Callback, names: Iterable[str]) -> bool:
    """Whether `check_names` finds nothing."""
    try:
        check_names(family, callback, names)
    except SpaceError:
        return False
    return True


def changes(callback: Callback, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of its constructor that parameters set."""
    own, fields = _own(callback), _fields(callback)
    changed = {name: value for name, value in parameters.items() if name in own}
    replaced = {fields[name]: value for name, value in parameters.items() if name in fields and name not in own}
    if replaced:
        changed["schedule"] = dataclasses.replace(vars(callback)["schedule"], **replaced)
    new: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        entry = None if name in own or name in fields else _entry(callback, name)
        if entry is not None:
            new.setdefault(entry[0], {})[entry[1]] = value
    for argument, found in new.items():  # before those that are there: the first pattern that matches counts
        changed[argument] = {**found, **{k: v for k, v in _patterns(callback, argument).items() if k not in found}}
    return changed


def with_parameters(callback: C, parameters: Mapping[str, Any]) -> C:
    """Another one with these parameters, which knows of no fit."""
    return remade(callback, changes(callback, parameters))


def parametrise_(callback: Callback, parameters: Mapping[str, Any]) -> None:
    """Give these parameters to the callback itself; on any error it is as before."""
    if parameters:
        initialise_again_(callback, changes(callback, parameters))


def as_config(changed: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a config of LightningCLI has them: a schedule by its class path.

    >>> as_config({"scope": "erk", "every_n_steps": 9})
    {'scope': 'erk', 'every_n_steps': 9}
    """
    written: dict[str, Any] = {}
    for name, value in changed.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            kind = type(value)
            written[name] = {
                "class_path": f"{kind.__module__}.{kind.__qualname__}",
                "init_args": dataclasses.asdict(value),
            }
        else:
            written[name] = dict(value) if isinstance(value, Mapping) else value
    return written


def _own(callback: Callback) -> list[str]:
    return [name for name in arguments(callback) if name not in _NOT_VARIED]


def _fields(callback: Callback) -> dict[str, str]:
    """What a space calls the fields of the schedule -> their names."""
    schedule = vars(callback).get("schedule")
    if not dataclasses.is_dataclass(schedule) or "schedule" not in arguments(callback):
        return {}
    return {"sparsity" if field.name in _FINAL else field.name: field.name for field in dataclasses.fields(schedule)}


def _entries(callback: Callback) -> dict[str, str]:
    """Of `_ENTRIES` those whose argument its constructor has."""
    has = arguments(callback)
    found = [entries for kind, entries in _ENTRIES.items() if isinstance(callback, kind)]
    return {before: argument for entries in found for before, argument in entries.items() if argument in has}


def _entry(callback: Callback, name: str) -> tuple[str, str] | None:
    """The argument that has patterns, and the pattern; None for a name without one."""
    before, _, pattern = name.partition(".")
    argument = _entries(callback).get(before)
    return (argument, pattern) if argument is not None and pattern else None


def _patterns(callback: Callback, argument: str) -> dict[str, Any]:
    """What an argument says of each pattern; a number is that of all."""
    value = arguments(callback)[argument]
    if isinstance(value, Mapping):
        return dict(value)
    return {} if value is None or isinstance(value, str) else {"*": value}


def _described(callback: Callback) -> str:
    schedule = vars(callback).get("schedule")
    return type(callback).__name__ + (f" and no field of {type(schedule).__name__}" if schedule is not None else "")
