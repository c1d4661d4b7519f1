"""Does a resized module compute what was planned? Its forward is followed again, from the labels that were kept.

Every operation must be the one that ran in the dense module, with the shapes that the plan gives, on the same channels:
a head that became another head, a slice that reads other channels, sizes written into the code are all found, by
shapes or by two different channels that would have to be one. No weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.flow import Flow, OpStep
from lightning_autoarch.structure.labels import Labels, LabelSets, squeezed, varying
from lightning_autoarch.structure.layout import ChannelLayout
from lightning_autoarch.structure.resize_plan import ResizePlan
from lightning_autoarch.structure.trace import Trace
from lightning_autoarch.structure.tracer import run

# These come and go with the memory layout of their inputs.
FREE = frozenset({"aten::clone", "aten::contiguous", "aten::view"})
SAME = {"aten::_unsafe_view": "aten::view", "aten::_reshape_alias": "aten::view", "aten::reshape": "aten::view"}


@dataclass(frozen=True)
class Failure:
    """Where the resized forward is not as planned.

    Attributes:
        position: mode and number of the step: a later one is progress.
        module: path of the module that was running.
        sizes: dense and planned sizes at that step: what an attribute of the module may have to become.
        message: for people.
    """

    position: tuple[int, int]
    module: str
    sizes: tuple[tuple[int, int], ...]
    message: str


class _Mismatch(StructureError):
    """A step is not the planned one."""


def check(
    module: nn.Module,
    example_inputs: object,
    dense: Trace,
    planned: ResizePlan,
    tensors: Mapping[str, tuple[Tensor, tuple[Labels, ...]]],  # of the resized module, with their planned labels
) -> Failure | None:
    """None if the forward of the resized module is the planned one in every mode that was followed."""
    for mode, flow in enumerate(dense.flows):
        comparison = _Comparison(dense, planned, flow.steps)
        sets = LabelSets(planned.known, distinct=True)
        small = Flow(sets, tensors)
        try:
            run(module, example_inputs, small, flipped=bool(mode), watch=comparison.see)
            comparison.end(sets)
        except StructureError as error:
            return comparison.failure(mode, str(error))
    return None


def group_norm_sizes(dense: Trace, planned: ResizePlan) -> dict[str, tuple[int, int]]:
    """Path of a module that runs a group norm -> channels and groups that it is to have.

    Its statistics are (N, groups). Sizes alone cannot tell whether whole groups went or equally many of each.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for flow in dense.flows:
        comparison = _Comparison(dense, planned, flow.steps)
        for step in flow.steps:
            if step.op == "aten::native_group_norm":
                out, mean = (comparison.shape(layout) for layout in step.outputs[:2])
                sizes[step.module] = (out[1], mean[1])
    return sizes


@dataclass
class _Comparison:
    """With the steps of the dense forward, one after the other."""

    dense: Trace
    planned: ResizePlan
    steps: list[OpStep]
    seen: int = 0
    pairs: list[tuple[OpStep, int]] = field(
        default_factory=list
    )  # steps that ran, and the place of their expected ones

    def see(self, step: OpStep) -> None:
        """Raise unless the step is the planned one."""
        while self.seen < len(self.steps) and self._may_skip(step):
            self.seen += 1
        if self.seen >= len(self.steps):
            raise _Mismatch(f"Expected the forward to end, but {step.place} followed.")
        expected = self.steps[self.seen]
        if not _alike(step, expected):
            if _name(step) in FREE:
                return
            raise _Mismatch(f"Expected {expected.place}, but {step.place} ran: the forward took another way.")
        if step.numbers != expected.numbers:
            raise _Mismatch(
                f"Expected the numbers {expected.numbers} in {step.place}, got {step.numbers}: "
                "is a scale made of the number of channels?"
            )
        for out, before in zip(step.outputs, expected.outputs, strict=True):
            shape = self.shape(before)
            if out.shape != shape:
                raise _Mismatch(
                    f"Expected a result of shape {shape} from {step.place} (before: {before.shape}), got {out.shape}: "
                    "is a size written into the code?"
                )
        self.pairs.append((step, self.seen))
        self.seen += 1

    def _may_skip(self, step: OpStep) -> bool:
        """Whether the expected step is one that need not come."""
        expected = self.steps[self.seen]
        return _name(expected) in FREE and not _alike(step, expected) and _name(step) not in FREE

    def end(self, sets: LabelSets) -> None:
        """Raise unless every result has the planned channels in their planned places."""
        if any(_name(step) not in FREE for step in self.steps[self.seen :]):
            raise _Mismatch(f"Expected {self.steps[self.seen].place}, but the forward ended.")
        for step, i in self.pairs:
            for out, before in zip(step.outputs, self.steps[i].outputs, strict=True):
                if not self._same_channels(sets, out, before):
                    self.seen = i
                    raise _Mismatch(f"{step.place} reads other channels than planned: is a position in the code?")

    def shape(self, before: ChannelLayout) -> tuple[int, ...]:
        """That a result has if it is resized as planned."""
        shape = list(before.shape)
        for dim, row in self._rows(before):
            shape[dim] = len(self.planned.row(row)[0])
        return tuple(shape)

    def _rows(self, layout: ChannelLayout) -> list[tuple[int, Labels]]:
        """Dimensions that have channels, with the root of every index."""
        rows: list[tuple[int, Labels]] = []
        for factor in layout.factors:
            small = squeezed(self.dense.sets, factor)
            dims = varying(small)  # one: `trace` cut them; none where it is one unit, which stays
            rows += [(dim, self.dense.sets.roots(small).reshape(-1)) for dim in dims]
        return rows

    def _same_channels(self, sets: LabelSets, out: ChannelLayout, before: ChannelLayout) -> bool:
        for dim, row in self._rows(before):
            wanted = self.planned.row(row)[1]
            factor = out.factor_over(dim)
            if len(wanted) == len(row) or len(np.unique(wanted)) == 1:
                continue  # nothing moved, or there is one unit
            if factor is None:
                return False
            found = sets.roots(squeezed_row(sets, factor, dim))
            known = found < self.planned.known
            if len(found) != len(wanted) or not np.array_equal(found[known], wanted[known]):
                return False
        return True

    def failure(self, mode: int, message: str) -> Failure:
        """What is known about where it went wrong."""
        near = self.steps[max(self.seen - 1, 0) : self.seen + 2]
        here = self.steps[min(self.seen, len(self.steps) - 1)] if self.steps else OpStep("", "", ())
        sizes = [
            (old, new)
            for step in (here, *near)
            for out in step.outputs
            for old, new in zip(out.shape, self.shape(out), strict=True)
            if old != new
        ]
        return Failure((mode, self.seen), here.module, tuple(dict.fromkeys(sizes)), message)


def _name(step: OpStep) -> str:
    return SAME.get(step.op, step.op)


def _alike(a: OpStep, b: OpStep) -> bool:
    return (_name(a), a.module) == (_name(b), b.module)


def squeezed_row(sets: LabelSets, factor: Labels, dim: int) -> Labels:
    """The labels along one dimension, at the first index of the others."""
    return factor[tuple(slice(None) if d == dim else 0 for d in range(factor.ndim))]
