"""Reads the sections of a config, and the hyperparameters of a checkpoint."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.reading.archive import read_archive
from lightning_autoarch.seam.lightning import INSTANTIATOR


def top_level(section: Any) -> dict[str, Any]:
    """The top-level keys of a section and their values; iterating over a Namespace would yield nested keys too."""
    return {} if section is None else dict(section if isinstance(section, Mapping) else vars(section))


def differs(section: str, given: Mapping[str, Any], parser: LightningArgumentParser) -> bool:
    """Whether a section differs from its defaults. Lists equal tuples, as a config that was parsed twice has lists."""
    return any(_differs(f"{section}.{name}", value, parser) for name, value in given.items())


def _differs(key: str, value: Any, parser: LightningArgumentParser) -> bool:
    try:
        default = parser.get_default(key)
    except KeyError:  # a group of options, each with its own default
        return differs(key, top_level(value), parser)
    return bool(value != default and value != _as_list(default))


def hyperparameters(path: Path) -> dict[str, Any]:
    """The model's hyperparameters in a Lightning checkpoint; empty if there are none or if they are not plain data."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return {}
    try:
        checkpoint = read_archive(path)
    except (CheckpointError, OSError):
        return {}
    held = checkpoint.get("hyper_parameters") if isinstance(checkpoint, Mapping) else None
    if not isinstance(held, Mapping):
        return {}
    return {name: value for name, value in held.items() if isinstance(name, str) and name != INSTANTIATOR}


def is_a(callback: Mapping[str, Any], kind: type[Callback]) -> bool:
    """Whether an entry of `trainer.callbacks` in a config is an instance of this class."""
    module, _, name = str(callback.get("class_path", "")).rpartition(".")
    cls = getattr(importlib.import_module(module), name, None) if module else None
    return isinstance(cls, type) and issubclass(cls, kind)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
