"""What the scores of a search depend on beside the architecture, as plain values that a later start can compare.

Taken are the trials' Trainer arguments, hyperparameters that the space leaves alone, folds, callbacks, and of the data
what is cheap to see: classes, arguments, lengths, and a sketch of tensors and of a few samples. Not taken is what may
change between two starts of one search: the machine, paths down to their last part, numbers of workers, budgets.

An object is described by its class and by those of its constructor's arguments that it keeps under their names.
Samples that differ at each read, as with random augmentation of an unseeded generator, are described by their shapes.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import PurePath
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
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_autoarch.search.conditions import Conditions, condition_differences
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.isolation import seeded
from lightning_autoarch.training.module import ModuleBuilder

SAMPLES = 3  # of a dataset that are read
MOST_NUMBERS = 1_000_000  # of an array that enter its sketch
_DEEPEST, _LONGEST = 10, 64

# What changes how fast or where a trial trains, but not what it learns.
_OF_MACHINE = frozenset(
    [
        "num_workers",
        "workers",
        "n_workers",
        "pin_memory",
        "pin_memory_device",
        "persistent_workers",
        "prefetch_factor",
        "timeout",
        "multiprocessing_context",
        "worker_init_fn",
        "accelerator",
        "devices",
        "device",
        "gpus",
        "num_nodes",
        "profiler",
        "benchmark",
        "deterministic",
        "detect_anomaly",
        "barebones",
        "logger",
        "verbose",
        "enable_progress_bar",
        "enable_model_summary",
        "enable_checkpointing",
        "enable_autolog_hparams",
        "log_every_n_steps",
        "num_sanity_val_steps",
        "default_root_dir",
    ]
)
_SILENT = (Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ModelSummary, ProgressBar)  # leave training alone


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
        module["hyperparameters"] = {**made.saved}
    else:
        module["factory"] = builder.factory
    working = [callback for callback in callbacks if not isinstance(callback, _SILENT)]
    with seeded(0), data.untouched():
        of_data = describe(_parts_of_data(data))
    parts = {"module": module, "trainer": dict(trainer), "callbacks": working, **others}
    flat = dict(_flat("", {"data": of_data, **{name: describe(value) for name, value in parts.items()}}))
    return {name: value for name, value in flat.items() if not _is_varied(name, varied)}


def _is_varied(name: str, varied: Iterable[str]) -> bool:
    """Whether a condition is an argument that the space sets, or a part of one."""
    for given in varied:
        prefix, _, rest = given.partition(".")
        places = [f"module.hyperparameters.{given}"]
        places += [f"{prefix}.{rest}", f"{prefix}.hyperparameters.{rest}", f"{prefix}.arguments.{rest}"] if rest else []
        if any(name == place or name.startswith(f"{place}.") for place in places):
            return True
    return False


def describe(value: Any, depth: int = 0) -> Any:
    """A value as numbers, strings, lists and dicts."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, str):
        return _shortened(os.path.basename(value.rstrip("/")) if os.path.isabs(value) else value)
    if isinstance(value, torch.Tensor | np.ndarray):
        return sketch(value)
    if isinstance(value, Dataset):
        return _described_dataset(value, depth)
    if isinstance(value, DataLoader):
        return _described_loader(value, depth)
    if depth >= _DEEPEST:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return {str(name): describe(part, depth + 1) for name, part in value.items() if name not in _OF_MACHINE}
    if isinstance(value, list | tuple):
        return _described_items(value, depth)
    if isinstance(value, set | frozenset):
        return sorted(str(describe(part, depth + 1)) for part in value)
    return _described_object(value, depth)


