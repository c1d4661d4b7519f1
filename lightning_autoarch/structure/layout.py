"""Where the channels lie in one tensor, and how two tensors that meet have to agree.

A tensor of shape S has *factors*: arrays of labels that broadcast to S, varying over disjoint sets of dimensions.

    weight of Conv2d (O, I, 3, 3)             (O, 1, 1, 1)  (1, I, 1, 1)  and one for each kernel dimension
    activation       (N, C, H, W)             (1, C, 1, 1)
    the same, flattened (N, C * H * W)        (1, C * H * W), each label H * W times
    queries          (N, T, heads, d)         (1, 1, heads, d): one factor that varies over two dimensions

A dimension over which no factor varies is *neutral*: its size is given from outside (batch, time, pixels).
An element of the tensor stays if all its labels do. Everything here is a statement about sizes, never about values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_autoarch.structure.labels import Labels, LabelSets, rigid, squeezed, varying

Factors = tuple[Labels, ...]


@dataclass(frozen=True)
class ChannelLayout:
    """The factors of one tensor.

    `source` names the parameter or buffer that the tensor is a view of: what is multiplied by it can be scaled there.
    """

    shape: tuple[int, ...]
    factors: Factors = ()
    source: str | None = None

    def factor_over(self, dim: int) -> Labels | None:
        """The factor that varies over a dimension."""
        return next((f for f in self.factors if f.shape[dim] > 1), None)

    def aligned(self, rank: int) -> ChannelLayout:
        """With dimensions of size 1 in front, as broadcasting does."""
        extra = (1,) * (rank - len(self.shape))
        return ChannelLayout(extra + self.shape, tuple(f.reshape(extra + f.shape) for f in self.factors), self.source)

    def placed(self, shape: Sequence[int], dims: Sequence[int]) -> ChannelLayout:
        """In a space of more dimensions: dimension i of this one is `dims[i]` there, the others have size 1."""

        def place(sizes: Sequence[int]) -> tuple[int, ...]:
            at = [1] * len(shape)
            for d, n in zip(dims, sizes, strict=True):
                at[d] = n
            return tuple(at)

        order = sorted(range(len(dims)), key=lambda i: dims[i])
        factors = tuple(f.transpose(order).reshape(place(f.shape)) for f in self.factors)
        return ChannelLayout(place(self.shape), factors, self.source)

    def mapped(self, change: Callable[[Labels], Labels]) -> Factors:
        """Every factor, seen in another way; those that no longer vary are left out."""
        return live(change(f) for f in self.factors)


def live(factors: object) -> Factors:
    """Those that vary at all: the others say nothing."""
    return tuple(f for f in factors if varying(f))  # type: ignore[attr-defined]


def settled(sets: LabelSets, factors: Sequence[Labels]) -> Factors:
    """Without the dimensions along which roots do not change."""
    return live(squeezed(sets, f) for f in factors)


def join(sets: LabelSets, layouts: Sequence[ChannelLayout], rank: int, where: str) -> Factors:
    """Tensors that meet element by element, broadcasting to `rank` dimensions: equal positions are equal channels.

    A neutral dimension of one makes the others rigid there.
    """
    aligned = [layout.aligned(rank) for layout in layouts]
    pool: list[Labels] = []
    for i, layout in enumerate(aligned):
        others = aligned[:i] + aligned[i + 1 :]
        for factor in layout.factors:
            dims = [d for d in varying(factor) if any(_is_neutral(other, d) for other in others)]
            pool.append(rigid(sets, factor, dims, f"its size is given from outside at {where}"))
    return _merged(sets, pool)


def _is_neutral(layout: ChannelLayout, dim: int) -> bool:
    return layout.shape[dim] > 1 and layout.factor_over(dim) is None


def _merged(sets: LabelSets, pool: Sequence[Labels]) -> Factors:
    """Factors that vary over common dimensions become one, which varies over the common dimensions only."""
    result: list[Labels] = []
    for factor in settled(sets, pool):
        for other in list(result):
            if set(varying(factor)) & set(varying(other)):
                sets.merge(factor, other)
                result = [f for f in result if f is not other]
                factor = squeezed(sets, factor)
        if varying(factor):
            result.append(factor)
    return tuple(result)


def reduced(sets: LabelSets, factors: Sequence[Labels], dims: Sequence[int], where: str) -> tuple[Factors, Factors]:
    """Sum (or the like) over dimensions: what is left, with size 1 there, and the factors that ended there.

    A factor that varies over a reduced dimension and over another one is rigid in the reduced one.
    """
    left: list[Labels] = []
    ended: list[Labels] = []
    for factor in settled(sets, factors):
        inside = [d for d in varying(factor) if d in dims]
        if inside and len(inside) == len(varying(factor)):
            ended.append(factor)
        else:
            left.append(rigid(sets, factor, inside, f"its size is given from outside at {where}"))
    return settled(sets, left), tuple(ended)


def reshaped(sets: LabelSets, layout: ChannelLayout, shape: Sequence[int], where: str) -> Factors:
    """The factors of a tensor after view(shape)."""
    if 0 in layout.shape:
        fix_all(sets, layout.factors, f"a tensor without elements at {where}")
        return ()
    pieces = segments(layout.shape, shape)
    result = [_reshape_one(f, layout.shape, shape, pieces) for f in layout.factors]
    return _disjoint(sets, settled(sets, result), where)


def segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest runs of dimensions that have equally many elements, sizes 1 left out.

    >>> segments((2, 6, 5), (2, 3, 2, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    old = [d for d, n in enumerate(before) if n != 1]
    new = [d for d, n in enumerate(after) if n != 1]
    runs: list[tuple[list[int], list[int]]] = []
    while old or new:
        left, right = [old.pop(0)], [new.pop(0)]
        a, b = before[left[0]], after[right[0]]
        while a != b:
            if a < b:
                left.append(old.pop(0))
                a *= before[left[-1]]
            else:
                right.append(new.pop(0))
                b *= after[right[-1]]
        runs.append((left, right))
    return runs


def _reshape_one(
    factor: Labels,
    before: Sequence[int],
    after: Sequence[int],
    pieces: Sequence[tuple[list[int], list[int]]],
) -> Labels:
    full, target = [1] * len(before), [1] * len(after)
    for left, right in pieces:
        if any(factor.shape[d] > 1 for d in left):
            for d in left:
                full[d] = before[d]
            for d in right:
                target[d] = after[d]
    return np.broadcast_to(factor, full).reshape(target)


def _disjoint(sets: LabelSets, factors: Factors, where: str) -> Factors:
    """Two factors in one dimension would need pairs of labels.

    Those that are fixed, or are no channels of a parameter, are left out; are there still several, all are fixed.
    """
    clash = [f for f in factors if any(f is not g and set(varying(f)) & set(varying(g)) for g in factors)]
    if not clash:
        return factors
    why = f"two kinds of channels share one dimension at {where}"
    fix_all(sets, [f for f in clash if sets.free(f)], why)
    alive = [f for f in clash if not sets.all_fixed(f)]
    if len(alive) > 1:
        fix_all(sets, alive, why)
        alive = []
    chosen = {id(f) for f in alive} | ({id(f) for f in factors} - {id(f) for f in clash})
    return tuple(f for f in factors if id(f) in chosen)


def fix_all(sets: LabelSets, factors: Sequence[Labels], reason: str) -> None:
    """Every channel of these factors has to stay."""
    for factor in factors:
        sets.fix(factor, reason)
