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

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.layout import merged_layout, span
from lightning_autoarch.prune.lists import listed, no_tensor
from lightning_autoarch.prune.overlap import check_disjoint

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

    def distinct(self, items: Sequence[T], name: str) -> list[T]:
        """What the caller passed beside each tensor, for the distinct ones.

        Raises:
            PruneValueError: not one for each tensor, or different ones for tied tensors.
        """
        if len(items) != len(self.places):
            raise PruneValueError(f"Expected one of `{name}` for each of {len(self.places)} tensors, got {len(items)}.")
        chosen: dict[int, T] = {}
        for i, (place, item) in enumerate(zip(self.places, items, strict=True)):
            first = chosen.setdefault(place, item)
            if first is not item and not _same(first, item):
                raise PruneValueError(f"Expected equal `{name}` for tied tensors, got another for tensors[{i}].")
        return [chosen[i] for i in range(len(self.unique))]


def collect(tensors: Iterable[Tensor], name: str = "tensors", *, writing: bool = False) -> Weights:
    """Check a list of tensors, and find those that are tied.

    Args:
        tensors: floating-point tensors or parameters of one dtype on one device, of any shapes and strides.
        name: of the argument, for errors.
        writing: also refuse tensors of which an element lies in memory twice.

    Raises:
        PruneTypeError: not a list of plain dense tensors of one floating-point dtype.
        PruneValueError: several devices; with `writing`, memory that overlaps in part.
    """
    passed: list[Tensor] = []
    unique: list[Tensor] = []
    names: list[str] = []
    places: list[int] = []
    known: dict[tuple[object, ...], int] = {}
    for i, tensor in enumerate(listed(tensors, name, "tensors")):
        check(tensor, f"{name}[{i}]")
        passed.append(tensor)
        key = (tensor.data_ptr() if tensor.numel() else id(tensor), tensor.dtype, tensor.shape, _strides(tensor))
        if key not in known:
            known[key] = len(unique)
            unique.append(tensor)
            names.append(f"{name}[{i}]")
        places.append(known[key])
    for tensor, its_name in zip(unique[1:], names[1:], strict=True):
        if tensor.dtype != unique[0].dtype:
            raise PruneTypeError(
                f"Expected tensors of one dtype, got {unique[0].dtype} and {tensor.dtype} ({its_name})."
            )
        if tensor.device != unique[0].device:
            raise PruneValueError(
                f"Expected tensors on one device, got {unique[0].device} and {tensor.device} ({its_name})."
            )
    if writing:
        check_disjoint(unique, names)
    return Weights(passed, unique, names, places)


def check(tensor: Tensor, name: str) -> None:
    """Raise unless `tensor` is one whose memory can be read through a pointer."""
    if not isinstance(tensor, Tensor):
        raise no_tensor(tensor, name)
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise PruneTypeError(
            f"Expected `{name}` to be a torch.Tensor or Parameter, got {type(tensor).__qualname__}; "
            "the memory of a subclass cannot be read through a pointer."
        )
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise PruneTypeError(f"Expected `{name}` to have memory, got a value inside of torch.func (vmap, grad, ...).")
    if tensor.is_nested:
        raise PruneTypeError(f"Expected `{name}` to be dense, got a nested tensor; pass its `unbind()`, a list.")
    if tensor.layout is not torch.strided:
        raise PruneTypeError(f"Expected `{name}` to be dense, got {tensor.layout}; pass `{name}.to_dense()`.")
    if tensor.dtype not in DTYPES:
        dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise PruneTypeError(f"Expected `{name}` of dtype {dtypes}, got {tensor.dtype}.")
    if tensor.device.type == "meta":
        raise PruneValueError(f"Expected `{name}` with values, got one on the meta device.")
    storage = tensor.untyped_storage()
    if tensor.numel() and span(tensor)[1] > storage.data_ptr() + storage.nbytes():
        raise PruneValueError(f"Expected `{name}` to lie inside its storage, got one whose memory was freed or shrunk.")
    if len(merged_layout(tensor)[0]) > MAX_DIMS:
        raise PruneValueError(
            f"Expected `{name}` with at most {MAX_DIMS} dimensions that cannot be merged: pass `{name}.contiguous()`."
        )


def _strides(tensor: Tensor) -> tuple[int, ...] | None:
    """Those that matter; None of a contiguous tensor."""
    if tensor.is_contiguous():
        return None
    return tuple(s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1)


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
    return bool(a == b)
