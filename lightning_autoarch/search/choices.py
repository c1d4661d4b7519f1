"""A choice of any kind in the two forms in which it is stored.

    written   JSON: str, int, float, bool and None as they are, a tuple as a list, a member of an Enum by its name, a
              class or function by its import path, anything else by its `repr`
    label     what an Optuna study holds: a scalar as it is, anything else as one line of text

Both are idempotent, and `label(written(x)) == label(x)`: a choice is found again from either form. They depend on the
value alone, not on its address or on the process.
"""

from __future__ import annotations

import enum
import functools
import inspect
import json
import re
import sys
from collections.abc import Mapping, Set
from typing import Any, TypeAlias

from lightning_autoarch.core.errors import SpaceError

Scalar: TypeAlias = str | int | float | bool | None
_PLAIN = (str, int, float, bool, type(None))
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def as_python(value: Any) -> Any:
    """A NumPy scalar as a Python one, since it would make a checkpoint unloadable; anything else as it is."""
    if not isinstance(value, enum.Enum) and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def written(value: Any) -> Any:
    """The JSON form of a value, as the module's docstring describes it.

    Raises:
        SpaceError: an object whose `repr` holds its address, so that it cannot be recognised in another process.

    >>> written({"act": dict, "sizes": (3, 5)})
    {'act': 'dict', 'sizes': [3, 5]}
    """
    value = as_python(value)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, enum.Enum):
        return value.name if isinstance(value.name, str) else repr(value)
    for base in (str, bool, int, float):  # subclasses
        if isinstance(value, base):
            return base(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(label(key)): written(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [written(item) for item in value]
    if isinstance(value, Set):
        return sorted((written(item) for item in value), key=str)
    return _name(value)


def label(value: Any) -> Scalar:
    """The scalar by which a study knows a value.

    >>> label([64, 32]), label(dict), label(None)
    ('[64, 32]', 'dict', None)
    """
    form = written(value)
    return json.dumps(form) if isinstance(form, list | dict) else form


def import_path(value: Any) -> str | None:
    """The shortest dotted path that leads to a class or function; None for one that cannot be imported.

    >>> import json
    >>> import_path(json.JSONDecoder)
    'json.JSONDecoder'
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        package = ".".join(parts[:n])
        if _member(sys.modules.get(package), name) is value:
            return f"{package}.{name}"
    return None


def _member(found: Any, path: str) -> Any:
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _name(value: Any) -> str:
    if isinstance(value, functools.partial):
        keywords = (f"{name}={label(item)}" for name, item in value.keywords.items())
        return f"partial({', '.join([_name(value.func), *(str(label(item)) for item in value.args), *keywords])})"
    if isinstance(value, type) or inspect.isroutine(value):
        module_known = isinstance(value, type) or getattr(value, "__module__", None) is not None
        name = import_path(value) or str(value.__qualname__ if module_known else value.__name__)
        return name.removeprefix("__main__.").removeprefix("builtins.")
    text = " ".join(repr(value).split())
    if _ADDRESS.search(text):
        raise SpaceError(
            f"Expected choices that can be told apart in another process, got {text[:100]}. Give its class a "
            "`__repr__` without the address, or search over a name from which `__init__` makes the object."
        )
    return text
