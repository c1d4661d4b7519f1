"""nn.LSTM, nn.GRU and nn.RNN over two steps in place of all: every step couples the same channels."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

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
