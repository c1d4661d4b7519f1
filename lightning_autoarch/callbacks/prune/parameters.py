"""What a search space may vary of a pruning callback: names of the space become arguments of its constructor.

    prune.every_n_steps         an argument
    prune.end                   a field of its schedule, which is replaced, so that the schedule's own checks run
    prune.sparsity              the schedule's final sparsity, whatever its field is called
    prune.sparsity.encoder.*    the final sparsity of the layers that match: an entry of `scope`

What the other arguments were is read from the attributes of their names, as of scikit-learn's estimators.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.errors import SearchError, SpaceError, did_you_mean
from lightning_autoarch.search.space import BY_LAYER, Architecture

PREFIX = "prune."
_BY_LAYER = BY_LAYER.removeprefix(PREFIX)
_NOT_VARIED = ("schedule", "distill", "name")  # objects; what a checkpoint finds the callback by
_KEPT_AS = {"sparsity": "target_sparsity"}  # where `sparsity` is what is reached
_FINAL = ("sparsity", "final_sparsity")

C = TypeVar("C", bound=MaskedTraining)


def pruning_part(architecture: Mapping[str, Any]) -> Architecture:
    """The `prune.*` part of an architecture, without its prefix.

    >>> pruning_part({"width": 8, "prune.sparsity": 0.9})
    {'sparsity': 0.9}
    """
    return {name.removeprefix(PREFIX): value for name, value in architecture.items() if name.startswith(PREFIX)}


def arguments(callback: MaskedTraining) -> dict[str, Any]:
    """With what its constructor would make this callback.

    Raises:
        SearchError: an argument is not kept as an attribute.
    """
    found: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(type(callback).__init__).parameters.items())[1:]:
        kept = name if name in vars(callback) else _KEPT_AS.get(name, name)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or kept not in vars(callback):
            raise SearchError(
                f"{type(callback).__name__} cannot be made again with other parameters: its `__init__` must name every "
                f"argument and keep it as an attribute of that name, but `{name}` is none."
            )
        found[name] = vars(callback)[kept]
    return found


def check_names(callback: MaskedTraining, names: Iterable[str]) -> None:
    """Each name (without `prune.`) sets something, and no two of them the same.

    Raises:
        SpaceError: naming the first that does not, and the nearest that would.
    """
    given = list(names)
    known = [*_own(callback), *_fields(callback)]
    takes_layers = isinstance(callback, MagnitudePruning) and "scope" in known
    by_layer = [name for name in given if name.startswith(_BY_LAYER)]
    for name in given:
        if name not in known and not (name in by_layer and takes_layers):
            near = did_you_mean(name, known).replace("`", f"`{PREFIX}", 1)
            raise SpaceError(f"`{PREFIX}{name}` of the space is no argument of {_described(callback)}.{near}")
    if by_layer and "scope" in given:
        raise SpaceError(f"`{PREFIX}scope` and `{PREFIX}{by_layer[0]}` of the space set the same: leave one out.")
    if "sparsity" in given and "scope" not in given and (by_layer or _is_by_layer(callback)):
        raise SpaceError(
            f"`{PREFIX}sparsity` of the space has no effect where `scope` says the sparsity of each layer: give "
            f"`{BY_LAYER}<pattern>` alone."
        )


def changes(callback: MaskedTraining, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of its constructor that parameters (without `prune.`) set."""
    own, fields = _own(callback), _fields(callback)
    changed = {name: value for name, value in parameters.items() if name in own}
    replaced = {fields[name]: value for name, value in parameters.items() if name in fields and name not in own}
    if replaced:
        changed["schedule"] = dataclasses.replace(vars(callback)["schedule"], **replaced)
    layers = {n.removeprefix(_BY_LAYER): value for n, value in parameters.items() if n.startswith(_BY_LAYER)}
    if layers:  # before those that are there: the first pattern that matches counts
        others: dict[str, float] = vars(callback)["scope"] if _is_by_layer(callback) else {}
        changed["scope"] = {**layers, **{pattern: v for pattern, v in others.items() if pattern not in layers}}
    return changed


def remade(callback: C, parameters: Mapping[str, Any]) -> C:
    """Another one with these parameters (without `prune.`), which knows of no fit. Arguments are shared, not copied."""
    return type(callback)(**{**arguments(callback), **changes(callback, parameters)})


def parametrise_(callback: MaskedTraining, parameters: Mapping[str, Any]) -> None:
    """Run its constructor again with these parameters (without `prune.`); on any error it is as before."""
    if not parameters:
        return
    old = dict(vars(callback))
    given = {**arguments(callback), **changes(callback, parameters)}
    try:
        type(callback).__init__(callback, **given)
    except BaseException:
        vars(callback).clear()
        vars(callback).update(old)
        raise


def why_not(callback: MaskedTraining, parameters: Mapping[str, Any]) -> str | None:
    """Why it cannot be made with these parameters (without `prune.`); None where it can."""
    try:
        remade(callback, parameters)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


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


def _own(callback: MaskedTraining) -> list[str]:
    return [name for name in arguments(callback) if name not in _NOT_VARIED]


def _fields(callback: MaskedTraining) -> dict[str, str]:
    """What a space calls the fields of the schedule -> their names."""
    schedule = vars(callback).get("schedule")
    if not dataclasses.is_dataclass(schedule) or "schedule" not in arguments(callback):
        return {}
    return {"sparsity" if field.name in _FINAL else field.name: field.name for field in dataclasses.fields(schedule)}


def _is_by_layer(callback: MaskedTraining) -> bool:
    return isinstance(vars(callback).get("scope"), Mapping)


def _described(callback: MaskedTraining) -> str:
    schedule = vars(callback).get("schedule")
    return type(callback).__name__ + (f" and no field of {type(schedule).__name__}" if schedule is not None else "")