def sketch(value: torch.Tensor | np.ndarray) -> Any:
    """An array as its type, shape, norm, and its products with two fixed vectors."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return ["array", str(value.dtype), list(value.shape), 0.0, 0.0, 0.0]
        numbers = torch.from_numpy(np.ascontiguousarray(_spread(value.reshape(-1)), dtype=np.float64))
    elif value.is_meta or value.layout != torch.strided or value.is_complex() or value.is_quantized:
        return ["array", str(value.dtype), list(value.shape), 0.0, 0.0, 0.0]
    else:
        numbers = _spread(value.detach().reshape(-1)).to(device="cpu", dtype=torch.float64)
    numbers = torch.nan_to_num(numbers, 0.5, 1e30, -1e30)
    index = torch.arange(len(numbers), dtype=torch.float64)
    products = [float(numbers @ torch.cos(a * index + b)) for a, b in ((1.7, 0.3), (2.9, 1.1))]
    kind = str(value.dtype).removeprefix("torch.")
    return ["array", kind, list(value.shape), float(numbers.norm()), *products]


def _spread(flat: Any) -> Any:
    return flat[:: -(-len(flat) // MOST_NUMBERS)] if len(flat) else flat


def _parts_of_data(data: TrialData) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if (datamodule := data.datamodule) is not None:
        described = {"datamodule": type(datamodule).__qualname__, **_held_data(datamodule)}
        saved = dict(datamodule.hparams)
        unsaved = {name: value for name, value in _arguments(datamodule).items() if name not in saved}
        described |= {"arguments": unsaved, "hyperparameters": saved}
    elif data.train is None:
        described = {"datamodule": "none: the module makes its loaders"}
    else:
        described = {"datamodule": "none: loaders"}
    for name, loaders in (("train", data.train), ("val", data.val)):
        if loaders is not None:
            described[name] = getattr(loaders, "iterables", loaders)  # of a CombinedLoader
    return described


def _held_data(datamodule: LightningDataModule) -> dict[str, Any]:
    """The datasets, loaders and tensors that it has set up, by attribute."""
    kinds = (Dataset, DataLoader, torch.Tensor, np.ndarray)
    return {name: value for name, value in vars(datamodule).items() if isinstance(value, kinds)}


def _described_loader(loader: DataLoader[Any], depth: int) -> dict[str, Any]:
    return {
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "sampler": type(loader.sampler).__qualname__,
        "batch_sampler": type(loader.batch_sampler).__qualname__,
        "collate_fn": describe(loader.collate_fn, depth + 1),
        "dataset": describe(loader.dataset, depth + 1),
    }


def _described_dataset(dataset: Any, depth: int) -> dict[str, Any]:
    """Of a subset the whole set's samples: a random split may be another at each start."""
    described: dict[str, Any] = {"class": type(dataset).__qualname__, "length": _length(dataset)}
    if isinstance(dataset, TensorDataset):
        return {**described, "tensors": [sketch(tensor) for tensor in dataset.tensors]}
    if isinstance(dataset, Subset):
        return {**described, "of": describe(dataset.dataset, depth + 1)}
    if isinstance(dataset, ConcatDataset):
        return {**described, "of": [describe(part, depth + 1) for part in dataset.datasets[:_LONGEST]]}
    described["arguments"] = {n: describe(v, depth + 1) for n, v in _arguments(dataset).items()}
    if not isinstance(dataset, IterableDataset) and described["length"]:
        described |= _described_samples(dataset, described["length"])
    return described


def _described_samples(dataset: Any, length: int) -> dict[str, Any]:
    try:
        samples = [_sample(dataset, i * (length - 1) // max(1, SAMPLES - 1)) for i in range(min(SAMPLES, length))]
        again = _sample(dataset, 0)
    except Exception:  # whatever a dataset raises: its first trial will say so
        return {}
    if condition_differences(samples[0], again):
        samples = [{name: value[1:3] if isinstance(value, list) else "?" for name, value in samples[0].items()}]
    return {"samples": samples}


def _sample(dataset: Any, index: int) -> dict[str, Any]:
    with seeded(0):
        value = dataset[index]
    parts = value if isinstance(value, Mapping | list | tuple) else [value]
    return dict(_flat("", describe(_arrays(parts))))


def _arrays(parts: Any) -> Any:
    """Images and the like as arrays."""
    if isinstance(parts, Mapping):
        return {name: _arrays(part) for name, part in parts.items()}
    if isinstance(parts, list | tuple):
        return [_arrays(part) for part in parts]
    return np.asarray(parts) if hasattr(parts, "__array_interface__") else parts


def _described_items(items: Sequence[Any], depth: int) -> Any:
    described = [describe(part, depth + 1) for part in items[:_LONGEST]]
    return described if len(items) <= _LONGEST else {"length": len(items), "first": _digest(described)}


def _described_object(value: Any, depth: int) -> Any:
    if isinstance(value, functools.partial):
        return [describe(part, depth + 1) for part in (value.func, list(value.args), value.keywords)]
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__qualname__
    arguments = {name: describe(part, depth + 1) for name, part in _arguments(value).items()}
    return {"class": type(value).__qualname__, **arguments}


def _arguments(value: Any) -> dict[str, Any]:
    """Those arguments of its constructor that an object keeps under their names."""
    held = getattr(value, "__dict__", {})
    found: dict[str, Any] = {}
    for name in _parameters(type(value)):
        place = next((place for place in (name, f"_{name}") if place in held), None)
        if place is not None and name not in _OF_MACHINE:
            found[name] = held[place]
    return found


def _parameters(cls: type) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(cls).parameters)
    except (TypeError, ValueError):  # made in C, or with a metaclass of its own
        return ()


def _length(dataset: Any) -> int | None:
    length: Callable[[], int] | None = getattr(dataset, "__len__", None)
    try:
        return None if length is None else int(length())
    except (TypeError, NotImplementedError):  # a stream of unknown length
        return None


def _shortened(text: str) -> str:
    return text if len(text) <= 2 * _LONGEST else f"{text[:_LONGEST]}... {_digest(text)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves by their path; a sketch is a leaf."""
    if isinstance(value, list) and value[:1] != ["array"]:
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, part in value.items():
        yield from _flat(f"{prefix}.{name}" if prefix else str(name), part)
