"""Layers that are run by reentrant activation checkpointing get a gradient only if their inputs require one.

`torch.utils.checkpoint.checkpoint(block, x, use_reentrant=True)` runs the block without autograd, and again in the
backward pass, which reaches it only through `x`. If everything below is frozen, `x` requires no gradient, so neither
the block nor its adapters ever get one, and torch only warns.

So if the code of a module names `checkpoint`, the outputs of its frozen layers are made to require a gradient in the
first batch, and for the whole fit if a layer that is ever trained is run in this way. It costs the backward pass
through the frozen layers in between. In other modules such layers are watched: one that would not learn raises before
its first step.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import RemovableHandle

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.tune.thawing import Thaw

NAMES = {"checkpoint", "checkpoint_sequential", "_gradient_checkpointing_func"}  # the last one is of transformers


class Recomputed:
    """Watches the layers that are trained in any phase.

    Args:
        module: The module with these parameters.
        parameters: Name -> parameter.
        thaw: Name -> phase from which on it is trained; None for never.

    Attributes:
        found: Whether one of them is run by reentrant checkpointing, or may be.
        training: Whether a training batch is running.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, Parameter], thaw: Thaw) -> None:
        self.found = _may_recompute(module)
        self.training = self._seen = False
        self._reaching: list[RemovableHandle] = []
        self._names = {id(p): name for name, p in parameters.items() if thaw[name] is not None}
        self._module = module
        self._handles: list[RemovableHandle] = []
        if any(phase != 0 for phase in thaw.values()):
            for layer in module.modules():
                if any(id(p) in self._names for p in layer._parameters.values()):
                    self._handles.append(layer.register_forward_pre_hook(self._before))

    def reach(self) -> None:
        """Let gradients pass through frozen layers, if they have to."""
        if self.found and self._handles and not self._reaching:
            for layer in self._module.modules():
                if layer._parameters:
                    self._reaching.append(layer.register_forward_hook(self._after))

    def settle(self) -> None:
        """After a batch, stop gradients at frozen layers if nothing was recomputed."""
        self.training, self.found = False, self._seen
        if not self.found:
            self._remove(self._reaching)

    def detach(self) -> None:
        """Remove all hooks."""
        self._remove(self._handles)
        self._remove(self._reaching)

    def _remove(self, handles: list[RemovableHandle]) -> None:
        for handle in handles:
            handle.remove()
        handles.clear()

    def _before(self, layer: nn.Module, args: Any) -> None:
        if torch.is_grad_enabled() or not self.training or (checkpoint := _checkpoint()) is None:
            return
        self._seen = True
        if any(checkpoint.needs_input_grad):
            return
        own = [p for p in layer._parameters.values() if id(p) in self._names]
        trained = [self._names[id(p)] for p in own if p is not None and p.requires_grad]
        if trained:
            raise TransferError(
                f"`{trained[0]}` is trained, but would get no gradient: reentrant activation checkpointing runs it on "
                "inputs that need none, as everything below is frozen. Pass `use_reentrant=False` to `checkpoint`, or "
                "let the inputs require a gradient (`enable_input_require_grads()` of transformers)."
            )

    def _after(self, layer: nn.Module, args: Any, output: Any) -> Any:
        if not self.training or not torch.is_grad_enabled():
            return output
        return tree_map_only(Tensor, _requiring, output)


def _requiring(output: Tensor) -> Tensor:
    """The output if it requires a gradient; otherwise a copy that does, and may be changed in place."""
    if output.requires_grad or not output.is_floating_point():
        return output
    return output.detach().requires_grad_(True).clone()


def _checkpoint() -> Any:
    """The context of the innermost reentrant checkpoint that is running."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            return frame.f_locals["ctx"]
        frame = frame.f_back
    return None


def _may_recompute(module: nn.Module) -> bool:
    """Whether the code of a module, or of one in it, names a function for activation checkpointing."""
    classes = {each for layer in module.modules() for each in type(layer).__mro__}
    own = [each for each in classes if not each.__module__.startswith(("torch.", "lightning."))]
    functions = [value for each in own for value in vars(each).values() if inspect.isfunction(value)]
    return any(NAMES.intersection(function.__code__.co_names) for function in functions)
