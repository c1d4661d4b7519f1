"""What `torch.save` writes into its pickle, and nothing else: each call that torch would make is checked beforehand.

`torch.load(weights_only=True)` calls no function of a stranger, but those that it calls it calls with any argument:
`bytearray(10**10)`, a storage of any size, a tensor with more elements than its storage, which is then enlarged, or an
attribute that hides a method. Here a tensor lies within a storage, a storage within the file, and every other call is
one that `torch.save` writes.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import torch

from lightning_autoarch.errors import CheckpointError, shown
from lightning_autoarch.reading.opcodes import OF_TORCH, Built, Items, Machine, Name, Stored

STORAGES = {
    "UntypedStorage": 1, "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "QInt8Storage": 1, "QUInt8Storage": 1,
    "ShortStorage": 2, "HalfStorage": 2, "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "QInt32Storage": 4,
    "LongStorage": 8, "DoubleStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
}  # fmt: skip
KINDS = ("torch.Tensor", "torch.nn.parameter.Parameter")
SCHEMES = ("affine", "symmetric", "affine_float_qparams")
VALUES = {*KINDS, *(f"torch.per_{of}_{scheme}" for of in ("tensor", "channel") for scheme in SCHEMES)}
ENCODINGS = ("latin1", "latin-1", "ascii", "utf-8", "utf8")
OWN = (
    "torch.distributed.",
    "torch.nested.",
    "torch._dynamo.",
)  # of what torch itself calls safe, which needs more care
SHOWN = 8  # names in an error


class UnknownNames(CheckpointError):
    """A file names classes or functions that are neither torch's nor declared safe.

    Args:
        message: of the error.
        names: all of them, with their modules.
    """

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class TorchPickle:
    """Follows the pickles of one file of `torch.save`.

    Args:
        origin: the file, for errors.
        size: its bytes.
        records: the bytes of each storage; None where they follow the pickles.

    Attributes:
        storages: key and bytes of all storages that tensors are in.
    """

    def __init__(self, origin: str, size: int, records: Mapping[str, int] | None = None) -> None:
        self.storages: dict[str, int] = {}
        self._origin = origin
        self._size = size
        self._records = records
        self._trusted = _trusted()
        self._machine = Machine(
            origin,
            size,
            opcodes=OF_TORCH,
            called=self._check_call,
            state_set=self._check_state,
            stored=self._check_storage,
        )

    def follow(self, file: IO[bytes]) -> Any:
        """The symbol of the next pickle.

        Raises:
            CheckpointError: it names what could run code, or does what `torch.save` never writes.
        """
        try:
            return self._machine.follow(file)
        finally:
            self._check_names()

    def _check_names(self) -> None:
        blocked = sorted(name for name in self._machine.names if not self._is_known(name))
        if blocked:
            names = ", ".join(f"`{shown(name)}`" for name in blocked[:SHOWN])
            more = f" and {len(blocked) - SHOWN} more" if len(blocked) > SHOWN else ""
            raise UnknownNames(
                f"Expected tensors and plain containers in {self._origin}, got {names}{more}, which could run code "
                "when it is loaded. Save the `state_dict()` alone; if you trust the file and its classes, name them "
                "by `trusted`, or to `torch.serialization.add_safe_globals`.",
                blocked,
            )

    def _is_known(self, name: str) -> bool:
        return name in CALLS or name in VALUES or name in self._trusted or bool(_itemsize(name)) or _is_dtype(name)

    def _check_call(self, built: Built) -> None:
        if built.name in self._trusted or not self._is_known(built.name):
            return  # the user says so; or it will be refused by its name
        rule = CALLS.get(built.name)
        arguments = built.arguments
        if rule is None or not isinstance(arguments, tuple) or not rule(self, arguments):
            raise self._strange(f"a call of `{shown(built.name)}`" if built.name else "a call of what is no function")

    def _check_state(self, target: Any, state: Any) -> None:
        if isinstance(target, Built) and target.name in self._trusted:
            return
        if isinstance(target, Built) and not self._is_known(target.name):
            return
        plain = isinstance(target, Built) and target.name == "collections.OrderedDict" and isinstance(state, Items)
        if not plain or any(not isinstance(key, str) or hasattr(OrderedDict, key) for key in state[::2]):
            raise self._strange("a state that it sets on an object")

    def _check_storage(self, identity: Any) -> Stored:
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or _text(identity[0]) != "storage":
            raise self._strange("a persistent id that names no storage")
        _, kind, key, _, count = identity[:5]
        itemsize = _itemsize(kind.full) if isinstance(kind, Name) else 0
        key = _text(key)
        if not itemsize or not key or not _is_count(count):
            raise self._strange("a storage without a type, key or size")
        size = count * itemsize
        if self.storages.setdefault(key, size) != size:
            raise self._strange(f"the storage `{shown(key)}` in two sizes")
        room = self._size if self._records is None else self._records.get(key, -1)
        if size > room or (self._records is None and sum(self.storages.values()) > self._size):
            raise CheckpointError(
                f"Expected a whole file, got {self._origin}, in which the storage `{shown(key)}` of {size:,} bytes is "
                "missing or cut off: copy it again."
            )
        view = identity[5] if len(identity) == 6 else None
        size = size if view is None else self._viewed(view, count) * itemsize
        return Stored(key, size, itemsize, quantised=".Q" in kind.full)

    def _viewed(self, view: Any, count: int) -> int:
        """Elements of a storage that is a part of another, as files of before torch 1.6 have them."""
        ok = isinstance(view, tuple) and len(view) == 3 and _is_count(view[1]) and _is_count(view[2])
        if not ok or view[1] + view[2] > count:
            raise self._strange("a part of a storage that is not within it")
        return int(view[2])

    def _strange(self, what: str) -> CheckpointError:
        return CheckpointError(f"Expected what torch.save writes, got {self._origin} with {what}: not loaded.")


def _tensor(
    pickle: TorchPickle, arguments: tuple[Any, ...], *, dtype_at: int | None = None, quantised: bool = False
) -> bool:
    """A tensor within its storage; a quantised one has a scale too, so it is made by a call of its own."""
    if len(arguments) < 4 or not isinstance(arguments[0], Stored) or arguments[0].quantised is not quantised:
        return False
    storage, offset, size, stride = arguments[0], arguments[1], _sizes(arguments[2]), _sizes(arguments[3])
    itemsize = storage.itemsize
    if dtype_at is not None:
        dtype = arguments[dtype_at] if len(arguments) > dtype_at else None
        if not isinstance(dtype, Name) or not _is_dtype(dtype.full):
            return False
        itemsize = _dtype(dtype.full).itemsize
    if size is None or stride is None or len(size) != len(stride) or not _is_count(offset):
        return False
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    return 0 in size or (last + 1) * itemsize <= storage.size


def _tensor_3(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return _tensor(pickle, arguments, dtype_at=6)


def _quantised(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    """Within its storage, and without a dimension that repeats: one of the whole size is made at first."""
    size = _sizes(arguments[2]) if len(arguments) == 7 else None
    return _tensor(pickle, arguments, quantised=True) and size is not None and math.prod(size) <= arguments[0].size


def _meta(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 4


def _parameter(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 3 and isinstance(arguments[0], Built) and arguments[0].name in TENSORS


def _with_state(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 4 and _parameter(pickle, arguments[:3]) and _attributes(arguments[3])


def _of_type(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    """A tensor with attributes."""
    if len(arguments) != 4:
        return False
    function, kind, inner, state = arguments
    if not isinstance(function, Name) or function.full not in TENSORS or not isinstance(inner, tuple):
        return False
    if not isinstance(kind, Name) or (kind.full not in KINDS and kind.full not in pickle._trusted):
        return False
    return CALLS[function.full](pickle, inner) and _attributes(state)


def _attributes(state: Any) -> bool:
    """Attributes of an object in Python; none of those that are the tensor itself, as `data` is."""
    parts = state if isinstance(state, tuple) else (state,)
    named = [part for part in parts if part is not None]
    return all(isinstance(part, Items) for part in named) and all(
        isinstance(key, str) and not inspect.isdatadescriptor(inspect.getattr_static(torch.Tensor, key, None))
        for part in named
        for key in part[::2]
    )


def _sparse(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
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


def _ordered(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return arguments == () or (len(arguments) == 1 and isinstance(arguments[0], Items))


def _items(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], Items)


def _shape(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 1 and _sizes(arguments[0]) is not None


def _encoded(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 2 and isinstance(arguments[0], str) and _text(arguments[1]) in ENCODINGS


def _bytes(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    """`bytearray`: of bytes, not of a number of them."""
    if len(arguments) == 1:
        (of,) = arguments
        return isinstance(of, bytes) or (isinstance(of, Built) and of.name == "_codecs.encode")
    return arguments == () or _encoded(pickle, arguments)


def _plain(pickle: TorchPickle, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) <= 2 and all(isinstance(part, str | bytes | int | float) for part in arguments)


DENSE = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_3,
}
TENSORS: dict[str, Callable[[TorchPickle, tuple[Any, ...]], bool]] = {
    **DENSE,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _with_state,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}
CALLS: dict[str, Callable[[TorchPickle, tuple[Any, ...]], bool]] = {
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
    if not isinstance(value, tuple | Items) or not all(_is_count(n) for n in value):
        return None
    return list(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _text(value: Any) -> str:
    """A word; Python 2 has written bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _itemsize(name: str) -> int:
    """Bytes of an element of a class of storages; 0 for other names."""
    module, _, kind = name.rpartition(".")
    return STORAGES.get(kind, 0) if module in ("torch", "torch.cuda", "torch.storage") else 0


def _is_dtype(name: str) -> bool:
    module, _, kind = name.rpartition(".")
    return module == "torch" and isinstance(getattr(torch, kind, None), torch.dtype)


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name.rpartition(".")[2])
    return dtype


def _trusted() -> frozenset[str]:
    """Names of what the user has declared safe."""
    named = (
        each[1] if isinstance(each, tuple) else f"{each.__module__}.{each.__qualname__}"
        for each in torch.serialization.get_safe_globals()
    )
    return frozenset(name for name in named if not name.startswith(OWN))
