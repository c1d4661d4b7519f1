"""Describe values, datasets and loaders by numbers, strings, lists and dicts, equal in every run of the same script.

An object is described by its class and by those of its constructor's arguments that it keeps under their names, a
dataset by its length and a few samples too. Samples are read with every generator that the dataset holds seeded; what
is random even then, as with an augmentation that draws elsewhere, is described by its shape.
"""

from __future__ import annotations

import argparse
import datetime
import enum
import functools
import hashlib
import inspect
import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset

from lightning_autoarch.core.rng import seeded
from lightning_autoarch.search.conditions import is_same
from lightning_autoarch.training.generators import held
from lightning_autoarch.training.stable_values import is_of_machine, stable_number, stable_text

MOST_NUMBERS = 1_000_000  # of an array that enter its sketch


def sketch(value: torch.Tensor | np.ndarray) -> list[Any]:
    """An array as its type, shape, norm, and its products with two fixed vectors, to compare two runs of one script."""
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


SAMPLES = 3  # of a dataset that are read
_DEEPEST, _LONGEST = 10, 64
_OF_SAMPLER = ("weights", "replacement", "num_samples", "batch_size", "drop_last")

Within = tuple[int, ...]  # ids of the objects that a value is a part of


def describe(value: Any, within: Within = ()) -> Any:
    """A value as numbers, strings, lists and dicts."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool | None):
        return value
    if isinstance(value, int | float):
        return stable_number(value)
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.date):  # and a datetime
        return stable_text(value.isoformat())
    if isinstance(value, str | PurePath):
        return _shortened(stable_text(str(value)))
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        return sketch(value)
    if len(within) >= _DEEPEST or id(value) in within:
        return type(value).__qualname__
    return _described_parts(value, (*within, id(value)))


def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a description by their path; a sketch is a leaf, and so is the length of a list."""
    if isinstance(value, list) and value[:1] != ["array"]:
        value = {"length": len(value), **dict(enumerate(value))}
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, part in value.items():
        yield from flat(f"{prefix}.{name}" if prefix else str(name), part)


def arguments_of(value: Any) -> dict[str, Any]:
    """The arguments of an object's constructor that it keeps as attributes of the same names."""
    kept = {**_in_slots(value), **getattr(value, "__dict__", {})}
    if isinstance(value, nn.Module):  # such as the weights of a loss; parameters are drawn at random
        kept |= {name: buffer for name, buffer in value._buffers.items() if buffer is not None}
    found: dict[str, Any] = {}
    for name in _parameters(type(value)):
        place = next((place for place in (name, f"_{name}") if place in kept), None)
        if place is not None and not is_of_machine(name):
            found[name] = kept[place]
    return found


def length_of(dataset: Any) -> int | None:
    """The length; None for a stream of unknown length."""
    length: Callable[[], int] | None = getattr(dataset, "__len__", None)
    try:
        return None if length is None else int(length())
    except (TypeError, NotImplementedError):
        return None


def _described_parts(value: Any, within: Within) -> Any:
    if isinstance(value, Dataset):
        return _described_dataset(value, within)
    if isinstance(value, DataLoader):
        return _described_loader(value, within)
    if type(value).__module__.startswith("omegaconf."):
        return describe(_as_written(value), within)
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(name): describe(part, within) for name, part in value.items() if not is_of_machine(name)}
    if isinstance(value, list | tuple):
        return _described_items(value, within)
    if isinstance(value, set | frozenset):
        return sorted(str(describe(part, within)) for part in value)
    return _described_object(value, within)


