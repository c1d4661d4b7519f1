"""A `training_step` that also teaches: the calls of a module in it are watched and repeated by a teacher.

The module's inputs and outputs are seen from outside, whether it is compiled or not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune.distillation import OutputLoss

Seen = Callable[[tuple[Any, ...], dict[str, Any], Any], None]  # positional arguments, named ones, output
Step = Callable[..., Any]
Given = nn.Module | str | Path | None  # as a teacher


class DistilledStep:
    """A `training_step` that teaches; it lies on the instance while a fit runs.

    A copy or pickle of the module that is made meanwhile has the step that was there before.
    """

    def __init__(
        self,
        module: LightningModule,
        layer: str,
        teacher: nn.Module,
        distance: OutputLoss,
        weight: float,
        key: str,
    ) -> None:
        self.before: Step = module.training_step
        # Lightning looks at the signature of `__wrapped__`, and no deeper.
        self.__wrapped__ = getattr(self.before, "__wrapped__", self.before)
        self.was_on_instance = "training_step" in module.__dict__
        self.module, self.layer, self.teacher = module, layer, teacher
        self.distance, self.weight, self.key = distance, weight, key
        self.active = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return self.before(*args, **kwargs)
        distances: list[Tensor] = []
        with watching(self.module.get_submodule(self.layer), functools.partial(self._compare, distances)):
            output = self.before(*args, **kwargs)
        if output is None:
            return None
        if not distances:
            raise self._nothing_called()
        distance = torch.stack(distances).mean()
        self.module.log(self.key, distance.detach())
        return _added(output, self.weight * distance)

    def __reduce__(self) -> tuple[Callable[[Step], Step], tuple[Step]]:
        return _itself, (self.before,)

    def install(self) -> None:
        self.active = True
        self.module.training_step = self  # type: ignore[method-assign]

    def remove(self) -> None:
        """Stop teaching, and leave the instance as it was; what was wrapped around this meanwhile goes first."""
        self.active = False
        while isinstance(top := self.module.__dict__.get("training_step"), DistilledStep) and not top.active:
            if top.was_on_instance:
                self.module.training_step = top.before  # type: ignore[method-assign]
            else:
                del self.module.training_step

    def _compare(self, distances: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        with torch.no_grad():
            expected = self.teacher(*args, **kwargs)
        distances.append(self.distance(output, expected))

    def _nothing_called(self) -> PruneValueError:
        called = f"`{self.layer}`" if self.layer else "the module itself, as `self(x)`,"
        children = ", ".join(f"`layer={name!r}`" for name, _ in self.module.named_children())
        return PruneValueError(
            f"`training_step` of {type(self.module).__name__} never called {called} with gradients, so there is no "
            f"output to compare (`forward(x)` is no call). Name the submodule that computes it: {children}."
        )


@contextmanager
def watching(module: nn.Module, seen: Seen) -> Iterator[None]:
    """Within it, `seen` is called after every call of the module. Afterwards no trace is left.

    `module.forward(x)` is no call. Raises PruneValueError in a call that changes its inputs in place.
    """
    if module._compiled_call_impl is None:
        with _hooked(module, seen):
            yield
    else:  # `module.compile()`: hooks would be part of what was compiled, with the `seen` of the first time
        with _intercepted(module, seen):
            yield


def is_compiled(module: nn.Module) -> bool:
    """By `module.compile()` or `torch.compile(module)`."""
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


@contextmanager
def _hooked(module: nn.Module, seen: Seen) -> Iterator[None]:
    running: list[_Inputs] = []  # a module may call itself

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(_Inputs(args, kwargs))

    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        running.pop().check(module)
        seen(args, kwargs, output)

    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _intercepted(module: nn.Module, seen: Seen) -> Iterator[None]:
    compiled = module._compiled_call_impl
    assert compiled is not None

    def call(*args: Any, **kwargs: Any) -> Any:
        inputs = _Inputs(args, kwargs)
        output = compiled(*args, **kwargs)
        inputs.check(module)
        seen(args, kwargs, output)
        return output

    module._compiled_call_impl = call
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


class _Inputs:
    """Notices when tensors are written."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and not x.is_inference()]
        self._versions = [(tensor, tensor._version) for tensor in leaves]

    def check(self, module: nn.Module) -> None:
        if any(tensor._version != version for tensor, version in self._versions):
            raise PruneValueError(
                f"{type(module).__name__} changes its inputs in place, so that the teacher would not see what it saw. "
                "Name the submodule before or after that by `layer`, or write it without."
            )


def _itself(step: Step) -> Step:
    return step


def _added(output: Any, term: Tensor) -> Any:
    """What a `training_step` returned, with a term in its loss; Lightning itself refuses other kinds."""
    if isinstance(output, Tensor):
        return output + term
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        return {**output, "loss": output["loss"] + term}
    return output
