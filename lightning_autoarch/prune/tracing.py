"""Where torch records a graph (`torch.jit.trace`, `make_fx`, `torch.export`) a call is refused: it would work on the
example once, and be missing in the graph.
"""

from __future__ import annotations

import sys

import torch

from lightning_autoarch.core.errors import TracingError

PROXIES = "torch.fx.experimental.proxy_tensor"  # nothing records while it is not imported


def refuse_tracing(name: str) -> None:
    """Raise while a graph is recorded.

    Args:
        name: of the operation that is called.

    Raises:
        TracingError: one is.
    """
    if torch._C._get_tracing_state() is not None:
        recorder = "torch.jit.trace"
    elif PROXIES in sys.modules and sys.modules[PROXIES].get_proxy_mode() is not None:
        recorder = "make_fx or torch.export"
    else:
        return
    raise TracingError(
        f"Expected a call of `{name}` outside of {recorder}, which cannot record it: prune before or after the trace."
    )
