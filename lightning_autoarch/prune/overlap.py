"""Which elements share memory, exactly: arithmetic where it is enough, else by marking what lies at each place.

Marks take one byte an element of the memory in question (one a byte where elements lie at odd addresses), and are
NumPy's, which no mode of torch changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune.layout import merged_layout, span


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two indices share memory, as in an expanded view.

    >>> import torch
    >>> overlaps_itself(torch.zeros(5).unfold(0, 2, 1)), overlaps_itself(torch.zeros(8).as_strided((2, 3), (3, 2)))
    (True, False)
    """
    if tensor.is_contiguous():
        return False
    dims = sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1)
    if _nested(dims):
        return False
    start, end = span(tensor)
    if dims[0][0] == 0 or tensor.numel() * tensor.element_size() > end - start:
        return True
    marks = _Marks([tensor])
    marks.at(tensor)[...] = True
    return marks.count() < tensor.numel()


def readable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where its elements lie in one another."""
    return tensor.detach().contiguous() if overlaps_itself(tensor) else tensor


def check_disjoint(tensors: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raise unless every element of every tensor has memory of its own.

    Takes time in proportion to the tensors and to the memory that they interleave in, and n log n for n tensors.

    Raises:
        PruneValueError: two share memory; they are named.
    """
    for tensor, name in zip(tensors, names, strict=True):
        if overlaps_itself(tensor):
            raise PruneValueError(
                f"Expected `{name}` to have memory of its own for each element, got some twice: pass `{name}.clone()`."
            )
    for cluster in _clusters(tensors):
        if len(cluster) > 1:
            _check_cluster([tensors[i] for i in cluster], [names[i] for i in cluster])


def _nested(dims: Sequence[tuple[int, int]]) -> bool:  # (stride, size), ascending
    """Whether each stride passes over all that the smaller ones reach: then all elements are distinct."""
    reach = 1
    for stride, size in dims:
        if stride < reach:
            return False
        reach += stride * (size - 1)
    return True


def _clusters(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of tensors whose spans make up one connected piece of memory, by address."""
    cluster: list[int] = []
    reach = 0
    for start, end, i in sorted((*span(tensor), i) for i, tensor in enumerate(tensors) if tensor.numel()):
        if cluster and start >= reach:
            yield cluster
            cluster = []
        cluster.append(i)
        reach = max(reach, end)
    if cluster:
        yield cluster


def _check_cluster(tensors: Sequence[Tensor], names: Sequence[str]) -> None:
    marks = _Marks(tensors)
    for i, tensor in enumerate(tensors):
        places = marks.at(tensor)
        if places.any():
            marks.clear()
            places[...] = True
            j = next(j for j in range(i) if marks.at(tensors[j]).any())
            raise PruneValueError(f"Expected tensors with memory of their own, got `{names[j]}` and `{names[i]}`.")
        places[...] = True


class _Marks:
    """A mark for each place in the memory that tensors of one dtype lie in."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        spans = [span(tensor) for tensor in tensors]
        self._size = tensors[0].element_size()
        self._start = min(start for start, _ in spans)
        self._unit = math.gcd(self._size, *(start - self._start for start, _ in spans))  # bytes; less at odd addresses
        self._marks = np.zeros((max(end for _, end in spans) - self._start) // self._unit, dtype=np.bool_)

    def at(self, tensor: Tensor) -> npt.NDArray[np.bool_]:
        """Those of its elements, a view."""
        sizes, strides = merged_layout(tensor)
        units = self._size // self._unit
        return np.ndarray(
            (*(sizes or [tensor.numel()]), units),
            dtype=np.bool_,
            buffer=self._marks,
            offset=(tensor.data_ptr() - self._start) // self._unit,
            strides=(*(stride * units for stride in strides or [1]), 1),
        )

    def count(self) -> int:
        return int(np.count_nonzero(self._marks))

    def clear(self) -> None:
        self._marks[:] = False
