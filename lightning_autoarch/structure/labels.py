"""Labels: which index of which dimension is which channel, as sets that merge.

Every index of every dimension of every parameter begins as a label of its own. An operation that needs two indices to
stay or to go together merges their labels (union-find). What is one set at the end is one *unit*: removed as a whole.

    u ~ v   the root of u is the root of v        fixed(u)   the unit of u has to stay, for a reason

Labels are integers in numpy arrays: views of a tensor are then views of its array of labels, and no torch mode sees
them. Merging only ever makes units larger, so the order in which operations are seen does not matter for soundness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


class LabelClash(Exception):
    """Two labels that are known to be different channels would have to be one."""


class LabelSets:
    """Union-find over labels, with a reason for every set that must not change, and marks.

    Args:
        count: the first so many labels are those of parameters and buffers.
        distinct: they are known to be different channels: merging two of them raises LabelClash.
    """

    def __init__(self, count: int, *, distinct: bool = False) -> None:
        self._parent: Labels = np.arange(max(count, 1024), dtype=np.int64)
        self._size = self._count = count
        self._known = count if distinct else 0
        self._reasons: dict[int, str] = {}
        self._marks: dict[str, set[int]] = {}

    @property
    def size(self) -> int:
        """How many labels there are."""
        return self._size

    def fresh(self, count: int) -> Labels:  # (count,)
        """New labels, each a set of its own."""
        first, self._size = self._size, self._size + count
        if self._size > len(self._parent):
            more = np.arange(len(self._parent), 2 * self._size, dtype=np.int64)
            self._parent = np.concatenate([self._parent, more])
        return np.arange(first, self._size, dtype=np.int64)

    def roots(self, labels: Labels) -> Labels:
        """The set of each label, named by its smallest label; the shape of `labels`."""
        found = self._parent[labels]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parent[labels] = found
        return found

    def merge(self, a: Labels, b: Labels) -> None:
        """Make `a[i]` and `b[i]` one set for every i; the shapes broadcast."""
        left, right = np.broadcast_arrays(self.roots(a), self.roots(b))
        while (differ := left != right).any():
            left, right = left[differ], right[differ]
            low, high = np.minimum(left, right), np.maximum(left, right)
            if high.min() < self._known:
                raise LabelClash
            np.minimum.at(self._parent, high, low)
            self._take_along(high)
            left, right = self.roots(left), self.roots(right)

    def _take_along(self, merged: Labels) -> None:
        """Reasons and marks of sets that are no longer their own roots."""
        gone = set(merged.tolist())
        for high in sorted(gone & self._reasons.keys()):
            self._reasons.setdefault(self._root(high), self._reasons.pop(high))
        for marked in self._marks.values():
            for high in gone & marked:
                marked.discard(high)
                marked.add(self._root(high))

    def _root(self, x: int) -> int:
        while self._parent[x] != x:
            x = int(self._parent[x])
        return x

    def fix(self, labels: Labels, reason: str) -> None:
        """These channels have to stay; the first reason is kept."""
        for root in np.unique(self.roots(labels)).tolist():
            self._reasons.setdefault(root, reason)

    def free(self, labels: Labels) -> bool:
        """Whether none of these is a channel of a parameter, so far."""
        return bool((self.roots(labels) >= self._count).all())

    def reason(self, root: int) -> str | None:
        """Why the set of this root must stay, None if it may go."""
        return self._reasons.get(root)

    def all_fixed(self, labels: Labels) -> bool:
        """Whether every one of these has to stay."""
        return all(root in self._reasons for root in np.unique(self.roots(labels)).tolist())

    def mark(self, labels: Labels, mark: str) -> None:
        """Note something about these channels, such as that a norm is taken over them."""
        self._marks.setdefault(mark, set()).update(np.unique(self.roots(labels)).tolist())

    def marks(self, *roots: int) -> frozenset[str]:
        """What was noted about the sets of these roots."""
        return frozenset(mark for mark, marked in self._marks.items() if not marked.isdisjoint(roots))


def varying(factor: Labels) -> tuple[int, ...]:
    """Dimensions along which an array of labels is not just repeated."""
    return tuple(d for d, n in enumerate(factor.shape) if n > 1)


def squeezed(sets: LabelSets, factor: Labels) -> Labels:
    """The same factor without the dimensions along which its roots do not change (they get size 1)."""
    for d in varying(factor):
        roots = sets.roots(factor)
        first = np.take(roots, [0], axis=d)
        if np.array_equal(np.broadcast_to(first, roots.shape), roots):
            factor = np.take(factor, [0], axis=d)
    return factor


def rigid(sets: LabelSets, factor: Labels, dims: Sequence[int], reason: str) -> Labels:
    """The size along `dims` is given from outside: a unit then covers all of them.

    A factor that also varies elsewhere shrinks to that: labels along `dims` merge (a head takes all its rows with it).
    One that varies nowhere else is fixed. Returns the factor as it is then, of size 1 along `dims`.
    """
    factor = squeezed(sets, factor)
    touched = [d for d in dims if factor.shape[d] > 1]
    if not touched:
        return factor
    if len(touched) == len(varying(factor)):
        sets.fix(factor, reason)
    index = tuple(slice(0, 1) if d in touched else slice(None) for d in range(factor.ndim))
    if len(touched) < len(varying(factor)):
        sets.merge(factor, factor[index])
    return factor[index]
