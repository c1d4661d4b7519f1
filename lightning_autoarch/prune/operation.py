"""What every operation on weights has in common: its name in torch.profiler, its refusal to be traced, and the notice
to autograd that it wrote to tensors.

Where torch records a graph (`torch.jit.trace`, `make_fx`, `torch.export`), a call is refused: it would work on the
example once and be missing from the graph.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.profiler import record_function

from lightning_autoarch.core.errors import TracingError

PROXIES = "torch.fx.experimental.proxy_tensor"  # while it is not imported, nothing is recorded

P = ParamSpec("P")
R = TypeVar("R")


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Shown in torch.profiler as `pruning_<name>`; a graph break under torch.compile, an error while tracing.

    This does what `torch.compiler.disable` does, without importing the compiler, which takes seconds: the caller's
    graph breaks here, and nothing that is called from here is compiled.
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
    """Exclude the body of the function from compilation. torch has no public name for this: if it is moved, the call
    is still a graph break, and only the profiler no longer shows it under torch.compile.
    """
    eval_frame = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    names = ("_FrameExecStrategy", "_FrameAction", "set_code_exec_strategy")
    if all(hasattr(eval_frame, name) for name in names):
        strategy, action, set_strategy = (getattr(eval_frame, name) for name in names)
        set_strategy(function.__code__, strategy(action.SKIP, action.SKIP))


def announce(tensors: Iterable[Tensor]) -> None:
    """Increment the version counter of each tensor once, so that a backward pass that saved the old value fails."""
    each = {id(tensor): tensor for tensor in tensors}.values()
    torch.autograd.graph.increment_version(
        [tensor for tensor in each if not tensor.is_inference()]
    )  # those have no counter


def refuse_tracing(name: str) -> None:
    """Raises TracingError while a graph is being recorded; `name` is that of the operation."""
    if torch._C._get_tracing_state() is not None:
        recorder = "torch.jit.trace"
    elif PROXIES in sys.modules and sys.modules[PROXIES].get_proxy_mode() is not None:
        recorder = "make_fx or torch.export"
    else:
        return
    raise TracingError(
        f"Expected a call of `{name}` outside of {recorder}, which cannot record it: prune before or after the trace."
    )
