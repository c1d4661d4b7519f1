"""What a module costs: parameters, FLOPs of a forward, seconds of one."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Of one module and one input.

    Attributes:
        parameters: how many numbers.
        flops: of a forward; a multiplication and an addition are two.
        seconds: of a forward in eval mode, the median; None where it was not measured.
    """

    parameters: int
    flops: int
    seconds: float | None = None


def cost_of(module: nn.Module, example_inputs: Any, *, latency: bool = False) -> Cost:
    """Parameters and FLOPs, and seconds where `latency`; the module is left as it is."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    seconds = seconds_of(module, example_inputs) if latency else None
    return Cost(parameters, flops_of(on_meta(module), example_inputs), seconds)


def flops_of(meta: nn.Module, example_inputs: Any) -> int:
    """Of a forward of a module on the meta device, where every kind of layer is made of operations that are counted."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(meta, inputs_on_meta(example_inputs))
    return int(counter.get_total_flops())


def flops_by_density(
    meta: nn.Module,
    example_inputs: Any,
    densities: Mapping[str, float],  # path of a module -> share of its weights that is not 0
) -> tuple[int, int]:
    """Of a forward, as `flops_of`: all, and those that multiply with a weight other than 0.

    The second is what kernels could save that pass over zeros; those of torch do not.
    """
    root = type(meta).__name__
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(meta, inputs_on_meta(example_inputs))
    counted = counter.get_flop_counts()
    spared = sum(sum(counted.get(f"{root}.{path}", {}).values()) * (1 - d) for path, d in densities.items())
    whole = int(counter.get_total_flops())
    return whole, whole - round(spared)


def seconds_of(module: nn.Module, example_inputs: Any, runs: int = 15) -> float:
    """The median of some forwards in eval mode, on the device and with the threads that there are."""
    return seconds_of_each([module], example_inputs, runs)[0]


def seconds_of_each(modules: Sequence[nn.Module], example_inputs: Any, runs: int = 15) -> list[float]:
    """As `seconds_of`, in turns: what else the machine does slows down all alike."""
    times: list[list[float]] = [[] for _ in modules]
    with torch.no_grad(), ExitStack() as modes:
        for module in modules:
            modes.enter_context(_eval_mode(module))
        for _ in range(runs + 2):
            for module, own in zip(modules, times, strict=True):
                _wait(example_inputs)
                start = time.perf_counter()
                call(module, example_inputs)
                _wait(example_inputs)
                own.append(time.perf_counter() - start)
    return [statistics.median(own[2:]) for own in times]


def call(module: nn.Module, example_inputs: Any) -> Any:
    """A tuple is the arguments, a dict the keywords, anything else the one argument."""
    if isinstance(example_inputs, tuple):
        return module(*example_inputs)
    return module(**example_inputs) if isinstance(example_inputs, dict) else module(example_inputs)


def detached_copy(module: nn.Module) -> nn.Module:
    """A deep copy without the Trainer that a LightningModule knows."""
    trainer = getattr(module, "_trainer", None)
    return copy.deepcopy(module, {} if trainer is None else {id(trainer): None})


def on_meta(module: nn.Module) -> nn.Module:
    """A copy in eval mode with shapes but no memory."""
    return detached_copy(module).to("meta").eval()


def inputs_on_meta(example_inputs: Any) -> Any:
    """With every tensor replaced by its shape."""
    return tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, example_inputs)


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training


def _wait(example_inputs: Any) -> None:
    for leaf in tree_leaves(example_inputs):
        if isinstance(leaf, Tensor) and leaf.is_cuda:
            torch.cuda.synchronize(leaf.device)
