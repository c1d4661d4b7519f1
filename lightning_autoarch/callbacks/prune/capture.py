"""Calls of a module, seen from outside: its inputs and its outputs, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_autoarch.core.errors import PruneValueError

Seen = Callable[[tuple[Any, ...], dict[str, Any], Any], None]  # positional arguments, named ones, output


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
