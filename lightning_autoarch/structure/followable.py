"""Which of the recorded calls can be followed; what cannot, because it samples or looks at values, is looked into."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.core.rest import left_unchanged
from lightning_autoarch.structure.calls import CallRecorder, Calls, ModuleCall, run_on
from lightning_autoarch.structure.trace import trace


def followable(module: nn.Module, calls: Calls) -> tuple[Calls, dict[str, str]]:
    """Calls that can be followed: those given, or, of each that cannot be, those that it makes.

    Args:
        module: a copy to try it with, as what cannot be followed really runs.
        calls: as recorded.

    Returns:
        The calls, and path -> why, of those that were replaced.
    """
    try:
        trace(module, calls)
    except StructureError as error:
        if len(calls.calls) == 1:
            path = calls.calls[0].path
            inside, reasons = followable(module, _inside(module, calls.calls[0]))
            return inside, {path: str(error), **reasons}
        parts = [followable(module, Calls((call,))) for call in calls.calls]
        return (
            Calls(tuple(call for part, _ in parts for call in part.calls)),
            {path: why for _, reasons in parts for path, why in reasons.items()},
        )
    return calls, {}


def _inside(module: nn.Module, call: ModuleCall) -> Calls:
    """The outermost calls that a call makes; none where it raises."""
    recorder = CallRecorder(module, still_too=True, inside=call.path)
    # Whatever a forward raises: what it called before may do.
    with left_unchanged(module), torch.no_grad(), contextlib.suppress(Exception), recorder:
        run_on(module, Calls((call,)))
    return recorder.calls
