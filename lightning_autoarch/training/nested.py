"""Values inside a structured argument: `cfg.width`, `encoder.init_args.dim`.

A dotted name is the path to a value. Each container on the way keeps its type: a dict or AttributeDict, an
`argparse.Namespace`, a dataclass, a named tuple, an OmegaConf DictConfig (whose interpolations, `${width}`, then follow
the new value) and what LightningCLI makes of `class_path` and `init_args`. There is no general way to build other
objects again with another value, so they are an error.
"""

from __future__ import annotations

import copy
import dataclasses
from argparse import Namespace
from collections.abc import Mapping, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any

from lightning_autoarch.core.errors import SpaceError, did_you_mean

Keys = tuple[str, ...]

_MISSING = object()
_NO_DATACLASS = "Let fields hold all that it is made of, or give ArchitectureSearch(factory=...)."
_KINDS = "a dict, a Namespace, a dataclass, a named tuple or an OmegaConf DictConfig"


def keys_of(name: str) -> Keys:
    """The parts of a dotted name."""
    return tuple(name.split("."))


def is_dict_config(value: Any) -> bool:
    """Whether it is OmegaConf's; that package is optional, and an object of it implies that it is installed."""
    return type(value).__module__.startswith("omegaconf.") and type(value).__name__ == "DictConfig"


def fields_of(container: Any) -> dict[str, Any] | None:
    """The values in a container, by name; None for an object that is not one of the known containers."""
    if isinstance(container, Mapping) or is_dict_config(container):
        return _items(container)
    if isinstance(container, Namespace | SimpleNamespace):
        return dict(vars(container))
    if dataclasses.is_dataclass(container) and not isinstance(container, type):
        return {f.name: getattr(container, f.name) for f in dataclasses.fields(container) if f.init}
    if _is_named_tuple(container):
        return {name: getattr(container, name) for name in container._fields}
    return None


def value_at(container: Any, keys: Keys) -> Any:
    """The value at a path of keys.

    Raises:
        KeyError: there is none.
    """
    for key in keys:
        fields = fields_of(container)
        if fields is None or key not in fields:
            raise KeyError(key)
        container = fields[key]
    return container


def check_keys(container: Any, keys: Keys, name: str) -> None:
    """Check that a path leads to a value.

    Args:
        container: where it begins.
        keys: below it.
        name: of the whole in a search space, which ends with these keys.

    Raises:
        SpaceError: it does not; the message lists the names that exist there.
    """
    before = name.split(".")[: -len(keys)]
    for i, key in enumerate(keys):
        where = ".".join([*before, *keys[:i]]) or "the hyperparameters"
        fields = fields_of(container)
        if fields is None:
            raise SpaceError(
                f"`{name}` of the space: `{where}` is {_described(container)}, in which no value can be replaced. "
                f"Expected {_KINDS}. Give ArchitectureSearch(factory=...), or make `{keys[-1]}` an argument of "
                "`__init__`."
            )
        if key not in fields:
            raise SpaceError(f"`{name}` of the space: {_missing(key, fields, where)}")
        container = fields[key]


def alike(a: Any, b: Any) -> bool:
    """Whether two values are equal; of objects without an equality of their own, as copies are, whether of one class.

    >>> alike({"norm": object(), "widths": [1, 2]}, {"norm": object(), "widths": [1, 2]})
    True
    """
    fields, others = fields_of(a), fields_of(b)
    if fields is not None and others is not None:
        return fields.keys() == others.keys() and all(alike(fields[name], others[name]) for name in fields)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if not any("__eq__" in vars(kind) for kind in type(a).__mro__[:-1]):  # all but `object`
        return type(a) is type(b)
    try:
        return bool(a == b)
    except Exception:  # arrays and other objects that compare item by item
        return type(a) is type(b)


def replaced(container: Any, keys: Keys, value: Any) -> Any:
    """A container like the given one, which may be changed in place, with another value at a path."""
    if is_dict_config(container):
        return _replaced_in_config(container, keys, value)
    first, rest = keys[0], keys[1:]
    fields = fields_of(container) or {}
    new = replaced(fields[first], rest, value) if rest else value
    if isinstance(container, MutableMapping):
        container[first] = new
        return container
    if isinstance(container, Mapping):
        return {**container, first: new}
    if isinstance(container, Namespace | SimpleNamespace):
        setattr(container, first, new)
        return container
    if _is_named_tuple(container):
        return container._replace(**{first: new})
    return _replaced_in_dataclass(container, first, new)


def _replaced_in_dataclass(container: Any, name: str, value: Any) -> Any:
    """Keep attributes that were set after `__init__` and do not depend on the new value.

    Raises:
        SpaceError: what depends on it cannot be made again, as an `InitVar` is not kept by the dataclass.
    """
    kind = type(container).__name__
    try:
        same, new = dataclasses.replace(container), dataclasses.replace(container, **{name: value})
    except ValueError as error:  # an `InitVar` without a default
        raise SpaceError(f"`{name}` of a {kind} cannot be replaced: {error}. {_NO_DATACLASS}") from error
    for each, held in _attributes(container).items():
        before, after = _attributes(same).get(each, _MISSING), _attributes(new).get(each, _MISSING)
        if each == name or alike(held, before):
            continue
        if not alike(before, after):
            raise SpaceError(
                f"`{name}` of a {kind} cannot be replaced: `{each}` depends on it, and on more than the fields of "
                f"the dataclass, such as an `InitVar`. {_NO_DATACLASS}"
            )
        object.__setattr__(new, each, copy.deepcopy(held))  # also where it is frozen
    return new


def _attributes(instance: Any) -> dict[str, Any]:
    """All attributes of a dataclass instance, in slots or not, fields or not."""
    names = [f.name for f in dataclasses.fields(instance) if hasattr(instance, f.name)]
    return {**{name: getattr(instance, name) for name in names}, **getattr(instance, "__dict__", {})}


def _replaced_in_config(config: Any, keys: Keys, value: Any) -> Any:
    from omegaconf import OmegaConf, flag_override

    with flag_override(config, ["readonly", "struct"], [False, False]):
        OmegaConf.update(config, ".".join(keys), copy.deepcopy(value), force_add=True)
    return config


def _items(mapping: Any) -> dict[str, Any]:
    """Of an OmegaConf config without those that are missing (`???`)."""
    if not is_dict_config(mapping):
        return dict(mapping)
    from omegaconf import OmegaConf

    return {str(key): None if OmegaConf.is_missing(mapping, key) else mapping[key] for key in mapping}


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _described(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, int | float | str) else f"a {type(value).__name__}"


def _missing(key: str, fields: Mapping[str, Any], where: str) -> str:
    arguments = fields_of(fields.get("init_args"))
    inside = f" Did you mean `{where}.init_args.{key}`?" if arguments and key in arguments else ""
    return f"`{where}` has no `{key}`, but {listed(fields)}.{inside or did_you_mean(key, fields)}"


def listed(names: Mapping[str, Any] | Sequence[str], most: int = 20) -> str:
    """Names for a message; of many only the first."""
    quoted = [f"`{name}`" for name in names]
    more = f" and {len(quoted) - most} more" if len(quoted) > most else ""
    return ", ".join(quoted[:most]) + more if quoted else "nothing"
