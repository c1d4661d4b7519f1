"""The state of the user's data before a trial, put back after it.

A trial reads the datamodule, loaders, samplers and datasets of the outer fit themselves, not copies of them: they may
be large, and closures and collate functions refer to them. Whatever the trial changes there (a batch size that
`BatchSizeFinder` wrote to `hparams`, a counter in `train_dataloader`, a sampler's epoch, samples normalised in place)
is undone afterwards, on the same objects:

    objects, dicts, lists, sets     their attributes or items, by reference; a copy of each level costs microseconds
    tensors and arrays              their values, as long as all of them fit into `MOST_BYTES`; beyond that a change
                                    in place is noticed by the tensor's version counter, and reported in a warning
    classes                         numbers, strings and tuples that are attributes of the user's own classes

Objects of other libraries and of the standard library (locks, files, threads, data frames) are left alone: their
attributes may describe something outside of Python. A cache that a trial fills is emptied with the rest; fill it in
`setup` to keep it. Module-level variables are not seen.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import site
import sys
import sysconfig
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import LightningDataModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_autoarch.training.generators import LONGEST, MOST_OBJECTS

MOST_BYTES = 64 * 2**20  # of tensors and arrays that are copied before each trial: some 15 ms
MOST_ITEMS = 1_000_000  # of a list, dict or set whose items are noted: 5 ms

_Undo = Callable[[], None]
_KINDS = (LightningDataModule, DataLoader, Dataset, Sampler, nn.Module, argparse.Namespace, types.SimpleNamespace)
_DICTS = (dict, OrderedDict, defaultdict, AttributeDict)
_PLAIN = (bool, int, float, complex, str, bytes, tuple, type(None))


@contextlib.contextmanager
def state_kept(roots: Mapping[str, Any]) -> Iterator[None]:
    """Restore everything that is reachable from the roots after the block."""
    undo = _Snapshot(roots).undo
    try:
        yield
    finally:
        for each in undo:
            each()


class _Snapshot:
    """Walks breadth first, so that the limit on the number of objects leaves out the deepest.

    Attributes:
        undo: functions that restore one object each.
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self.undo: list[_Undo] = []
        self._bytes = 0
        self._seen: set[int] = set()
        self._classes: set[type] = set()
        self._waiting: deque[tuple[str, Any]] = deque(roots.items())
        for _ in range(MOST_OBJECTS):
            if not self._waiting:
                break
            self._visit(*self._waiting.popleft())

    def _visit(self, path: str, value: Any) -> None:
        if (isinstance(value, _PLAIN) and not isinstance(value, tuple)) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, torch.Tensor):
            self._note_tensor(path, value)
        elif isinstance(value, np.ndarray):
            self._note_array(value)
        elif isinstance(value, list | tuple | set | deque) or type(value) in _DICTS:
            self._note_container(path, value)
        elif hasattr(value, "__dict__") and not isinstance(value, type | Trainer) and _is_data(type(value)):
            self._note_object(path, value)

    def _note_object(self, path: str, value: Any) -> None:
        attributes = value.__dict__
        self.undo.append(functools.partial(_put_back_attributes, attributes, dict(attributes)))
        self._waiting.extend((f"{path}.{name}", part) for name, part in attributes.items() if name != "trainer")
        for cls in type(value).__mro__:
            if cls not in self._classes and _is_of_user(cls):
                self._classes.add(cls)
                self.undo.append(functools.partial(_put_back_class, cls, _plain_attributes(cls)))

    def _note_container(self, path: str, value: Any) -> None:
        if len(value) > MOST_ITEMS:
            return
        if isinstance(value, dict):
            self.undo.append(functools.partial(_put_back_attributes, value, dict(value)))
        elif not isinstance(value, tuple):
            self.undo.append(functools.partial(_put_back_items, value, list(value)))
        if len(value) <= LONGEST:
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            self._waiting.extend((f"{path}.{name}", part) for name, part in parts)

    def _note_tensor(self, path: str, value: torch.Tensor) -> None:
        if nn.parameter.is_lazy(value) or value.is_meta or value.layout != torch.strided:
            return
        if self._fits(value.numel() * value.element_size()):
            self.undo.append(functools.partial(_put_back_tensor, value, value.detach().clone()))
        elif not value.is_inference():
            self.undo.append(functools.partial(_warn_if_changed, path, value, value._version))

    def _note_array(self, value: np.ndarray) -> None:
        if value.flags.writeable and not isinstance(value, np.memmap) and self._fits(value.nbytes):
            self.undo.append(functools.partial(_put_back_array, value, value.copy()))

    def _fits(self, n_bytes: int) -> bool:
        fits = self._bytes + n_bytes <= MOST_BYTES
        self._bytes += n_bytes if fits else 0
        return fits


def _put_back_attributes(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    if list(now) != list(before) or any(now[name] is not value for name, value in before.items()):
        now.clear()
        now.update(before)


def _put_back_items(now: Any, before: list[Any]) -> None:
    if len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True)):
        return
    now.clear()
    (now.update if isinstance(now, set) else now.extend)(before)


def _put_back_tensor(now: torch.Tensor, before: torch.Tensor) -> None:
    if now.shape == before.shape and not torch.equal(now.detach(), before):
        with torch.inference_mode(now.is_inference()), torch.no_grad():
            now.copy_(before)


def _put_back_array(now: np.ndarray, before: np.ndarray) -> None:
    if now.flags.writeable and now.shape == before.shape:
        np.copyto(now, before)


def _warn_if_changed(path: str, tensor: torch.Tensor, version: int) -> None:
    if tensor._version != version:
        rank_zero_warn(
            f"A trial changed the tensor `{path}` in place. It is too large to be restored, so later trials and the "
            "outer fit train on other data than the first trial did. Change a copy of it instead."
        )


def _plain_attributes(cls: type) -> dict[str, Any]:
    return {n: v for n, v in vars(cls).items() if isinstance(v, _PLAIN) and not n.startswith("__")}


def _put_back_class(cls: type, before: dict[str, Any]) -> None:
    now = _plain_attributes(cls)
    for name in now.keys() - before.keys():
        delattr(cls, name)
    for name, value in before.items():
        if name not in now or now[name] is not value:
            setattr(cls, name, value)


def _is_data(cls: type) -> bool:
    """Whether the attributes of an instance are its whole state, as far as can be known from its class."""
    return issubclass(cls, _KINDS) or cls.__module__.partition(".")[0] == "omegaconf" or _is_of_user(cls)


def _is_of_user(cls: type) -> bool:
    """Whether a class is defined neither in an installed package nor in the standard library."""
    if cls.__module__ == "__main__":  # a script, or a notebook, which has no file
        return True
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)  # built-in modules have none
    return file is not None and not is_installed(file)


@functools.lru_cache(maxsize=1024)
def is_installed(file: str) -> bool:
    """Whether a file of Python code belongs to an installed package, to this one, or to the standard library."""
    if file.startswith("<frozen "):
        return True
    path = Path(file).resolve()
    return any(path.is_relative_to(root) for root in _installed_roots())


@functools.lru_cache(maxsize=1)
def _installed_roots() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    roots = {sysconfig.get_path(name) for name in names} | {*site.getsitepackages(), site.getusersitepackages()}
    return (*(Path(root).resolve() for root in roots if root), Path(__file__).resolve().parents[1])
