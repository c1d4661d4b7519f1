"""A forward that leaves nothing behind: what it sets on its modules, its buffers and random numbers are put back."""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)  # whose contents are put back too


@contextlib.contextmanager
def left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Modes, attributes, buffers and random number generators of a module are afterwards what they are now.

    What a forward writes into parameters stays: it is not expected to.
    """
    devices = {tensor.device for tensor in [*module.parameters(), *module.buffers()]}
    with generators_kept(devices), attributes_kept(module), _values_kept(module):
        yield


@contextlib.contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """What a forward sets on its modules (a hidden state, a cache, a metric, a counter, a mode) is undone."""
    before = [(m, dict(m.__dict__)) for m in module.modules()]
    contents = [(v, v.copy()) for _, attributes in before for v in attributes.values() if type(v) in CONTAINERS]
    try:
        yield
    finally:
        for m, attributes in before:
            m.__dict__.clear()
            m.__dict__.update(attributes)
        for container, content in contents:
            _refill(container, content)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(container, (list, deque)) else container.update(content)


@contextlib.contextmanager
def _values_kept(module: nn.Module) -> Iterator[None]:
    """Values of buffers, and of plain tensors that are attributes."""
    held = {id(x): x for m in module.modules() for x in [*m._buffers.values(), *m.__dict__.values()] if _is_strided(x)}
    before = [(tensor, tensor.detach().clone()) for tensor in held.values()]
    try:
        yield
    finally:
        for tensor, value in before:
            if not tensor.is_meta and _differ(tensor, value):  # a write counts as one for autograd
                tensor.detach().copy_(value)


def _is_strided(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not isinstance(value, nn.Parameter)


def _differ(tensor: Tensor, value: Tensor) -> bool:
    return type(tensor) is not Tensor or not torch.equal(_bytes(tensor), _bytes(value))


def _bytes(tensor: Tensor) -> Tensor:
    """NaN equals itself here, and 0.0 is not -0.0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@contextlib.contextmanager
def generators_kept(devices: set[torch.device]) -> Iterator[None]:
    """The global random number generators of torch, numpy and Python."""
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=cuda):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
