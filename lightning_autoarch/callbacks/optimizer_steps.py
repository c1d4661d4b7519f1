"""Calls a function after each optimizer step that really changed weights.

A step that torch's GradScaler skips does not reach most optimizers at all. Fused optimizers are called and leave their
weights unchanged; while they run, the scaler sets their `found_inf`.

An optimizer that wraps another one, or comes from another library, may never have called `Optimizer.__init__`, or may
not be an `Optimizer`, so that it has none of torch's hooks. Its `step` is then wrapped on the instance until removed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MethodType
from typing import Any, Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

AfterStep = Callable[[Optimizer], None]
Hook = Callable[[Optimizer, Any, Mapping[str, Any]], None]  # with the arguments of `step`


class _Removable(Protocol):
    def remove(self) -> None: ...


class StepHooks:
    """Calls a function after each step of optimizers, until removed."""

    def __init__(self, after_step: AfterStep) -> None:
        self._after_step = after_step
        self._handles: dict[int, _Removable] = {}
        self._optimizers: list[Optimizer] = []  # so that no other gets the id of one

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """Add these optimizers; those that are attached already are skipped."""
        for optimizer in optimizers:
            if id(optimizer) not in self._handles:
                self._handles[id(optimizer)] = _hooked(optimizer, self._hook)
                self._optimizers.append(optimizer)

    def remove(self) -> None:
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self._optimizers.clear()

    def _hook(self, optimizer: Optimizer, args: Any, kwargs: Mapping[str, Any]) -> None:
        if not was_skipped(optimizer, kwargs):
            self._after_step(optimizer)


def _hooked(optimizer: Optimizer, hook: Hook) -> _Removable:
    if hasattr(optimizer, "_optimizer_step_post_hooks"):  # made by `Optimizer.__init__`
        return optimizer.register_step_post_hook(hook)
    return _WrappedStep(optimizer, hook)


class _WrappedStep:
    """Replaces the `step` of one optimizer by one that calls a hook afterwards."""

    def __init__(self, optimizer: Optimizer, hook: Hook) -> None:
        self._optimizer = optimizer
        self._hook: Hook | None = hook
        self._before = vars(optimizer).get("step")  # a learning-rate scheduler may have put its own there
        step = optimizer.step

        @functools.wraps(getattr(step, "__func__", step))
        def wrapped(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            if self._hook is not None:
                self._hook(optimizer, args, kwargs)
            return result

        self._wrapped = MethodType(wrapped, optimizer)  # bound: schedulers ask for its __func__
        self._set(self._wrapped)

    def remove(self) -> None:
        self._hook = None  # another wrapper may hold on to this one, which then does nothing
        if vars(self._optimizer).get("step") is self._wrapped:
            if self._before is None:
                del self._optimizer.step
            else:
                self._set(self._before)

    def _set(self, step: Callable[..., Any]) -> None:
        self._optimizer.step = step  # type: ignore[method-assign]


def optimizers_of(trainer: Trainer) -> list[Optimizer]:
    """The optimizers of a Trainer, without the `LightningOptimizer` wrappers that a module may have returned."""
    return [o.optimizer if isinstance(o, LightningOptimizer) else o for o in trainer.optimizers]


def was_skipped(optimizer: Optimizer, kwargs: Mapping[str, Any]) -> bool:
    """Whether GradScaler skips the step that is running. With a fused optimizer this waits for the device.

    Args:
        optimizer: whose step post-hook is running.
        kwargs: the keyword arguments of its `step`.
    """
    found = getattr(optimizer, "found_inf", None)
    if found is not None:
        return bool(found)
    scaler = kwargs.get("grad_scaler")  # the argument that optimizers of other libraries take instead
    if scaler is None:
        return False
    return any(bool(value) for value in scaler._found_inf_per_device(optimizer).values())


def loss_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """The factor that gradients still have in `on_before_optimizer_step`: fused optimizers divide by it later."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return float(scaler.get_scale())


def overflowed(trainer: Trainer, gradients: Iterable[Tensor]) -> bool:
    """Whether there is a GradScaler that skipped the step of these gradients. This waits for the device."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and not all(bool(gradient.isfinite().all()) for gradient in gradients)
