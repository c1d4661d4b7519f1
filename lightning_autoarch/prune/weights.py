"""A list of tensors as the kernels take it: checked, each memory once, and put back in the order of the caller.

    tensors [a, b, a]  ─►  Weights(unique=[a, b], places=[0, 1, 0])  ─►  results of a, b  ─►  spread: [r_a, r_b, r_a]

Tied tensors (the same memory with the same shape and strides) are one tensor. Nothing here reads a weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_DIMS = 16  # csrc/prune.h, max_dims


@dataclass(frozen=True)
class Weights:
    """Distinct tensors of one device and dtype, and where each of the caller's stands among them."""

    passed: list[Tensor]  # as the caller passed them
    unique: list[Tensor]
    names: list[str]  # of the first place that each was passed at: "tensors[3]"
    places: list[int]

    @property
    def numel(self) -> int:
        return sum(tensor.numel() for tensor in self.unique)

    def spread(self, results: Sequence[T]) -> list[T]:
        """Results of the distinct tensors, one for each that the caller passed."""
        return [results[place] for place in self.places]

    def distinct(self, given: Iterable[T], name: str) -> list[T]:
        """What the caller passed beside each tensor, for the distinct ones.

        Raises:
            ValueError: not one for each tensor, or different ones for tied tensors.
        """
        items = list(given)
        if len(items) != len(self.places):
            raise ValueError(f"Expected one of `{name}` for each of {len(self.places)} tensors, got {len(items)}.")
        chosen: dict[int, T] = {}
        for i, (place, item) in enumerate(zip(self.places, items, strict=True)):
            first = chosen.setdefault(place, item)
            if first is not item and not _same(first, item):
                raise ValueError(f"Expected equal `{name}` for tied tensors, got another for tensors[{i}].")
        return [chosen[i] for i in range(len(self.unique))]


def collect(tensors: Iterable[Tensor], name: str = "tensors", *, writing: bool = False) -> Weights:
    """Check a list of tensors, and find those that are tied.

    Args:
        tensors: floating-point tensors or parameters of one dtype on one device, of any shapes and strides.
        name: of the argument, for errors.
        writing: also refuse tensors of which an element lies in memory twice.

    Raises:
        TypeError: not a list of plain dense tensors of one floating-point dtype.
        ValueError: several devices; with `writing`, memory that overlaps in part.
    """
    if isinstance(tensors, Tensor):
        raise TypeError(f"Expected `{name}` to be a list of tensors, got one tensor: pass `[tensor]`.")
    passed: list[Tensor] = []
    unique: list[Tensor] = []
    names: list[str] = []
    places: list[int] = []
    known: dict[tuple[object, ...], int] = {}
    for i, tensor in enumerate(tensors):
        check(tensor, f"{name}[{i}]")
        passed.append(tensor)
        strides = tuple(s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1)
        key = (tensor.data_ptr() if tensor.numel() else id(tensor), tensor.shape, strides)
        if key not in known:
            known[key] = len(unique)
            unique.append(tensor)
            names.append(f"{name}[{i}]")
        places.append(known[key])
    for tensor, its_name in zip(unique[1:], names[1:], strict=True):
        if tensor.dtype != unique[0].dtype:
            raise TypeError(f"Expected tensors of one dtype, got {unique[0].dtype} and {tensor.dtype} ({its_name}).")
        if tensor.device != unique[0].device:
            raise ValueError(
                f"Expected tensors on one device, got {unique[0].device} and {tensor.device} ({its_name})."
            )
    if writing:
        _check_overlap(unique, names)
    return Weights(passed, unique, names, places)


def check(tensor: Tensor, name: str) -> None:
    """Raise unless `tensor` is one whose memory can be read through a pointer."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise TypeError(
            f"Expected `{name}` to be a torch.Tensor or Parameter, got {type(tensor).__qualname__}; "
            "the memory of a subclass cannot be read through a pointer."
        )
    if tensor.layout is not torch.strided:
        raise TypeError(f"Expected `{name}` to be dense, got {tensor.layout}; pass `{name}.to_dense()`.")
    if tensor.dtype not in DTYPES:
        dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"Expected `{name}` of dtype {dtypes}, got {tensor.dtype}.")
    if tensor.device.type == "meta":
        raise ValueError(f"Expected `{name}` with values, got one on the meta device.")
    storage = tensor.untyped_storage()
    if tensor.numel() and _bytes(tensor)[1] > storage.data_ptr() + storage.nbytes():
        raise ValueError(f"Expected `{name}` to lie inside its storage, got one whose memory was freed or shrunk.")
    if len(merged_layout(tensor)[0]) > MAX_DIMS:
        raise ValueError(
            f"Expected `{name}` with at most {MAX_DIMS} dimensions that cannot be merged: pass `{name}.contiguous()`."
        )


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two indices may share memory (as in an expanded view)."""
    span = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride < span:
            return tensor.numel() > 0
        span += stride * (size - 1)
    return False


def readable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where its elements lie in one another."""
    return tensor.detach().contiguous() if overlaps_itself(tensor) else tensor


def _check_overlap(unique: Sequence[Tensor], names: Sequence[str]) -> None:
    for tensor, name in zip(unique, names, strict=True):
        if overlaps_itself(tensor):
            raise ValueError(f"Expected `{name}` to have memory of its own for each element, got an expanded view.")
    spans = sorted((*_bytes(tensor), i) for i, tensor in enumerate(unique) if tensor.numel())
    active: list[tuple[int, int]] = []
    for start, end, i in spans:
        active = [(reach, j) for reach, j in active if reach > start]
        for _, j in active:
            if _share(unique[j], unique[i]):
                raise ValueError(f"Expected tensors with memory of their own, got `{names[j]}` and `{names[i]}`.")
        active.append((end, i))


def _bytes(tensor: Tensor) -> tuple[int, int]:
    last = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


def _share(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have an element in common: exactly, by marking memory (one byte an element of their span)."""
    start = min(_bytes(a)[0], _bytes(b)[0])
    end = max(_bytes(a)[1], _bytes(b)[1])
    size = a.element_size()
    marks = torch.zeros((end - start) // size + 1, dtype=torch.bool, device="cpu")
    views = [marks.as_strided(t.shape, t.stride(), (t.data_ptr() - start) // size) for t in (a, b)]
    views[0].fill_(True)
    return bool(views[1].any())


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
    return bool(a == b)


def merged_layout(tensor: Tensor) -> tuple[list[int], list[int]]:
    """Sizes and strides with dimensions of size 1 left out and those that continue each other merged; none of either
    where the tensor is contiguous.

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
