"""`trace`: follow the channels through the forward of any module.

The forward runs once on fake tensors (shapes without memory) below autograd, where only ATen operations are left:
every view, LSTM step and attention product passes by, whatever Python wrote it. Why not torch.export or torch.fx: both
must make a program of the forward and refuse what they cannot express (a hook, a metric, an attribute that is set);
here the forward only has to run. Where it reads *values* of tensors, the fake tensors refuse: there is an error that
names the place. A branch on sizes is followed as the example takes it.

`followable` selects, from recorded calls, those that can be traced. A call that cannot, because it samples or reads
values, is replaced by the calls that it makes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.core.rest import left_unchanged
from lightning_autoarch.structure.calls import CallRecorder, Calls, ModuleCall, run_on
from lightning_autoarch.structure.flow import Flow
from lightning_autoarch.structure.labels import Labels, LabelSets, squeezed, varying
from lightning_autoarch.structure.normed import SPECTRAL, spectral_normed, weight_normed
from lightning_autoarch.structure.tracer import run


@dataclass(frozen=True)
class Trace:
    """What was seen.

    Attributes:
        sets: what became one unit.
        tensors: parameters and buffers by their first name, with the labels of each dimension.
        flow: of the forward in the mode that the module is in.
        training: the mode of `flow`.
        other: of the forward in the other mode, train or eval: what is used in training only, such as an auxiliary
            head, has to fit as well. None where the forward does not run in that mode with these inputs.
        unreached: parameters that no forward touched: they are in no group.
    """

    sets: LabelSets
    tensors: Mapping[str, tuple[Tensor, tuple[Labels, ...]]]
    flow: Flow
    training: bool
    other: Flow | None

    @property
    def flows(self) -> tuple[Flow, ...]:
        """One for every mode that ran."""
        return (self.flow,) if self.other is None else (self.flow, self.other)

    @property
    def unreached(self) -> tuple[str, ...]:
        """Names of parameters that no forward used."""
        reached = set().union(*(flow.reached for flow in self.flows))
        return tuple(n for n, (x, _) in self.tensors.items() if isinstance(x, nn.Parameter) and n not in reached)


def trace(module: nn.Module, example_inputs: object) -> Trace:
    """Follow every channel through the forward of `module`, which is unchanged afterwards.

    Only what the forward runs is seen. Where a `training_step` calls parts of the module in another way, pass recorded
    `Calls`, or trace a small module whose forward does both and returns both results.

    Args:
        module: any; the forward of a LightningModule is traced like any other.
        example_inputs: a tensor (the one argument), a tuple or list (positional arguments) or a dict (keyword
            arguments). Only shapes, dtypes and devices matter.

    Raises:
        StructureError: the forward cannot be followed; the message names the module and the operation.
    """
    tensors = _labelled(named_tensors(module))
    sets = LabelSets(sum(sum(x.shape) for x, _ in tensors.values()))
    normed = frozenset(_names_of(tensors, (each.v for each in weight_normed(module))))
    flow, other = Flow(sets, tensors, normed=normed), Flow(sets, tensors, normed=normed)
    for name in _names_of(tensors, spectral_normed(module)):
        for row in tensors[name][1][:2]:
            sets.fix(row, SPECTRAL)
    run(module, example_inputs, flow)
    try:
        run(module, example_inputs, other, flipped=True)
    except StructureError:  # such as BatchNorm of a single value in train: then that mode has no say
        result = Trace(sets, tensors, flow, module.training, None)
    else:
        result = Trace(sets, tensors, flow, module.training, other)
    _make_rectangular(result)
    return result


def _names_of(tensors: Mapping[str, tuple[Tensor, object]], some: Iterable[Tensor]) -> list[str]:
    wanted = {id(tensor) for tensor in some}
    return [name for name, (tensor, _) in tensors.items() if id(tensor) in wanted]


def _labelled(named: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, tuple[Labels, ...]]]:
    """Every index of every dimension has a label of its own."""
    ends = iter(itertools.accumulate(n for x in named.values() for n in x.shape))
    return {
        name: (x, tuple(np.arange(end - n, end, dtype=np.int64) for n, end in zip(x.shape, ends, strict=False)))
        for name, x in named.items()
    }


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each object once, under its first name.

    Raises:
        StructureError: a parameter has no shape yet.
    """
    named = dict([*module.named_parameters(), *module.named_buffers()])
    for name, tensor in named.items():
        if is_lazy(tensor):
            raise StructureError(f"Expected parameters with shapes, but `{name}` is lazy: run the module once before.")
    return named


def _make_rectangular(trace: Trace) -> None:
    """What stays of a tensor is a block of it: a factor over several dimensions is cut along the first of them only.

    Merging in one tensor can make another one smaller or one dimension less, hence the loop.
    """
    factors = [f for flow in trace.flows for step in flow.steps for out in step.outputs for f in out.factors]
    wide = [f for f in factors if len(varying(f)) > 1]
    before = -1
    while before != (before := sum(_cut_along_first(trace.sets, f) for f in wide)):
        pass


def _cut_along_first(sets: LabelSets, factor: Labels) -> int:
    """Merge along all dimensions but the first that still varies. Returns 1 where something merged."""
    small = squeezed(sets, factor)
    if len(varying(small)) < 2:
        return 0
    first = varying(small)[0]
    index = tuple(slice(None) if d == first else slice(0, 1) for d in range(small.ndim))
    sets.merge(small, small[index])
    return 1


def followable(module: nn.Module, calls: Calls) -> tuple[Calls, dict[str, str]]:
    """The calls that can be traced; one that cannot is replaced by the calls that it makes.

    Args:
        module: a copy for trying, because a call that cannot be traced is really run.
        calls: as recorded.

    Returns:
        The calls, and path -> reason for those that were replaced.
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
    """The outermost calls that a call makes, also before it raises."""
    recorder = CallRecorder(module, still_too=True, inside=call.path)
    # Whatever a forward raises: what it called before may do.
    with left_unchanged(module), torch.no_grad(), contextlib.suppress(Exception), recorder:
        run_on(module, Calls((call,)))
    return recorder.calls
