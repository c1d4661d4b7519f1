"""Optimizers that LightningCLI made from a config, made again for every candidate.

LightningCLI binds a `configure_optimizers` to the *instance*, holding an optimizer over the parameters that the module
had then. Kept after a rebuild it would step parameters that no longer exist: training would silently do nothing.
`LateOptimizers` makes them when they are asked for; those of a plain LightningCLI are remade over the new parameters.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_autoarch.core.errors import SearchError

MakeOptimizers = Callable[[LightningModule], tuple[torch.optim.Optimizer | None, Any]]


class LateOptimizers:
    """A `configure_optimizers` that makes its optimizer and scheduler over the module that it is called for.

    Args:
        configure: `configure(module, optimizer=..., lr_scheduler=...)`, such as `LightningCLI.configure_optimizers`.
        make: returns (optimizer, scheduler or None) over a module's parameters.
    """

    def __init__(self, configure: Callable[..., Any], make: MakeOptimizers) -> None:
        functools.update_wrapper(self, configure)  # `is_overridden` looks for `__wrapped__`
        self.make = make

    def __call__(self, module: LightningModule) -> Any:
        optimizer, lr_scheduler = self.make(module)
        return self.__wrapped__(module, optimizer=optimizer, lr_scheduler=lr_scheduler)  # type: ignore[attr-defined]

    def bind(self, module: LightningModule) -> None:
        """Make this the `configure_optimizers` of the instance."""
        module.configure_optimizers = MethodType(self, module)  # type: ignore[method-assign]


def carried_optimizers(module: LightningModule) -> LateOptimizers | None:
    """The `configure_optimizers` that was bound to the instance, ready for other modules; None if there is none."""
    bound = module.__dict__.get("configure_optimizers")
    if bound is None:
        return None
    function = getattr(bound, "__func__", bound)
    if isinstance(function, LateOptimizers):
        return function
    if isinstance(function, functools.partial) and "optimizer" in function.keywords:
        made = (function.keywords["optimizer"], function.keywords.get("lr_scheduler"))
        return LateOptimizers(function.func, lambda other: _remade(*made, other))
    return LateOptimizers(_ignoring_optimizers(function), lambda other: (None, None))


def check_optimizers_hold_the_module(trainer: Trainer, module: LightningModule) -> None:
    """Check, once the strategy has made the optimizers, that every parameter in them is the module's.

    Raises:
        SearchError: an optimizer made before the rebuild is still there; it would train nothing.
    """
    own = {id(parameter) for parameter in module.parameters()}
    for optimizer in trainer.optimizers:
        strangers = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]
        if strangers and not own & {id(p) for group in optimizer.param_groups for p in group["params"]}:
            raise SearchError(
                f"{type(optimizer).__name__} holds {len(strangers)} parameters that are not the module's: it was made "
                "before the search rebuilt the module. Make optimizers inside `configure_optimizers`."
            )


def _ignoring_optimizers(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def configure(module: LightningModule, optimizer: Any, lr_scheduler: Any) -> Any:
        return function(module)

    return configure


def _remade(
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    module: LightningModule,
) -> tuple[torch.optim.Optimizer, Any]:
    """Copies of an unused optimizer and its scheduler over `module`'s parameters instead of their own."""
    memo: dict[int, Any] = {id(group["params"]): list(module.parameters()) for group in optimizer.param_groups[:1]}
    if len(optimizer.param_groups) > 1:
        raise SearchError("An optimizer with several parameter groups cannot be remade: write `configure_optimizers`.")
    remade = copy.deepcopy(optimizer, memo)
    memo[id(optimizer)] = remade
    if scheduler is None:
        return remade, None
    _track_steps(remade)
    return remade, copy.deepcopy(scheduler, memo)


def _track_steps(optimizer: torch.optim.Optimizer) -> None:
    """What a scheduler's `__init__` does to its optimizer, and a copy does not: note that `step` was called."""
    step = type(optimizer).step

    @functools.wraps(step)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return step(optimizer, *args, **kwargs)

    tracked._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = tracked  # type: ignore[method-assign]
