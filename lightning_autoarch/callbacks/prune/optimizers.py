"""Optimizers as pruning sees them: others inside of them, what they keep beside the weights, and when they write.

torch's own optimizers write to the weights in `step()` only. Others may write in methods of their own
(sharpness-aware minimisation: first_step, second_step), swap weights for an average (schedule-free ones), or step
another optimizer that they wrap. Masks hold there too if nothing that is masked ever moves: its gradient is 0 from the
backward pass on, and what the optimizer remembers of it (momentum, slow weights) is set to 0 when it is masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lightning_autoarch.prune.magnitude import apply_masks_
from lightning_autoarch.prune.masked import MaskedWeights

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def with_inner(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """These, and those that they hold in their attributes, each once."""
    found: dict[int, Optimizer] = {}
    waiting = list(optimizers)
    while waiting:
        optimizer = waiting.pop(0)
        if id(optimizer) not in found:
            found[id(optimizer)] = optimizer
            waiting.extend(_held_by(optimizer))
    return list(found.values())


def writes_in_step_only(optimizer: Optimizer) -> bool:
    """Whether it is one of torch's that change weights once in a step, and nowhere else."""
    return type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, LBFGS)


def clear_state_(optimizers: Iterable[Optimizer], weights: MaskedWeights) -> None:
    """Set to 0 what optimizers remember of masked weights: tensors in their state with the shape of the weight."""
    for optimizer in optimizers:
        state = getattr(optimizer, "state", None)
        if not isinstance(state, Mapping):
            continue
        for parameter, mask in zip(weights.parameters, weights.masks, strict=True):
            for tensor in _like(parameter, state.get(parameter)):
                apply_masks_([tensor], [mask.to(tensor.device)])


def _like(parameter: Tensor, remembered: Any) -> list[Tensor]:
    values: Sequence[Any] = list(remembered.values()) if isinstance(remembered, Mapping) else []
    return [v for v in values if isinstance(v, Tensor) and v.shape == parameter.shape and v.dtype in DTYPES]


def _held_by(optimizer: Optimizer) -> Iterator[Optimizer]:
    for value in getattr(optimizer, "__dict__", {}).values():
        several = list(value.values()) if isinstance(value, dict) else value
        for each in several if isinstance(several, list | tuple) else [several]:
            if _is_optimizer(each):
                yield each


def _is_optimizer(value: object) -> bool:
    """An `Optimizer`, or an object of another library that behaves like one."""
    if isinstance(value, type):
        return False
    return isinstance(value, Optimizer) or (callable(getattr(value, "step", None)) and hasattr(value, "param_groups"))