def _as_written(config: Any) -> Any:
    """Interpolations stay what they are: their values may be missing here, or follow what is searched."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else type(config).__qualname__


def _described_loader(loader: DataLoader[Any], within: Within) -> dict[str, Any]:
    return {
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "sampler": _described_sampler(loader.sampler, within),
        "batch_sampler": _described_sampler(loader.batch_sampler, within),
        "collate_fn": describe(loader.collate_fn, within),
        "dataset": _described_dataset(loader.dataset, within),
    }


def _described_sampler(sampler: Any, within: Within) -> Any:
    """Not by its indices, which may be drawn at each start, nor by its data, which the loader has."""
    if not isinstance(sampler, Sampler):
        return type(sampler).__qualname__
    settings = {name: value for name, value in vars(sampler).items() if name in _OF_SAMPLER}
    return {"class": type(sampler).__qualname__, **describe(settings, within)}


def _described_dataset(dataset: Any, within: Within) -> Any:
    """Of a subset the whole set's samples: a random split may be another at each start."""
    described: dict[str, Any] = {"class": type(dataset).__qualname__, "length": length_of(dataset)}
    if isinstance(dataset, TensorDataset):
        return {**described, "tensors": [sketch(tensor) for tensor in dataset.tensors]}
    if isinstance(dataset, Subset):
        return {**described, "of": _described_dataset(dataset.dataset, within)}
    if isinstance(dataset, ConcatDataset):
        return {**described, "of": [_described_dataset(part, within) for part in dataset.datasets[:_LONGEST]]}
    if isinstance(dataset, torch.Tensor | np.ndarray | list | tuple):
        return describe(dataset, within)
    described["arguments"] = {name: describe(part, within) for name, part in arguments_of(dataset).items()}
    if not isinstance(dataset, IterableDataset) and described["length"]:
        described |= _described_samples(dataset, described["length"])
    return described


def _described_samples(dataset: Any, length: int) -> dict[str, Any]:
    try:
        samples = [_sample(dataset, i * (length - 1) // max(1, SAMPLES - 1)) for i in range(min(SAMPLES, length))]
        again = _sample(dataset, 0)
    except Exception:  # whatever a dataset raises: its first trial will say so
        return {}
    first = samples[0]
    drawn = {name for name, value in first.items() if name not in again or not is_same(value, again[name])}
    of_one_shape = [name for name in sorted(drawn) if _shape(first[name]) == _shape(again.get(name)) is not None]
    stable = [{name: value for name, value in sample.items() if name not in drawn} for sample in samples]
    return {"samples": stable, **{f"{name} of a sample": _shape(first[name]) for name in of_one_shape}}


def _shape(described: Any) -> Any:
    """Type and shape of an array; None for anything else."""
    return described[1:3] if isinstance(described, list) else None


def _sample(dataset: Any, index: int) -> dict[str, Any]:
    for generator in held({"dataset": dataset}).values():
        _seed(generator)
    with seeded(0):
        value = dataset[index]
    parts = value if isinstance(value, Mapping | list | tuple) else [value]
    return dict(flat("", describe(_arrays(parts))))


def _seed(generator: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(0)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(0).state
    elif isinstance(generator, np.random.RandomState | random.Random):
        generator.seed(0)


def _arrays(parts: Any) -> Any:
    """Images and the like as arrays."""
    if isinstance(parts, Mapping):
        return {name: _arrays(part) for name, part in parts.items()}
    if isinstance(parts, list | tuple):
        return [_arrays(part) for part in parts]
    return np.asarray(parts) if hasattr(parts, "__array_interface__") else parts


def _described_items(items: Sequence[Any], within: Within) -> Any:
    """Of a long list the numbers as an array, texts in any order, and a few of other items."""
    if len(items) <= _LONGEST:
        return [describe(part, within) for part in items]
    if all(isinstance(item, bool | int | float) for item in items):
        return sketch(np.asarray(items, dtype=np.float64))
    if all(isinstance(item, str | PurePath) for item in items):
        return {"length": len(items), "texts": _digest(sorted(stable_text(str(item)) for item in items))}
    some = [items[i * (len(items) - 1) // (SAMPLES - 1)] for i in range(SAMPLES)]
    return {"length": len(items), "some": [describe(item, within) for item in some]}


def _described_object(value: Any, within: Within) -> Any:
    if isinstance(value, functools.partial):
        return [describe(part, within) for part in (value.func, list(value.args), value.keywords)]
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__qualname__
    arguments = {name: describe(part, within) for name, part in arguments_of(value).items()}
    return {"class": type(value).__qualname__, **arguments}


def _in_slots(value: Any) -> dict[str, Any]:
    listed = (getattr(cls, "__slots__", ()) for cls in type(value).__mro__)
    names = [name for slots in listed for name in ([slots] if isinstance(slots, str) else slots)]
    return {name: getattr(value, name) for name in names if name[:2] != "__" and hasattr(value, name)}


def _parameters(cls: type) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(cls).parameters)
    except (TypeError, ValueError):  # made in C, or with a metaclass of its own
        return ()


def _shortened(text: str) -> str:
    return text if len(text) <= 2 * _LONGEST else f"{text[:_LONGEST]}... {_digest(text)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
