"""A module as it is used, not trained, and left exactly as it was: modes, buffers, trainer and random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_autoarch.structure import left_as_it_was
from lightning_autoarch.training.isolation import seeded


@contextlib.contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no trainer, fixed random numbers; all of it returns, whatever the block does.

    A forward in it may write to buffers, hang others in their places, or set attributes: the old ones return.
    """
    with seeded(0), torch.no_grad(), left_as_it_was(module):
        module.eval()
        for child in module.modules():
            if isinstance(child, LightningModule):
                child.trainer = None
        yield


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
