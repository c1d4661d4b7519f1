"""Where the elements of a tensor are in memory, and which elements share memory. Nothing here reads an element.

Whether memory is shared is known exactly: by arithmetic where that is enough, and else by marking every address that
is used. Marks take one byte for each element of the memory in question (one for each byte where elements are at odd
addresses), and are NumPy's, which no mode of torch changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError


def span(tensor: Tensor) -> tuple[int, int]:
    """The address of the first byte and that after the last byte, of a tensor that is not empty."""
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.numel() * tensor.element_size()
    last = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return start, start + (last + 1) * tensor.element_size()


def merged_layout(tensor: Tensor) -> tuple[list[int], list[int]]:
    """Sizes and strides, without dimensions of size 1 and with adjacent dimensions merged where one continues the
    other; two empty lists for a contiguous tensor.

    >>> import torch
    >>> merged_layout(torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last))
    ([4, 3, 4], [12, 1, 3])
    """
    if tensor.is_contiguous():
        return [], []
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    return sizes, strides


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
    """The tensor, or a contiguous copy if some of its elements share memory."""
    return tensor.detach().contiguous() if overlaps_itself(tensor) else tensor


def check_disjoint(tensors: Sequence[Tensor], names: Sequence[str]) -> None:
    """Check that every element of every tensor has memory of its own.

    Takes time proportional to the sizes of the tensors and of the memory in which they interleave, and O(n log n) for
    n tensors.

    Raises:
        PruneValueError: two share memory; they are named.
    """
    for tensor, name in zip(tensors, names, strict=True):
        if overlaps_itself(tensor):
            raise PruneValueError(
                f"Expected each element of `{name}` to have its own memory, got shared memory: pass `{name}.clone()`."
            )
    for cluster in _clusters(tensors):
        if len(cluster) > 1:
            _check_cluster([tensors[i] for i in cluster], [names[i] for i in cluster])


def _nested(dims: Sequence[tuple[int, int]]) -> bool:  # (stride, size), ascending
    """Whether each stride exceeds the reach of all smaller ones, so that all elements are distinct."""
    reach = 1
    for stride, size in dims:
        if stride < reach:
            return False
        reach += stride * (size - 1)
    return True


def _clusters(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of tensors whose spans form one connected piece of memory, in the order of addresses."""
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
    """A mark for each address in the memory of tensors of one dtype."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        spans = [span(tensor) for tensor in tensors]
        self._size = tensors[0].element_size()
        self._start = min(start for start, _ in spans)
        self._unit = math.gcd(self._size, *(start - self._start for start, _ in spans))  # bytes; less at odd addresses
        self._marks = np.zeros((max(end for _, end in spans) - self._start) // self._unit, dtype=np.bool_)

    def at(self, tensor: Tensor) -> npt.NDArray[np.bool_]:
        """The marks of its elements, as a view."""
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
