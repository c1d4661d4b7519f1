"""All or nothing: tensors, gradients, attributes and optimizer state come back if anything raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Transaction:
    """Remembers what resizing touches; on an exception puts it back.

    Args:
        module: all of whose attributes are remembered.
        tensors: whose data and gradients may be replaced. Data is never written into, so a reference is enough.
        optimizers: whose state may be replaced.
    """

    def __init__(self, module: nn.Module, tensors: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers
        self._mode = torch.inference_mode(False)  # in which new data would be useless for training
        self._data = [(x, x.data, x.grad) for x in tensors]
        self._modules = [(m, type(m), dict(m.__dict__)) for m in module.modules()]
        self._states = [(o, {p: dict(state) for p, state in o.state.items()}) for o in optimizers]

    def __enter__(self) -> Transaction:
        self._mode.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._mode.__exit__(None, None, None)
        if kind is None:
            return
        for tensor, data, grad in self._data:
            set_data(tensor, data, grad)
        for module, its_class, attributes in self._modules:
            module.__class__ = its_class
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for optimizer, states in self._states:
            for parameter, state in states.items():
                _restore(optimizer.state[parameter], state)


def _restore(state: dict[str, Any], before: Mapping[str, Any]) -> None:
    state.clear()
    state.update(before)


def set_data(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    """Give a parameter or buffer other data, of another shape too, and a gradient of it.

    A graph that is still alive keeps the parameter's accumulator, made for the old shape, and a later backward would
    meet it. Torch renews an accumulator when the dtype changes, so the data passes through another dtype.
    """
    tensor.grad = None
    if tensor.requires_grad and tensor.is_leaf:
        other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data
    tensor.grad = grad
