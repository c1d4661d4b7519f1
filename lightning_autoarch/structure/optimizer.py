"""`carry_optimizer_state`: the moments of the channels that stayed go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.resize_plan import Change


def carry_optimizer_state(optimizer: Optimizer, changed: Mapping[Tensor, Change]) -> None:
    """Index the state of every parameter that changed as the parameter was indexed.

    Parameters keep their identity, so `param_groups` and the keys of the state stay as they are. Each dimension of a
    state tensor is that of the parameter, which is indexed, or 1, which is left (Adafactor's rows and columns). A
    replicated channel takes its moments along.

    Args:
        optimizer: any whose state is tensors of the parameter's shape, and scalars: SGD, Adam and their kin.
        changed: parameter -> what became of it.

    Raises:
        StructureError: a state tensor of another shape, LBFGS, or an optimizer that wraps another. Nothing is changed
            then.
    """
    held = {p: changed[p] for group in optimizer.param_groups for p in group["params"] if p in changed}
    if held:
        check_carriable(optimizer)
    states = {p: _carried(optimizer.state[p], change) for p, change in held.items() if p in optimizer.state}
    for p, state in states.items():
        optimizer.state[p].update(state)


def check_carriable(optimizer: Optimizer) -> None:
    """Whether the state of an optimizer is its own, one tensor a parameter.

    Raises:
        StructureError: it is LBFGS, or it steps another optimizer, whose state would stay as large as it was.
    """
    if isinstance(optimizer, LBFGS):
        raise StructureError("LBFGS keeps its state as one vector of all parameters: it cannot be carried along.")
    held = [x for value in vars(optimizer).values() for x in (value if isinstance(value, list | tuple) else [value])]
    inner = next((x for x in held if isinstance(x, Optimizer) and x is not optimizer), None)
    if inner is not None:
        raise StructureError(
            f"{type(optimizer).__name__} steps another optimizer, {type(inner).__name__}, whose state cannot be "
            "carried along."
        )


def _carried(state: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """The entries that change."""
    return {key: cut(value, change, key) for key, value in state.items() if isinstance(value, Tensor) and value.dim()}


def cut(value: Tensor, change: Change, key: str) -> Tensor:
    """A tensor of a parameter's shape, or of 1 in some dimensions, indexed as the parameter."""
    sizes = tuple(value.shape)
    if len(sizes) != len(change.shape) or any(n not in (1, m) for n, m in zip(sizes, change.shape, strict=True)):
        raise StructureError(
            f"Expected optimizer state `{key}` of `{change.name}` to have its shape {change.shape}, got {sizes}: "
            "the state of this optimizer cannot be carried along."
        )
    return indexed(value, {d: i for d, i in change.index.items() if sizes[d] == change.shape[d]})


def indexed(value: Tensor, index: Mapping[int, tuple[int, ...]]) -> Tensor:
    """A new tensor of the chosen indices, in the memory format of the old one."""
    result = value.detach()
    for dim, places in index.items():
        result = result.index_select(dim, result.new_tensor(places, dtype=torch.long))
    if result is value or not index:
        return value.detach().clone()
    return like_format(result, value)


def like_format(result: Tensor, value: Tensor) -> Tensor:
    """Channels last where the old tensor was."""
    for dims, memory in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if value.dim() == dims and not value.is_contiguous() and value.is_contiguous(memory_format=memory):
            return result.contiguous(memory_format=memory)
    return result
