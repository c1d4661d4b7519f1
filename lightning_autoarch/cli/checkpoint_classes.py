"""Prevents the hyperparameters of a checkpoint from importing anything that the user does not name too.

jsonargparse imports the value of a `class_path`, and a dotted name given for an argument that takes a class or a
function. A checkpoint may come from a stranger, so its hyperparameters alone must not cause an import.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.core.schema import DEEPEST
from lightning_autoarch.seam.lightning import CLASS_PATH

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_DATA = (str, int, float, complex, bool, type(None), bytes, list, dict, tuple, set, os.PathLike, enum.Enum)


def check_class_paths(arguments: Mapping[str, Any], config: Any, path: Path) -> None:
    """Check that the user names every class of a checkpoint's `class_path`, in the config or on the command line.

    Args:
        arguments: the hyperparameters of the checkpoint.
        config: the config that the user gave.
        path: the path of the checkpoint, for the error message.

    Raises:
        CheckpointError: the checkpoint names another class. Importing a module runs its code.
    """
    known = {found for _, found in _class_paths(config, "")}
    for where, found in _class_paths(arguments, "hyper_parameters"):
        if found not in known:
            raise _refused(where, "class", str(found), path)


def check_named_objects(cls: object, arguments: Mapping[str, Any], config: Any, path: Path) -> None:
    """Check the same for classes and functions that are given by name as plain strings.

    Args:
        cls: the class that takes the arguments; if it is not a class, every dotted name counts as an object.
        arguments: the hyperparameters of the checkpoint.
        config: the config that the user gave.
        path: the path of the checkpoint, for the error message.

    Raises:
        CheckpointError: the config does not contain such a name.
    """
    known = {found for _, found in _dotted_names(config, "")}
    for name, value in arguments.items():
        if name == CLASS_PATH or (isinstance(cls, type) and _takes_data(cls, name)):
            continue
        for where, found in _dotted_names(value, f"hyper_parameters.{name}"):
            if found not in known:
                raise _refused(where, "object", found, path)


def class_of(class_path: object) -> type | None:
    """Import the class that the user names by a dotted path; None if there is none."""
    module, _, name = str(class_path).rpartition(".")
    found = getattr(importlib.import_module(module), name, None) if module else None
    return found if isinstance(found, type) else None


def _refused(where: str, kind: str, found: str, path: Path) -> CheckpointError:
    return CheckpointError(
        f"`{shown(where)}` of {path} names the {kind} `{shown(found)}`, which would be imported. A checkpoint does not "
        f"decide what is imported: name the {kind} in the config, or on the command line, if you trust it."
    )


def _takes_data(cls: type, name: str) -> bool:
    """Whether an argument accepts only plain data, for which jsonargparse imports nothing."""
    parameter = inspect.signature(cls).parameters.get(name)
    if parameter is None or parameter.annotation is inspect.Parameter.empty:
        return True
    try:
        annotation = typing.get_type_hints(cls.__init__).get(name, Any)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # names that exist only for type checkers
        return False
    return _is_data(annotation)


def _is_data(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if annotation is Any or origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType) or (isinstance(origin, type) and issubclass(origin, _DATA)):
        return all(_is_data(part) for part in typing.get_args(annotation) if part is not Ellipsis)
    return isinstance(annotation, type) and origin is None and issubclass(annotation, _DATA)


def _dotted_names(value: Any, where: str, depth: int = DEEPEST) -> Iterator[tuple[str, str]]:
    """Find the strings in nested data that could name an object of a module: location and string."""
    if isinstance(value, str) and _DOTTED.fullmatch(value):
        yield where, value
    elif isinstance(value, Mapping | Namespace) and depth:
        for name, item in (value if isinstance(value, Mapping) else vars(value)).items():
            yield from _dotted_names(item, f"{where}.{name}", depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for i, item in enumerate(value):
            yield from _dotted_names(item, f"{where}[{i}]", depth - 1)


def _class_paths(value: Any, where: str, depth: int = DEEPEST) -> Iterator[tuple[str, Any]]:
    """Find the classes that are named in nested data: location and class path."""
    if isinstance(value, Mapping | Namespace):
        for name, item in (value if isinstance(value, Mapping) else vars(value)).items():
            if name in ("class_path", CLASS_PATH):
                yield f"{where}.{name}", item if isinstance(item, str) else None
            elif depth:
                yield from _class_paths(item, f"{where}.{name}", depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for i, item in enumerate(value):
            yield from _class_paths(item, f"{where}[{i}]", depth - 1)


def check_takes(class_path: str, arguments: Mapping[str, Any], path: Path) -> None:
    """Check that a class has an argument for every hyperparameter of the checkpoint at `path`.

    Raises:
        CheckpointError: it has none.
    """
    cls = class_of(class_path)
    if cls is None:
        return  # jsonargparse reports what is wrong with the class path
    known = inspect.signature(cls).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    if strange := [argument for argument in arguments if argument not in known]:
        raise CheckpointError(
            f"{path} was saved with the hyperparameter `{strange[0]}`, which {cls.__name__} does not have: "
            "it is of another module."
        )
