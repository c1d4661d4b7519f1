"""The cost of a module: its parameters, and the FLOPs and seconds of a forward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lightning_autoarch.core.examples import META, moved_to
from lightning_autoarch.core.rest import detached_copy, left_unchanged, meta_copy
from lightning_autoarch.structure.calls import run_on


@dataclass(frozen=True)
class Cost:
    """The cost of one module for one input.

    Attributes:
        parameters: number of parameters.
        flops: of a forward; a multiplication and an addition count as two.
        seconds: of a forward in eval mode, the median; None where it was not measured.
    """

    parameters: int
    flops: int
    seconds: float | None = None


def cost_of(module: nn.Module, example_inputs: object, *, latency: bool = False) -> Cost:
    """Parameters and FLOPs, and with `latency` also seconds; the module is unchanged afterwards."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    seconds = seconds_of(module, example_inputs) if latency else None
    with left_unchanged(module):
        return Cost(parameters, _flops_of_copy(module, example_inputs), seconds)


def _flops_of_copy(module: nn.Module, example_inputs: object) -> int:
    """On the meta device, or with memory where the forward reads values."""
    try:
        return count_flops(run_on, meta_copy(module).eval(), moved_to(example_inputs, META))
    except RuntimeError:
        return count_flops(run_on, detached_copy(module).eval(), example_inputs)


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """FLOPs of a call without gradients, the same on every device: kernels that hide their products are disabled."""
    with torch.no_grad(), _composed(), FlopCounterMode(display=False) as counter:
        function(*args, **kwargs)
    return int(counter.get_total_flops())


def flops_by_density(
    module: nn.Module,
    example_inputs: object,
    densities: Mapping[str, float],  # path of a module -> share of its weights that is not 0
) -> tuple[int, int]:
    """FLOPs of a forward: all of them, as in `cost_of`, and those that multiply with a weight other than 0.

    The difference is what kernels could save that skip zeros; those of torch do not.
    """
    with left_unchanged(module), torch.no_grad():
        copied, inputs = cheap_copy(module, example_inputs)
        root = type(copied).__name__
        with _composed(), FlopCounterMode(display=False) as counter:
            run_on(copied, inputs)
    counted = counter.get_flop_counts()
    spared = sum(sum(counted.get(f"{root}.{path}", {}).values()) * (1 - d) for path, d in densities.items())
    whole = int(counter.get_total_flops())
    return whole, whole - round(spared)


def cheap_copy(module: nn.Module, example_inputs: object) -> tuple[nn.Module, Any]:
    """A copy in eval mode for trying forwards, and its inputs: on the meta device, without memory.

    A forward that reads values, as language models do for padding, cannot run there: then both have memory.
    """
    meta, inputs = meta_copy(module).eval(), moved_to(example_inputs, META)
    try:
        with torch.no_grad():
            run_on(meta, inputs)
    except RuntimeError:  # what else may be wrong with the forward shows again where the copy is used
        return detached_copy(module).eval(), example_inputs
    return meta, inputs


def seconds_of(module: nn.Module, example_inputs: object, runs: int = 15) -> float:
    """The median seconds of `runs` forwards in eval mode, on the device of the module."""
    return seconds_of_each([module], example_inputs, runs)[0]


def seconds_of_each(modules: Sequence[nn.Module], example_inputs: object, runs: int = 15) -> list[float]:
    """`seconds_of` each module, run in turns so that other load on the machine affects all of them alike."""
    times: list[list[float]] = [[] for _ in modules]
    with torch.no_grad(), ExitStack() as stack:
        for module in modules:
            stack.enter_context(left_unchanged(module))
            module.eval()
        for _ in range(runs + 2):
            for module, own in zip(modules, times, strict=True):
                _wait(example_inputs)
                start = time.perf_counter()
                run_on(module, example_inputs)
                _wait(example_inputs)
                own.append(time.perf_counter() - start)
    return [statistics.median(own[2:]) for own in times]


@contextmanager
def _composed() -> Iterator[None]:
    """Let recurrent, attention and encoder layers of torch run as operations that are counted."""
    onednn, fast = torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mkldnn.enabled = onednn
        torch.backends.mha.set_fastpath_enabled(fast)


def _wait(example_inputs: object) -> None:
    for leaf in tree_leaves(example_inputs):
        if isinstance(leaf, Tensor) and leaf.is_cuda:
            torch.cuda.synchronize(leaf.device)
