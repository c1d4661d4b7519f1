"""Which calls `torch.save` writes, and with what arguments: a rule for each.

A tensor lies within a storage; nothing is made of a number alone, as `bytearray(10**10)` or a storage without a file
would be; and no attribute hides a method.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import torch

from lightning_autoarch.reading.symbols import Built, Items, Name, Stored

Rule: TypeAlias = Callable[[tuple[Any, ...], frozenset[str]], bool]
"""Whether a call may be made: of its arguments, and the names of classes that the user trusts."""

STORAGES = {
    "UntypedStorage": 1, "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "QInt8Storage": 1, "QUInt8Storage": 1,
    "ShortStorage": 2, "HalfStorage": 2, "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "QInt32Storage": 4,
    "LongStorage": 8, "DoubleStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
}  # fmt: skip
KINDS = ("torch.Tensor", "torch.nn.parameter.Parameter")
SCHEMES = ("affine", "symmetric", "affine_float_qparams")
VALUES = {*KINDS, *(f"torch.per_{of}_{scheme}" for of in ("tensor", "channel") for scheme in SCHEMES)}
ENCODINGS = ("latin1", "latin-1", "ascii", "utf-8", "utf8")


def _tensor(
    arguments: tuple[Any, ...], trusted: frozenset[str], *, dtype_at: int | None = None, quantised: bool = False
) -> bool:
    """A tensor within its storage; a quantised one has a scale too, so it is made by a call of its own."""
    if len(arguments) < 4 or not isinstance(arguments[0], Stored) or arguments[0].quantised is not quantised:
        return False
    storage, offset, size, stride = arguments[0], arguments[1], _sizes(arguments[2]), _sizes(arguments[3])
    itemsize = storage.itemsize
    if dtype_at is not None:
        dtype = arguments[dtype_at] if len(arguments) > dtype_at else None
        if not isinstance(dtype, Name) or not is_dtype(dtype.full):
            return False
        itemsize = _dtype(dtype.full).itemsize
    if size is None or stride is None or len(size) != len(stride) or not is_count(offset):
        return False
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    return 0 in size or (last + 1) * itemsize <= storage.size


def _tensor_3(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return _tensor(arguments, trusted, dtype_at=6)


def _quantised(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    """Within its storage, and without a dimension that repeats: one of the whole size is made at first."""
    size = _sizes(arguments[2]) if len(arguments) == 7 else None
    return _tensor(arguments, trusted, quantised=True) and size is not None and math.prod(size) <= arguments[0].size


def _meta(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return len(arguments) == 4


def _parameter(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return len(arguments) == 3 and isinstance(arguments[0], Built) and arguments[0].name in TENSORS


def _with_state(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return len(arguments) == 4 and _parameter(arguments[:3], trusted) and _attributes(arguments[3])


def _of_type(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    """A tensor with attributes."""
    if len(arguments) != 4:
        return False
    function, kind, inner, state = arguments
    if not isinstance(function, Name) or function.full not in TENSORS or not isinstance(inner, tuple):
        return False
    if not isinstance(kind, Name) or (kind.full not in KINDS and kind.full not in trusted):
        return False
    return CALLS[function.full](inner, trusted) and _attributes(state)


def _attributes(state: Any) -> bool:
    """Attributes of an object in Python; none of those that are the tensor itself, as `data` is."""
    parts = state if isinstance(state, tuple) else (state,)
    named = [part for part in parts if part is not None]
    return all(isinstance(part, Items) for part in named) and all(
        isinstance(key, str) and not inspect.isdatadescriptor(inspect.getattr_static(torch.Tensor, key, None))
        for part in named
        for key in part[::2]
    )


def _sparse(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    """Of tensors that lie within their storages and repeat nothing, as each entry takes time and memory later.

    Their indices are checked when these can be read.
    """
    if len(arguments) != 2 or not isinstance(arguments[1], tuple):
        return False
    parts = [part for part in arguments[1] if isinstance(part, Built) and part.name != "torch.Size"]
    return all(part.name in DENSE and not _repeats(part.arguments) for part in parts)


def _repeats(arguments: tuple[Any, ...]) -> bool:
    """Whether a tensor, which is known to lie within its storage, has more elements than this."""
    return bool(math.prod(_sizes(arguments[2]) or ()) * arguments[0].itemsize > arguments[0].size)


def _ordered(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return arguments == () or (len(arguments) == 1 and isinstance(arguments[0], Items))


def _items(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], Items)


def _shape(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return len(arguments) == 1 and _sizes(arguments[0]) is not None


def _encoded(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return len(arguments) == 2 and isinstance(arguments[0], str) and text(arguments[1]) in ENCODINGS


def _bytes(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    """`bytearray`: of bytes, not of a number of them."""
    if len(arguments) == 1:
        (of,) = arguments
        return isinstance(of, bytes) or (isinstance(of, Built) and of.name == "_codecs.encode")
    return arguments == () or _encoded(arguments, trusted)


def _plain(arguments: tuple[Any, ...], trusted: frozenset[str]) -> bool:
    return len(arguments) <= 2 and all(isinstance(part, str | bytes | int | float) for part in arguments)


DENSE = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_3,
}
TENSORS: dict[str, Rule] = {
    **DENSE,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _with_state,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}
CALLS: dict[str, Rule] = {
    **TENSORS,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _items,
    "builtins.set": _items,
    "builtins.complex": _plain,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encoded,
    "torch.Size": _shape,
    "torch.device": _plain,
    "torch.serialization._get_layout": _plain,
}


def _sizes(value: Any) -> list[int] | None:
    """Sizes or strides; None for anything else."""
    if isinstance(value, Built) and value.name == "torch.Size" and len(value.arguments) == 1:
        value = value.arguments[0]
    if not isinstance(value, tuple | Items) or not all(is_count(n) for n in value):
        return None
    return list(value)


def is_count(value: object) -> TypeGuard[int]:
    """Whether it is a whole number that a size can be."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def text(value: object) -> str:
    """A word; Python 2 has written bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def itemsize(name: str) -> int:
    """Bytes of an element of a class of storages; 0 for other names."""
    module, _, kind = name.rpartition(".")
    return STORAGES.get(kind, 0) if module in ("torch", "torch.cuda", "torch.storage") else 0


def is_dtype(name: str) -> bool:
    """Whether a name is that of one of torch's dtypes."""
    module, _, kind = name.rpartition(".")
    return module == "torch" and isinstance(getattr(torch, kind, None), torch.dtype)


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name.rpartition(".")[2])
    return dtype
