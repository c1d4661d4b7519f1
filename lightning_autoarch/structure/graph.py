"""`ChannelGraph`: a module traced once, and what can be computed from the trace without running it again.

groups             the groups of coupled channels
parameters, flops  the cost with fewer units, from the sizes of tensors and of every product that ran
remove_            remove units and verify the result, or name the groups for which that failed
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from lightning_autoarch.core.errors import ResizeError, StructureError
from lightning_autoarch.structure.flow import Flow
from lightning_autoarch.structure.groups import ChannelGroup, groups_of
from lightning_autoarch.structure.labels import Labels, squeezed, varying
from lightning_autoarch.structure.layout import ChannelLayout
from lightning_autoarch.structure.resize import Resized, resize_
from lightning_autoarch.structure.resize_plan import find_group, plan
from lightning_autoarch.structure.trace import Trace, trace

Keep = Mapping[str, Sequence[int]]  # name of a group -> units that stay
Alive = NDArray[np.int64]  # of each root: 1 while it is there


@dataclass
class ChannelGraph:
    """The coupled channels of a module.

    Attributes:
        module: that was traced. After resizing it, create a new graph.
        example_inputs: that it was traced with.
    """

    module: nn.Module
    example_inputs: object
    _seen: Trace
    _groups: list[tuple[ChannelGroup, tuple[int, ...]]]
    _rows: dict[int, list[tuple[int, Labels]]] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, example_inputs: object) -> ChannelGraph:
        """Trace the forward once in each mode; arguments and errors as for `trace`."""
        seen = trace(module, example_inputs)
        return cls(module, example_inputs, seen, groups_of(seen))

    @property
    def groups(self) -> list[ChannelGroup]:
        """All groups, including those that are fixed."""
        return [group for group, _ in self._groups]

    def parameters(self, keep: Keep) -> int:
        """The number of parameters that the module would have."""
        alive = self._alive(keep)
        tensors = self._seen.tensors.values()
        return sum(
            math.prod(int(alive[self._seen.sets.roots(row)].sum()) for row in rows)
            for tensor, rows in tensors
            if isinstance(tensor, nn.Parameter)
        )

    def flops(self, keep: Keep) -> int:
        """FLOPs of a forward in eval mode: of every product that ran, with the sizes that it would have.

        Operations that only the kernels of the dense module run are not counted.
        """
        alive, total = self._alive(keep), 0.0

        def shape(layout: ChannelLayout) -> tuple[int, ...]:
            return self._shape(layout, alive)

        for product in (step.product for step in self._evaluated.steps if step.product is not None):
            args, kwargs, out = tree_map_only(ChannelLayout, shape, (product.args, product.kwargs, product.output))
            total += product.times * product.formula(*args, **kwargs, out_val=out)
        return round(total)

    def remove_(self, keep: Keep, optimizers: Iterable[Optimizer] = ()) -> Resized:
        """Remove all units of the named groups except those given; see `remove_channels_`.

        Raises:
            ResizeError: the forward is not the planned one; the error names the groups that may be the cause.
            StructureError: the request is invalid. In both cases the module is unchanged.
        """
        counts = {name: _kept(find_group(self._groups, name), units) for name, units in keep.items()}
        if all(all(count) for count in counts.values()):
            raise StructureError("Expected units to remove, but every unit of the groups given in `keep` is kept.")
        planned = plan(self._seen, self._groups, counts)
        try:
            return resize_(self.module, self.example_inputs, self._seen, planned, optimizers)
        except ResizeError as error:
            error.groups = self._at_fault(error, keep)
            raise

    @property
    def _evaluated(self) -> Flow:
        """The forward in eval mode, or in the one mode that ran."""
        other = self._seen.other
        return other if self._seen.training and other is not None else self._seen.flow

    def _alive(self, keep: Keep) -> Alive:
        alive = np.ones(self._seen.sets.size, dtype=np.int64)
        for group, roots in self._groups:
            if group.name in keep:
                alive[list(roots)] = 0
                alive[[roots[unit] for unit in keep[group.name]]] = 1
        return alive

    def _shape(self, layout: ChannelLayout, alive: Alive) -> tuple[int, ...]:
        shape = list(layout.shape)
        for dim, roots in self._rows_of(layout):
            shape[dim] = int(alive[roots].sum())
        return tuple(shape)

    def _rows_of(self, layout: ChannelLayout) -> list[tuple[int, Labels]]:
        """Dimensions with channels, and the root of every index."""
        if id(layout) not in self._rows:
            sets = self._seen.sets
            small = [squeezed(sets, factor) for factor in layout.factors]
            self._rows[id(layout)] = [(d, sets.roots(f).reshape(-1)) for f in small for d in varying(f)]
        return self._rows[id(layout)]

    def _at_fault(self, error: ResizeError, keep: Keep) -> tuple[str, ...]:
        """Those of the reduced groups that occur in the step that differs, or else in the steps around it."""
        if error.position is None:
            return tuple(keep)
        mode, number = error.position
        steps = self._seen.flows[mode].steps
        names = {root: group.name for group, roots in self._groups if group.name in keep for root in roots}
        for near in range(4):
            around = steps[max(number - near, 0) : number + near + 1]
            layouts = [layout for step in around for layout in (*step.outputs, *step.inputs)]
            roots = {root for layout in layouts for _, row in self._rows_of(layout) for root in np.unique(row).tolist()}
            found = {names[root] for root in roots if root in names}
            if found:
                return tuple(name for name in keep if name in found)
        return tuple(keep)


def _kept(group: ChannelGroup, units: Sequence[int]) -> list[int]:
    chosen = {int(unit) for unit in units}
    if not chosen or len(chosen) != len(units) or not chosen <= set(range(group.width)):
        raise StructureError(
            f"Expected `keep` of `{group.name}` to be distinct units in [0, {group.width}), at least one, "
            f"got {units!r:.80}."
        )
    return [int(unit in chosen) for unit in range(group.width)]


def remove_channels_(
    module: nn.Module,
    example_inputs: object,
    keep: Mapping[str, Sequence[int]],
    optimizers: Iterable[Optimizer] = (),
) -> Resized:
    """Remove all units of the named groups except those given, in place.

    Args:
        module: any. Its parameters stay the same objects, with a smaller `grad`.
        example_inputs: as for `trace`.
        keep: name of a group of `channel_groups` -> the units to keep, at least one, in any order.
        optimizers: whose state is reduced as well.

    Raises:
        StructureError: no such group or unit, a fixed group, nothing to remove, or a forward that does not follow (a
            size written into the code). Everything is as before then.
    """
    return ChannelGraph.of(module, example_inputs).remove_(keep, optimizers)
