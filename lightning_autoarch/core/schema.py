"""Check that a stored state is well formed before anything is restored from it.

A checkpoint or a study may be damaged, written by another version, or written by another program. Each state that this
package writes therefore declares a `Schema` next to the code that writes it: a version, and a check for each field.
`Schema.read` returns a well-formed state or raises one error that names its owner and the field.

    SCHEMA = Schema("TrialRecorder", 1, {"epochs": whole(), "failure": optional(text())})
    SCHEMA.read(state)["epochs"]

The version is the field "format"; a state without one is read as version 1. Fields that are not declared are not
checked, so that a newer version may add some.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_autoarch.core.errors import AutoArchError, CheckpointError, shown

Check: TypeAlias = Callable[[Any, str], None]  # (value, its position); raises Mismatch

VERSION = "format"
DEEPEST = 32  # nested containers in data without a schema: far below Python's recursion limit
LONGEST = 60  # characters of a value in a message


class Mismatch(Exception):
    """A value is not what was expected: its position, the expectation and the value."""

    def __init__(self, where: str, expected: str, got: object) -> None:
        super().__init__(f"expected `{shown(where)}` to be {expected}, got {described(got)}")


@dataclass(frozen=True)
class Schema:
    """The form of one stored state.

    Attributes:
        owner: the class that the state belongs to, as named in messages.
        version: of the form that is written; older versions are read too.
        required: field -> check.
        extra: the same for fields that may be missing.
        kind: what is stored, as named in messages.
    """

    owner: str
    version: int
    required: Mapping[str, Check]
    extra: Mapping[str, Check] = field(default_factory=dict)
    kind: str = "state"

    def read(self, state: object, error: type[AutoArchError] = CheckpointError) -> dict[str, Any]:
        """Return the state if it is well formed.

        Raises:
            AutoArchError: of the class `error`: it is malformed, or a newer version has written it.
        """
        try:
            self._check(state)
        except Mismatch as mismatch:
            raise error(
                f"The stored {self.kind} of {self.owner} is not well formed: {mismatch}. It is damaged, or another "
                "program has written it: use another file."
            ) from None
        assert isinstance(state, Mapping)
        written = state.get(VERSION, 1)
        if written > self.version:
            raise error(
                f"The stored {self.kind} of {self.owner} has format {written}, but this version of lightning-autoarch "
                f"knows formats up to {self.version}: a newer one has written it. Update the package."
            )
        return dict(state)

    def _check(self, state: object) -> None:
        if not isinstance(state, Mapping):
            raise Mismatch(self.kind, "a dict", state)
        whole(1)(state.get(VERSION, 1), VERSION)
        record(self.required, self.extra)(state, "")


def is_empty(state: object) -> bool:
    """Whether nothing was stored, as by a callback that has no state."""
    return state is None or (isinstance(state, Mapping) and not state)


def record(required: Mapping[str, Check], extra: Mapping[str, Check] | None = None) -> Check:
    """A dict with these fields; others are ignored."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise Mismatch(where, "a dict", value)
        prefix = f"{where}." if where else ""
        for name, inner in required.items():
            if name not in value:
                raise Mismatch(prefix + name, "there", MISSING)
            inner(value[name], prefix + name)
        for name, inner in (extra or {}).items():
            if name in value:
                inner(value[name], prefix + name)

    return check


