"""What the scores of a search depend on beside the architecture, as plain values that a later start can compare.

They include the trials' Trainer arguments, hyperparameters that are not in the space, folds, callbacks, and properties
of the data that are cheap to read: classes, arguments, lengths, sketches of tensors, a few samples, and module-level
data and numbers to which the methods that create loaders refer. Those methods are not called, since calls may have side
effects. Values that may change between two starts of one search are left out (`varying`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import (
    Checkpoint,
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
)
from torch.utils.data import DataLoader, Dataset

from lightning_autoarch.core.rng import seeded
from lightning_autoarch.search.conditions import Conditions
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.data_snapshot import is_installed
from lightning_autoarch.training.description import arguments_of, describe, flat, length_of
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.stable_values import is_of_machine

_SILENT = (Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ModelSummary, ProgressBar)  # leave training alone
_DATA = (Dataset, DataLoader, torch.Tensor, np.ndarray)
_LOADERS = ("prepare_data", "setup", "train_dataloader", "val_dataloader")


def conditions_of(
    builder: ModuleBuilder,
    data: TrialData,
    trainer: Mapping[str, Any],
    callbacks: Sequence[Callback],
    varied: Iterable[str],
    others: Mapping[str, Any],
) -> Conditions:
    """The conditions of a search.

    Args:
        builder: makes its candidates.
        data: of its trials.
        trainer: arguments of the trials' Trainer.
        callbacks: that train with every trial in the same way.
        varied: names of the space, which are no conditions.
        others: such as `folds`.
    """
    made = builder.constructor
    module: dict[str, Any] = {"class": made.cls.__qualname__}
    if builder.factory is None:
        module["hyperparameters"] = made.saved
    else:
        module["factory"] = builder.factory
    working = [callback for callback in callbacks if not isinstance(callback, _SILENT)]
    with seeded(0), data.untouched():
        of_data = describe(_parts_of_data(data, made.cls))
    parts = {"module": module, "trainer": dict(trainer), "callbacks": working, **others}
    found = dict(flat("", {"data": of_data, **{name: describe(value) for name, value in parts.items()}}))
    inside = [".".join(made.path(name)) for name in varied] if builder.factory is None else []
    return {name: value for name, value in found.items() if not _is_varied(name, [*varied, *inside])}


def _is_varied(name: str, varied: Iterable[str]) -> bool:
    """Whether a condition is an argument that the space sets, or a part of one."""
    for given in varied:
        prefix, _, rest = given.partition(".")
        places = [f"module.hyperparameters.{given}"]
        places += [f"{prefix}.{rest}", f"{prefix}.hyperparameters.{rest}", f"{prefix}.arguments.{rest}"] if rest else []
        if any(name == place or name.startswith(f"{place}.") for place in places):
            return True
    return False


def _parts_of_data(data: TrialData, module: type) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if (datamodule := data.datamodule) is not None:
        described = {"datamodule": type(datamodule).__qualname__, **_held_data(datamodule)}
        saved = dict(datamodule.hparams_initial)
        unsaved = {name: value for name, value in arguments_of(datamodule).items() if name not in saved}
        described |= {"arguments": unsaved, "hyperparameters": saved, "globals": _globals_of(type(datamodule))}
    elif data.train is None:
        described = {"datamodule": "none: the module makes its loaders", "globals": _globals_of(module)}
    else:
        described = {"datamodule": "none: loaders"}
    for name, loaders in (("train", data.train), ("val", data.val)):
        if loaders is not None:
            described[name] = getattr(loaders, "iterables", loaders)  # of a CombinedLoader
    return described


def _held_data(datamodule: LightningDataModule) -> dict[str, Any]:
    """The datasets, loaders and arrays that it has set up, by attribute, and lists and dicts of them."""
    held = {name: value for name, value in vars(datamodule).items() if _is_data(value)}
    most = max((length_of(value) or 0 for value in held.values()), default=0)
    return {name: len(value) if _is_selection(value, most) else value for name, value in held.items()}


def _is_data(value: Any) -> bool:
    if isinstance(value, list | tuple | dict) and value:
        first = next(iter(value.values() if isinstance(value, dict) else value))
        value = first[0] if isinstance(first, list | tuple) and first else first
    return isinstance(value, _DATA)


def _is_selection(value: Any, most: int) -> bool:
    """Whether an array holds indices, each once: a split may be drawn anew at each start, as by `random_split`."""
    if not isinstance(value, torch.Tensor | np.ndarray) or value.ndim != 1 or len(value) < 2:
        return False
    numbers = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= most:
        return False
    return len(np.unique(numbers)) == len(numbers)


def _globals_of(cls: type) -> dict[str, Any]:
    """Data and numbers outside of a class that its methods refer to, those that make loaders and what they call."""
    seen: set[int] = set()
    return {name: value for method in _LOADERS for name, value in _referred(getattr(cls, method, None), seen)}


def _referred(function: Callable[..., Any] | None, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if not inspect.isfunction(function) or id(function) in seen or is_installed(function.__code__.co_filename):
        return
    seen.add(id(function))
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a closure whose variable is not set yet
        return
    for name, value in {**names.globals, **names.nonlocals}.items():
        if isinstance(value, (*_DATA, bool, int, float)) and not is_of_machine(name):
            yield name, value
        yield from _referred(value, seen)
