"""A module as it is used, not trained, and left exactly as it was: modes, buffers, trainer and random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_autoarch.prune.state import as_bytes
from lightning_autoarch.training.isolation import seeded


@contextlib.contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no trainer, fixed random numbers; all of it returns, whatever the block does.

    A forward in it may write to buffers, or hang others in their places: the old ones return with their values.
    """
    modes = {child: child.training for child in module.modules()}
    trainers = {child: child._trainer for child in module.modules() if isinstance(child, LightningModule)}
    try:
        with seeded(0), torch.no_grad(), buffers_kept(module):
            module.eval()
            for child in trainers:
                child._trainer = None
            yield
    finally:
        for each, mode in modes.items():
            each.training = mode  # `train()` may be overridden, and goes down to all children
        for child, trainer in trainers.items():
            child._trainer = trainer


@contextlib.contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """The buffers return to their places with their values."""
    before = [(child._buffers, dict(child._buffers)) for child in module.modules() if child._buffers]
    values = {id(buffer): _copy(buffer) for _, held in before for buffer in held.values() if buffer is not None}
    try:
        yield
    finally:
        for buffers, held in before:
            buffers.clear()
            buffers.update(held)
            for buffer in held.values():
                if buffer is not None:
                    _put_back(buffer, values[id(buffer)])


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _put_back(buffer: Tensor, value: Tensor) -> None:
    """Only what changed is written: a write counts as one for autograd."""
    if not buffer.is_meta and not torch.equal(as_bytes(_copy(buffer)), as_bytes(value)):
        buffer.detach().copy_(value)


def device_of(module: nn.Module) -> torch.device:
    """Of its first parameter or buffer; the CPU where there is none."""
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of inputs or outputs, from mappings, lists and tuples, in their order.

    >>> [t.item() for t in tensors_in({"a": torch.tensor(1), "b": (torch.tensor(2), None)})]
    [1, 2]
    """
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "values") and callable(value.values):  # a dict, or an output class that is like one
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, list | tuple) else []
