"""The plan of a resize: what happens to every unit, and therefore to every index of every dimension.

    removed unit: no copy      kept unit: itself      replicated unit: itself and new labels

A dimension is a row of units, in runs: [a a b b c c | a a b b c c]. Each run is repeated as often as its unit has
copies, which keeps the layout of the dimension (blocks of gates, heads, concatenation, flattened pixels).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lightning_autoarch.core.errors import StructureError, did_you_mean
from lightning_autoarch.structure.groups import ChannelGroup
from lightning_autoarch.structure.labels import Labels
from lightning_autoarch.structure.trace import Trace

Index = tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """The change of one parameter or buffer.

    Attributes:
        name: in the state_dict.
        shape: before the change.
        index: for each dimension that changes, the old index of every new index.
    """

    name: str
    shape: tuple[int, ...]
    index: Mapping[int, Index]

    @property
    def new_shape(self) -> tuple[int, ...]:
        """The shape after the change."""
        return tuple(len(self.index[d]) if d in self.index else n for d, n in enumerate(self.shape))

    @property
    def grows(self) -> bool:
        """Whether an old index occurs more than once."""
        return any(len(set(i)) < len(i) for i in self.index.values())


@dataclass(frozen=True)
class ResizePlan:
    """The labels that each changed unit has afterwards."""

    copies: Mapping[int, Sequence[int]]  # root -> labels; an absent root is unchanged
    known: int  # labels below this are channels that are known to differ

    def row(self, roots: Labels) -> tuple[Labels, Labels]:
        """For a dimension with these roots, the old index and the label of every new index."""
        if self._gone is not None:
            index = np.flatnonzero(~self._gone[roots])
            return index, roots[index]
        return self._copied_row(roots)

    @cached_property
    def _gone(self) -> NDArray[np.bool_] | None:
        """Whether each label goes; None where some are there several times."""
        if any(len(labels) > 1 for labels in self.copies.values()):
            return None
        gone = np.zeros(self.known, dtype=np.bool_)
        gone[[root for root, labels in self.copies.items() if not labels]] = True
        return gone

    def _copied_row(self, roots: Labels) -> tuple[Labels, Labels]:
        bounds = [0, *(np.flatnonzero(np.diff(roots)) + 1).tolist(), len(roots)] if len(roots) else [0]
        index: list[int] = []
        labels: list[int] = []
        for start, stop in itertools.pairwise(bounds):
            root = int(roots[start])
            for label in self.copies.get(root, (root,)):
                index += range(start, stop)
                labels += [label] * (stop - start)
        return np.array(index, dtype=np.int64), np.array(labels, dtype=np.int64)


def plan(
    seen: Trace,
    groups: Sequence[tuple[ChannelGroup, tuple[int, ...]]],
    counts: Mapping[str, Sequence[int]],  # of each group: the number of copies of each unit afterwards
) -> ResizePlan:
    """The plan that gives every unit of the named groups these numbers of copies."""
    known = seen.sets.size
    copies: dict[int, list[int]] = {}
    for group, roots in groups:
        for root, count in zip(roots, counts.get(group.name, ()), strict=False):
            extra = max(count - 1, 0)
            copies[root] = [root, *range(known, known + extra)][:count]
            known += extra
    return ResizePlan(copies, known)


def changes(seen: Trace, planned: ResizePlan) -> tuple[list[Change], dict[str, tuple[Labels, ...]]]:
    """The change of every tensor, and the labels of all dimensions afterwards."""
    changed: list[Change] = []
    labels: dict[str, tuple[Labels, ...]] = {}
    for name, (tensor, rows) in seen.tensors.items():
        roots = [seen.sets.roots(row) for row in rows]
        resized = [planned.row(row) for row in roots]
        labels[name] = tuple(label for _, label in resized)
        index = {
            d: tuple(i.tolist())
            for d, (i, _) in enumerate(resized)
            if len(i) != len(roots[d]) or not np.array_equal(i, np.arange(len(i)))
        }
        if index:
            changed.append(Change(name, tuple(tensor.shape), index))
    return changed, labels


def find_group(
    groups: Sequence[tuple[ChannelGroup, tuple[int, ...]]],
    name: str,
) -> ChannelGroup:
    """The group of that name.

    Raises:
        StructureError: there is no such group, or it is fixed.
    """
    named = {group.name: group for group, _ in groups}
    if name not in named:
        raise StructureError(f"Expected the name of a channel group, got {name!r}.{did_you_mean(name, named)}")
    if named[name].fixed is not None:
        raise StructureError(f"The channels of `{name}` have to stay: {named[name].fixed}.")
    return named[name]
