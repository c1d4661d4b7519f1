"""What surrounds every operation: its name in torch.profiler, and autograd's notice of what was written without it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.profiler import record_function

from lightning_autoarch.prune.tracing import refuse_tracing

P = ParamSpec("P")
R = TypeVar("R")


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Shows in torch.profiler as `pruning_<name>`; under torch.compile a call is a graph break, in a trace an error.

    That is `torch.compiler.disable`, without importing the compiler (seconds) for everybody: the caller breaks its
    graph, and nothing that is called from here is compiled.
    """

    @functools.wraps(function)
    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_tracing(function.__name__)
        with record_function(f"pruning_{function.__name__}"):
            return function(*args, **kwargs)

    named._torchdynamo_disable = True  # type: ignore[attr-defined]
    _leave_uncompiled(named)
    return named


def _leave_uncompiled(function: Callable[..., object]) -> None:
    """Keep the compiler out of the function's inside. torch has no public name for it: where it has moved, the call is
    a graph break all the same, and only the profiler loses sight of it under torch.compile.
    """
    eval_frame = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    names = ("_FrameExecStrategy", "_FrameAction", "set_code_exec_strategy")
    if all(hasattr(eval_frame, name) for name in names):
        strategy, action, set_strategy = (getattr(eval_frame, name) for name in names)
        set_strategy(function.__code__, strategy(action.SKIP, action.SKIP))


def announce(tensors: Iterable[Tensor]) -> None:
    """Raise the version counters, each tensor's once: a backward pass that saved a value then fails, not errs."""
    each = {id(tensor): tensor for tensor in tensors}.values()
    torch.autograd.graph.increment_version([tensor for tensor in each if not tensor.is_inference()])  # has no counter
