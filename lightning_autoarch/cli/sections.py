"""What of a section was given, and what a config or a checkpoint says of a class."""

from __future__ import annotations

import importlib
import inspect
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lightning_autoarch.errors import CheckpointError, shown
from lightning_autoarch.reading import read_archive
from lightning_autoarch.schema import DEEPEST


def top_level(section: Any) -> dict[str, Any]:
    """The keys of a section and what they hold; a Namespace of jsonargparse iterates over the keys below them too."""
    return {} if section is None else dict(section if isinstance(section, Mapping) else vars(section))


def differs(section: str, given: Mapping[str, Any], parser: LightningArgumentParser) -> bool:
    """Whether anything was given: a config that was parsed twice has lists where a default is a tuple."""
    defaults = {name: parser.get_default(f"{section}.{name}") for name in given}
    return any(value != defaults[name] and value != _as_list(defaults[name]) for name, value in given.items())


def hyperparameters(path: Path) -> dict[str, Any]:
    """The model's in a Lightning checkpoint; none in a file of weights alone, or where they are more than data."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return {}
    try:
        checkpoint = read_archive(path)
    except (CheckpointError, OSError):
        return {}
    held = checkpoint.get("hyper_parameters") if isinstance(checkpoint, Mapping) else None
    if not isinstance(held, Mapping):
        return {}
    return {name: value for name, value in held.items() if isinstance(name, str) and name != "_instantiator"}


def check_class_paths(arguments: Mapping[str, Any], config: Any, path: Path) -> None:
    """What a checkpoint names as classes to import has to be named by the user too, in the config or the command line.

    Args:
        arguments: the hyperparameters of the checkpoint.
        config: as given.
        path: of the checkpoint.

    Raises:
        CheckpointError: another class; importing a module runs its code.
    """
    known = {found for _, found in _class_paths(config, "")}
    for where, found in _class_paths(arguments, "hyper_parameters"):
        if found not in known:
            raise CheckpointError(
                f"`{shown(where)}` of {path} names the class `{shown(str(found))}`, which would be imported. A "
                "checkpoint does not decide what is imported: name the class in the config, or by `--model`, if you "
                "trust it."
            )


def _class_paths(value: Any, where: str, depth: int = DEEPEST) -> Iterator[tuple[str, Any]]:
    """Where in nested data a class is named, and what is there."""
    if isinstance(value, Mapping | Namespace):
        for name, item in (value if isinstance(value, Mapping) else vars(value)).items():
            if name in ("class_path", "_class_path"):
                yield f"{where}.{name}", item if isinstance(item, str) else None
            elif depth:
                yield from _class_paths(item, f"{where}.{name}", depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for i, item in enumerate(value):
            yield from _class_paths(item, f"{where}[{i}]", depth - 1)


def check_takes(class_path: str, arguments: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError where a class has no argument for a hyperparameter of the checkpoint at `path`."""
    module, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None) if module else None
    if not isinstance(cls, type):
        return  # jsonargparse says what is wrong with the class path
    known = inspect.signature(cls).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    if strange := [argument for argument in arguments if argument not in known]:
        raise CheckpointError(
            f"{path} was saved with the hyperparameter `{strange[0]}`, which {name} has not: of another module."
        )


def is_a(callback: Mapping[str, Any], kind: type[Callback]) -> bool:
    """Whether an entry of `trainer.callbacks` in a config is of this class."""
    module, _, name = str(callback.get("class_path", "")).rpartition(".")
    cls = getattr(importlib.import_module(module), name, None) if module else None
    return isinstance(cls, type) and issubclass(cls, kind)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
