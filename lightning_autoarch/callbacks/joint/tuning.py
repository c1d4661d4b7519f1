"""What the names of a space set of a callback, as the callback declares it by `AutoArchCallback.tunables`.

Names come here without the callback's prefix:

alpha               an argument of the constructor
end                 a field of an argument that is a dataclass, such as a schedule; the schedule's own checks run again
rate.encoder.*      the entry `encoder.*` of an argument that is a mapping {pattern: value}
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from lightning_autoarch.callbacks.base import AutoArchCallback, Tunable
from lightning_autoarch.core.errors import SpaceError, did_you_mean

C = TypeVar("C", bound=AutoArchCallback)


class Setting(NamedTuple):
    """What one name of a space sets: a tunable, and for one by pattern the pattern."""

    tunable: Tunable
    pattern: str | None


def part(prefix: str, architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an architecture that begins with a prefix, without it.

    >>> part("prune", {"width": 8, "prune.sparsity": 0.9})
    {'sparsity': 0.9}
    """
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in architecture.items() if name.startswith(start)}


def declared_by(callback: AutoArchCallback) -> list[Tunable]:
    """The tunables of a callback whose argument its own constructor has: a subclass may have left some out."""
    arguments = inspect.signature(type(callback).__init__).parameters
    return [tunable for tunable in callback.tunables() if tunable.sets in arguments]


def setting_of(callback: AutoArchCallback, name: str) -> Setting | None:
    """What a name sets; None where the callback declares nothing of it."""
    declared = declared_by(callback)
    before, dot, pattern = name.partition(".")
    for tunable in declared:
        if not tunable.by_pattern and tunable.name == name:
            return Setting(tunable, None)
    for tunable in declared:
        if tunable.by_pattern and tunable.name == before and dot and pattern:
            return Setting(tunable, pattern)
    return None


def check_names(callback: AutoArchCallback, names: Iterable[str]) -> None:
    """Check that each name is a declared tunable, and that no two of them set the same.

    Raises:
        SearchError: the callback cannot be made again.
        SpaceError: names the first that is not, and the nearest that is.
    """
    callback.arguments()  # raises if the callback cannot be made again with other values
    given = list(names)
    settings = {name: setting_of(callback, name) for name in given}
    for name, setting in settings.items():
        if setting is None:
            raise _unknown(callback, name)
    found = {name: setting for name, setting in settings.items() if setting is not None}
    entries = {setting.tunable.sets: name for name, setting in found.items() if setting.pattern is not None}
    for name, setting in found.items():
        tunable, whole = setting.tunable, setting.pattern is None and setting.tunable.field is None
        if whole and tunable.sets in entries:
            both = f"`{callback.prefix}.{name}` and `{callback.prefix}.{entries[tunable.sets]}`"
            raise SpaceError(f"{both} of the space set the same: leave one out.")
        ruler = tunable.overruled_by
        if ruler is not None and ruler not in given and (ruler in entries or _is_mapping(callback, ruler)):
            raise SpaceError(
                f"`{callback.prefix}.{name}` of the space has no effect where `{ruler}` gives a value for each "
                f"pattern: vary `{callback.prefix}.{tunable.name}.<pattern>` alone."
            )


def takes(callback: AutoArchCallback, names: Iterable[str]) -> bool:
    """Whether `check_names` finds nothing."""
    try:
        check_names(callback, names)
    except SpaceError:
        return False
    return True


def changes(callback: AutoArchCallback, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the constructor that parameters set, and their values."""
    given = callback.arguments()
    changed: dict[str, Any] = {}
    fields: dict[str, dict[str, Any]] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        setting = setting_of(callback, name)
        if setting is None:
            raise _unknown(callback, name)
        tunable, pattern = setting
        if pattern is not None:
            entries.setdefault(tunable.sets, {})[pattern] = value
        elif tunable.field is not None:
            fields.setdefault(tunable.sets, {})[tunable.field] = value
        else:
            changed[tunable.sets] = value
    for argument, new in fields.items():
        changed[argument] = dataclasses.replace(given[argument], **new)
    for argument, new in entries.items():  # before those that are there: the first pattern that matches counts
        changed[argument] = {**new, **{k: v for k, v in _patterns(given[argument]).items() if k not in new}}
    return changed


def with_parameters(callback: C, parameters: Mapping[str, Any]) -> C:
    """Another callback with these parameters, which knows of no fit. Its other arguments are shared, not copied."""
    return type(callback)(**{**callback.arguments(), **changes(callback, parameters)})


def parametrise_(callback: AutoArchCallback, parameters: Mapping[str, Any]) -> None:
    """Give these parameters to the callback itself, by running its constructor again; on any error it is as before."""
    if not parameters:
        return
    old, given = dict(vars(callback)), {**callback.arguments(), **changes(callback, parameters)}
    try:
        type(callback).__init__(callback, **given)
    except BaseException:
        vars(callback).clear()
        vars(callback).update(old)
        raise


def why_not(callback: AutoArchCallback, parameters: Mapping[str, Any]) -> str | None:
    """Why a callback cannot be made with these parameters, or is of no use in a trial; None where neither is so."""
    for name, value in parameters.items():
        setting = setting_of(callback, name)
        if setting is not None and not setting.tunable.accepts(value):
            kind = setting.tunable.kind
            names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)) if each)
            return f"Expected `{name}` to be {names}, got {value!r}."
    try:
        made = with_parameters(callback, parameters)
    except (ValueError, TypeError) as error:
        return str(error)
    return next(iter(made.obstacles().values()), None)


def as_config(changed: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a config of LightningCLI has them: a dataclass by its class path.

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


def _unknown(callback: AutoArchCallback, name: str) -> SpaceError:
    labels = [tunable.label for tunable in declared_by(callback)]
    near = did_you_mean(name, labels).replace("`", f"`{callback.prefix}.", 1)
    shown = ", ".join(f"`{callback.prefix}.{label}`" for label in dict.fromkeys(labels)) or "nothing"
    return SpaceError(
        f"`{callback.prefix}.{name}` of the space is no tunable of {type(callback).__name__}.{near} It has {shown}."
    )


def _is_mapping(callback: AutoArchCallback, argument: str) -> bool:
    return isinstance(callback.arguments()[argument], Mapping)


def _patterns(value: Any) -> dict[str, Any]:
    """What an argument says of each pattern; a plain number is that of all."""
    if isinstance(value, Mapping):
        return dict(value)
    return {} if value is None or isinstance(value, str) else {"*": value}
