"""The conditions under which a forward runs only for its shapes; afterwards everything is restored.

nn.LSTM, nn.GRU and nn.RNN run over two steps instead of all, because every step couples the same channels.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from lightning_autoarch.core.rest import attributes_kept
from lightning_autoarch.core.rng import generators_kept
from lightning_autoarch.structure.attention import heads_spelled_out

REPEATED: ContextVar[float] = ContextVar("REPEATED", default=1.0)  # how often an operation runs in place of once
STEPS = 2  # the first from the state that is given, the second from one that was computed


@contextlib.contextmanager
def sequences_shortened(module: nn.Module) -> Iterator[None]:
    """A sequence of 500 steps would be thousands of operations; packed sequences run as they are."""
    kinds = (nn.LSTM, nn.GRU, nn.RNN)
    layers = [m for m in module.modules() if type(m) in kinds and "forward" not in m.__dict__]
    for layer in layers:
        layer.__dict__["forward"] = functools.partial(_forward, layer, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _forward(layer: nn.Module, forward: Any, input: Any, hx: Any = None) -> Any:
    time = 1 if bool(layer.batch_first) and isinstance(input, Tensor) and input.dim() == 3 else 0
    if not isinstance(input, Tensor) or input.shape[time] <= STEPS:
        return forward(input, hx)
    before = REPEATED.set(input.shape[time] / STEPS)
    try:
        out, state = forward(input.narrow(time, 0, STEPS), hx)
    finally:
        REPEATED.reset(before)
    sizes = list(out.shape)
    sizes[time] = input.shape[time] - STEPS
    return torch.cat([out, out.narrow(time, STEPS - 1, 1).expand(sizes)], time), state


@contextlib.contextmanager
def scene(module: nn.Module, *, flipped: bool) -> Iterator[FakeTensorMode]:
    """Fake tensors, no gradients, fused kernels spelled out, attributes of every module restored at the end.

    Args:
        module: whose forward is to run.
        flipped: train instead of eval, or the other way round.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # in which operations would not come as their parts
        stack.enter_context(generators_kept({tensor.device for tensor in module.parameters()}))
        stack.enter_context(attributes_kept(module))
        if flipped:
            module.train(not module.training)
        if any(hasattr(m, "_orig_mod") for m in module.modules()):  # compiled: run what it was compiled from
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings(action="ignore"))  # the forward that computes will warn
        stack.enter_context(_plain_kernels())
        stack.enter_context(heads_spelled_out(module))
        stack.enter_context(sequences_shortened(module))
        stack.enter_context(_SpelledOut())
        stack.enter_context(torch.no_grad())
        stack.enter_context(fake)
        yield fake


class _SpelledOut(TorchFunctionMode):
    """Functions of which torch has several ways, one of them for all: their choice depends on sizes and layouts."""

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return SPELLED_OUT.get(func, func)(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.dim() != 2 or input.dim() < 2:
        return F.linear(input, weight, bias)
    rows = input.reshape(-1, input.shape[-1])
    product = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
    return product.view(*input.shape[:-1], weight.shape[0])


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    over = [d for d in range(v.dim()) if dim == -1 or d != dim % v.dim()]
    norm: Tensor = torch.linalg.vector_norm(v, dim=over, keepdim=dim != -1)
    return v * (g / norm)


def _bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """sum_ij a_i weight_oij b_j."""
    half = a.reshape(-1, a.shape[-1]) @ weight  # (o, n, j)
    product = (half * b.reshape(-1, b.shape[-1])).sum(-1).t().reshape(*a.shape[:-1], weight.shape[0])
    return product if bias is None else product + bias


def _repeat_interleave(x: Tensor, repeats: int | Tensor, dim: int | None = None, **options: Any) -> Tensor:
    if not isinstance(repeats, int) or dim is None:
        return torch.repeat_interleave(x, repeats, dim, **options)
    dim %= x.dim()
    return x.unsqueeze(dim + 1).expand(*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :]).flatten(dim, dim + 1)


SPELLED_OUT: dict[Any, Any] = {
    F.linear: _linear,
    F.bilinear: _bilinear,
    torch._weight_norm: _weight_norm,
    torch.repeat_interleave: _repeat_interleave,
    Tensor.repeat_interleave: _repeat_interleave,
}


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Composite operations come as their parts: no oneDNN or cuDNN LSTM, no fused attention, no encoder fast path."""
    fast = torch.backends.mha.get_fastpath_enabled()
    mkldnn, cudnn = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(mkldnn)
        torch._C._set_cudnn_enabled(cudnn)


def reachable_tensors(value: object, depth: int = 8) -> Iterator[Tensor]:
    """Every tensor in what a forward returned: containers, dataclasses and other objects are looked into."""
    if isinstance(value, Tensor):
        yield value
    elif depth and not isinstance(value, (str, bytes, int, float, complex, bool, type, nn.Module, type(None))):
        if isinstance(value, Mapping):
            inside = list(value.values())
        elif isinstance(value, (tuple, list, set, frozenset)):
            inside = list(value)
        else:
            inside = list(getattr(value, "__dict__", {}).values())
        for part in inside:
            yield from reachable_tensors(part, depth - 1)
