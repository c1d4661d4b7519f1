"""How masked weights are held at 0 over a fit, whatever its optimizers are.

torch's own optimizers write to the weights in `step()` only. Others write in methods of their own (sharpness-aware
minimisation: first_step, second_step), swap weights for an average (schedule-free ones), or step another optimizer that
they wrap. Masks hold there too if a masked weight never moves: its gradient is set to 0 after the backward pass, and
the state that the optimizer keeps of it (momentum, slow weights) is set to 0 when it is masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lightning_autoarch.callbacks.optimizer_steps import AfterStep, StepHooks
from lightning_autoarch.prune.magnitude import apply_masks_
from lightning_autoarch.prune.masked import MaskedWeights

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Holding:
    """Calls a function after each step of the optimizers of a fit, and of the optimizers inside of them.

    Attributes:
        optimizers: all of them; empty outside of a fit.
        writes_outside: whether one of them may write to weights outside of its `step()`.
    """

    def __init__(self, after_step: AfterStep) -> None:
        self._call = after_step
        self._hooks = StepHooks(self._after_step)
        self._stepped = False
        self.optimizers: list[Optimizer] = []
        self.writes_outside = False

    def begin(self, optimizers: Iterable[Optimizer]) -> None:
        self.end()
        self.optimizers = with_inner(optimizers)
        self.writes_outside = not all(map(writes_in_step_only, self.optimizers))
        self._hooks.attach(self.optimizers)

    def end(self) -> None:
        self._hooks.remove()
        self.optimizers, self.writes_outside, self._stepped = [], False, False

    def masks_changed(self, weights: MaskedWeights) -> None:
        """Clear the state of masked weights in optimizers that write outside of their step."""
        if self.writes_outside:
            clear_state_(self.optimizers, weights)

    def batch_ended(self) -> bool:
        """Whether an optimizer has stepped since the last call."""
        stepped, self._stepped = self._stepped, False
        return stepped

    def _after_step(self, optimizer: Optimizer) -> None:
        self._stepped = True
        self._call(optimizer)


def with_inner(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """The optimizers and those that they hold in their attributes, each once."""
    found: dict[int, Optimizer] = {}
    waiting = list(optimizers)
    while waiting:
        optimizer = waiting.pop(0)
        if id(optimizer) not in found:
            found[id(optimizer)] = optimizer
            waiting.extend(_held_by(optimizer))
    return list(found.values())


def writes_in_step_only(optimizer: Optimizer) -> bool:
    """Whether it is one of torch's optimizers that change weights once in a step and nowhere else."""
    return type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, LBFGS)


def clear_state_(optimizers: Iterable[Optimizer], weights: MaskedWeights) -> None:
    """Set the state of masked weights to 0: tensors in the state of an optimizer with the shape of the weight."""
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
    """Whether it is an `Optimizer`, or an object of another library that behaves like one."""
    if isinstance(value, type):
        return False
    return isinstance(value, Optimizer) or (callable(getattr(value, "step", None)) and hasattr(value, "param_groups"))