def mapping(inner: Check) -> Check:
    """A dict from strings to values, each of which passes the check."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise Mismatch(where, "a dict", value)
        for name, item in value.items():
            if not isinstance(name, str):
                raise Mismatch(f"{where}: a name in it", "a string", name)
            inner(item, f"{where}.{name}")

    return check


def sequence(inner: Check, length: int | None = None) -> Check:
    """A list or tuple of `length` items (None: any number), each of which passes the check."""

    def check(value: Any, where: str) -> None:
        _check_length(value, where, length)
        for i, item in enumerate(value):
            inner(item, f"{where}[{i}]")

    return check


def items(*inner: Check) -> Check:
    """A list or tuple with one item for each check."""

    def check(value: Any, where: str) -> None:
        _check_length(value, where, len(inner))
        for i, (item, each) in enumerate(zip(value, inner, strict=True)):
            each(item, f"{where}[{i}]")

    return check


def optional(inner: Check) -> Check:
    """None, or a value that passes the check."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def whole(low: int = 0, high: int = 2**63 - 1) -> Check:
    """An int in [low, high], but not a bool."""

    def check(value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Mismatch(where, _within("a whole number", low, high), value)

    return check


def real(low: float = -math.inf, high: float = math.inf, *, finite: bool = True) -> Check:
    """An int or float in [low, high], but not a bool; NaN and infinities pass only with `finite=False`."""

    def check(value: Any, where: str) -> None:
        number = not isinstance(value, bool) and isinstance(value, int | float) and _is_float(value)
        if not number or (finite and not (math.isfinite(value) and low <= value <= high)):
            raise Mismatch(where, _within("a finite number" if finite else "a number", low, high), value)

    return check


def flag() -> Check:
    """A bool."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, bool):
            raise Mismatch(where, "True or False", value)

    return check


def text() -> Check:
    """A string."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str):
            raise Mismatch(where, "a string", value)

    return check


def tensor(dtype: torch.dtype | None = None, dims: int | None = None) -> Check:
    """A plain dense tensor; one whose shape needs more memory than its storage has does not pass."""

    def check(value: Any, where: str) -> None:
        kind = "a plain dense tensor" if dtype is None else f"a plain dense tensor of {dtype}"
        if not is_plain_tensor(value) or dtype not in (None, value.dtype):
            raise Mismatch(where, kind, value)
        if dims is not None and value.dim() != dims:
            raise Mismatch(where, f"a tensor of {dims} dimensions", value)

    return check


def data() -> Check:
    """Plain data: None, bools, numbers, strings, tensors; lists, tuples and dicts of them, at most `DEEPEST` deep."""

    def check(value: Any, where: str) -> None:
        found = first_strange(value)
        if found is not None:
            raise Mismatch(where + found[0], "plain data: numbers, strings, tensors, lists and dicts", found[1])

    return check


def first_strange(value: object, depth: int = DEEPEST) -> tuple[str, object] | None:
    """The position of the first value in nested data that is not plain, and that value; None if all are plain.

    >>> first_strange({"a": [1, 2.5, None]})
    >>> first_strange({"a": [1, object]})[0]
    "['a'][1]"
    """
    if value is None or type(value) in _SCALARS:
        return None
    if type(value) is Tensor or type(value) is torch.nn.Parameter:
        return None if is_plain_tensor(value) else ("", value)
    parts: Iterable[tuple[object, object]]
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        parts = enumerate(value)
    elif isinstance(value, dict) and type(value) in (dict, OrderedDict):
        parts = value.items()
    else:
        return "", value
    for name, part in parts if depth else ():
        if type(name) not in (str, int):
            return "", name
        if (found := first_strange(part, depth - 1)) is not None:
            return f"[{described(name)}]{found[0]}", found[1]
    return None if depth or not value else ("", value)


def is_plain_tensor(value: object) -> bool:
    """Whether this is a dense tensor whose storage holds all of its elements."""
    if not isinstance(value, Tensor) or type(value) not in (Tensor, torch.nn.Parameter):
        return False
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def described(value: object) -> str:
    """A value as it appears in a message: short, on one line, without control characters.

    >>> described("a" * 1000)[:12], described(10**5000), described([1, 2]), described(2.5)
    ("'aaaaaaaaaaa", 'a whole number of 16610 bits', 'a list of 2', '2.5')
    """
    if value is MISSING:
        return "nothing"
    if isinstance(value, Tensor):
        sizes = tuple(value.shape)
        shape = str(sizes) if len(sizes) <= 8 else f"of {len(sizes)} dimensions"
        return f"a tensor {value.dtype} {shape}" + ("" if is_plain_tensor(value) else ", which is no plain dense one")
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str | bytes):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str | bytes):
        return repr(value[:LONGEST]) + ("..." if len(value) > LONGEST else "")
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    return repr(value) if value is None or type(value) in (bool, int, float) else f"a {_kind(value)}"


def _kind(value: object) -> str:
    return shown(f"{type(value).__module__}.{type(value).__qualname__}")


def _within(kind: str, low: float, high: float) -> str:
    if low == -math.inf and high == math.inf:
        return kind
    return f"{kind} >= {low}" if high in (math.inf, 2**63 - 1) else f"{kind} in [{low}, {high}]"


def _is_float(value: float) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _check_length(value: Any, where: str, length: int | None) -> None:
    if not isinstance(value, list | tuple):
        raise Mismatch(where, "a list", value)
    if length is not None and len(value) != length:
        raise Mismatch(where, f"a list of {length}", value)


_SCALARS = (bool, int, float, str)
MISSING = object()
