"""A list of tensors in the form that the kernels take: checked, tied tensors once, and back in the caller's order.

    tensors [a, b, a]  ─►  TensorList(unique=[a, b], places=[0, 1, 0])  ─►  results of a, b  ─►  spread: [r_a, r_b, r_a]

Tied tensors (the same memory with the same shape and strides) count as one tensor. Nothing here reads an element.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.memory import check_disjoint, merged_layout, span

T = TypeVar("T")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_DIMS = 16  # csrc/prune.h, max_dims


@dataclass(frozen=True)
class TensorList:
    """Distinct tensors of one device and dtype, and the index among them of each tensor that the caller passed."""

    passed: list[Tensor]  # as the caller passed them
    unique: list[Tensor]
    names: list[str]  # of the distinct ones, by their first position: "tensors[3]"
    places: list[int]  # for each tensor that was passed, its index in `unique`
    named: bool = False  # whether the names are those of parameters

    @property
    def numel(self) -> int:
        return sum(tensor.numel() for tensor in self.unique)

    def spread(self, results: Sequence[T]) -> list[T]:
        """Results for the distinct tensors, repeated for each tensor that the caller passed."""
        return [results[place] for place in self.places]

    def distinct(self, items: Sequence[T], name: str) -> list[T]:
        """What the caller passed for each tensor, reduced to the distinct tensors.

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


def collect(
    tensors: Iterable[Tensor], name: str = "tensors", *, names: Sequence[str] | None = None, writing: bool = False
) -> TensorList:
    """Check a list of tensors and find those that are tied.

    Args:
        tensors: floating-point tensors or parameters of one dtype on one device, of any shapes and strides.
        name: of the argument, for errors.
        names: of the tensors, for errors; None: by their positions in the argument.
        writing: whether the tensors are written to: then no two elements may share memory.

    Raises:
        PruneTypeError: not a list of plain dense tensors of one floating-point dtype.
        PruneValueError: several devices; with `writing`, partly overlapping memory.
    """
    passed: list[Tensor] = []
    unique: list[Tensor] = []
    firsts: list[str] = []
    places: list[int] = []
    known: dict[tuple[object, ...], int] = {}
    for i, tensor in enumerate(listed(tensors, name, "tensors")):
        label = f"{name}[{i}]" if names is None else names[i]
        check(tensor, label)
        passed.append(tensor)
        key = (tensor.data_ptr() if tensor.numel() else id(tensor), tensor.dtype, tensor.shape, _strides(tensor))
        if key not in known:
            known[key] = len(unique)
            unique.append(tensor)
            firsts.append(label)
        places.append(known[key])
    for tensor, its_name in zip(unique[1:], firsts[1:], strict=True):
        if tensor.dtype != unique[0].dtype:
            raise PruneTypeError(
                f"Expected tensors of one dtype, got {unique[0].dtype} and {tensor.dtype} ({its_name})."
            )
        if tensor.device != unique[0].device:
            raise PruneValueError(
                f"Expected tensors on one device, got {unique[0].device} and {tensor.device} ({its_name})."
            )
    if writing:
        check_disjoint(unique, firsts)
    return TensorList(passed, unique, firsts, places, names is not None)


def check(tensor: Tensor, name: str) -> None:
    """Check that the memory of `tensor` can be read through a pointer."""
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
    """The strides of dimensions larger than 1; None for a contiguous tensor."""
    if tensor.is_contiguous():
        return None
    return tuple(s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1)


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
    return bool(a == b)


def listed(given: Iterable[T], name: str, of: str) -> list[T]:
    """The items of an argument that has to be a list.

    Args:
        given: any iterable that is not itself a tensor, a module (an `nn.ParameterList` is a list) or a dict: iterating
            over one of those by mistake would go unnoticed.
        name: of the argument, for errors.
        of: what it is a list of, for errors.

    Raises:
        PruneTypeError: it is one of these, or not iterable.

    >>> import torch
    >>> listed(torch.ones(2, 3), "scores", "tensors")
    Traceback (most recent call last):
    lightning_autoarch.core.errors.PruneTypeError: Expected `scores` to be a list of tensors, got one tensor: \
pass `[tensor]`, or `list(tensor)` of a stack.
    """
    if not _is_list(given):
        raise PruneTypeError(f"Expected `{name}` to be a list of {of}, got {_what(given)}.")
    return list(given)


def no_tensor(item: object, name: str) -> PruneTypeError:
    """The error for an item that is not a tensor."""
    hint = ""
    if isinstance(item, nn.Module):
        hint = ": pass its parameters, such as `module.weight`"
    elif isinstance(item, np.ndarray):
        hint = ": pass `torch.from_numpy(array)`"
    kind = "None" if item is None else type(item).__qualname__
    return PruneTypeError(f"Expected `{name}` to be a torch.Tensor or Parameter, got {kind}{hint}.")


def _is_list(given: object) -> bool:
    if isinstance(given, nn.Module):
        return isinstance(given, nn.ParameterList)
    return isinstance(given, Iterable) and not isinstance(given, Tensor | np.ndarray | Mapping | str | bytes)


def _what(given: object) -> str:
    """What was given instead of a list, and what to pass."""
    if isinstance(given, Tensor):
        return "one tensor: pass `[tensor]`, or `list(tensor)` of a stack"
    kind = type(given).__qualname__
    if isinstance(given, nn.Module):
        return f"the module {kind}: pass `module.parameters()`, or `[module.weight]`"
    if isinstance(given, Mapping):
        return f"a {kind}: pass its `.values()`"
    return "None" if given is None else f"one {kind}: pass a list with it"
