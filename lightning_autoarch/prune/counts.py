"""How many elements are pruned: counts, from a count or a share that the caller gives.

A number may be Python's, NumPy's or a tensor without dimensions; a bool or a string is none. Shares are floats in
[0, 1], counts are ints.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.tensors import TensorList

N = TypeVar("N", float, int)
Read: TypeAlias = Callable[[Any, str], N]  # a value and the name of its argument


def as_number(value: object, name: str) -> float:
    """A number as a float.

    Raises:
        PruneTypeError: it is not a number.
        PruneValueError: it is too large for a float.

    >>> import numpy as np
    >>> as_number(np.float32(0.5), "sparsity"), as_number(torch.tensor(0.25), "sparsity")
    (0.5, 0.25)
    """
    number = _scalar(value, name)
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise PruneTypeError(f"Expected `{name}` a number, got {_shown(value)}.")
    try:
        return float(number)
    except OverflowError:
        raise PruneValueError(f"Expected `{name}` a number in the range of a float, got a larger one.") from None


def as_int(value: object, name: str) -> int:
    """A whole number as an int; 2.0 is not one.

    Raises:
        PruneTypeError: it is not an int.
    """
    number = _scalar(value, name)
    if isinstance(number, bool | Tensor):
        raise PruneTypeError(f"Expected `{name}` an int, got {_shown(value)}.")
    try:
        return operator.index(number)  # type: ignore[arg-type]  # it raises
    except TypeError:
        raise PruneTypeError(f"Expected `{name}` an int, got {_shown(value)}.") from None


def one_or_each(weights: TensorList, value: object, name: str, read: Read[N]) -> list[N]:
    """A number for each distinct tensor, from one for all tensors or one for each.

    Raises:
        PruneTypeError, PruneValueError: not numbers, not one for each, or different numbers for tied tensors.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) != 0:
        return weights.distinct([read(item, f"{name}[{i}]") for i, item in enumerate(value)], name)
    return [read(value, name)] * len(weights.unique)


def count_of(n: int, share: object, k: object, name: str = "sparsity", of: str = "weights") -> int:
    """`round(share * n)`, or `k`: exactly one of the two is given.

    Args:
        n: how many there are.
        share: in [0, 1], or None.
        k: in [0, n], or None.
        name: of the argument `share`, for errors.
        of: what is counted, for errors.

    Raises:
        PruneTypeError, PruneValueError: both or neither is given, it is not a number, or it is out of range.
    """
    if (share is None) == (k is None):
        raise PruneValueError(f"Expected exactly one of `{name}` and `k`.")
    if share is not None:
        number = as_number(share, name)
        if not 0 <= number <= 1:
            hint = f": pass `k={number:.0f}` for that many {of}" if number > 1 and number.is_integer() else ""
            raise PruneValueError(f"Expected `{name}` in [0, 1], got {share}{hint}.")
        return round(number * n)
    count = as_int(k, "k")
    if not 0 <= count <= n:
        raise PruneValueError(f"Expected `k` in [0, {n}], the number of {of}, got {count}.")
    return count


def non_negative(value: object, name: str) -> float:
    """A finite number >= 0.

    Raises:
        PruneTypeError, PruneValueError: it is anything else.
    """
    number = as_number(value, name)
    if not (number >= 0 and math.isfinite(number)):
        raise PruneValueError(f"Expected `{name}` >= 0 and finite, got {number}.")
    return number


def _scalar(value: object, name: str) -> object:
    """The value of a tensor or array without dimensions; anything else unchanged."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value.item()
    if not isinstance(value, Tensor) or value.dim():
        return value
    if type(value) not in (Tensor, torch.nn.Parameter) or value.device.type != "cpu":
        raise PruneTypeError(
            f"Expected `{name}` a number or a tensor on the CPU, got a {type(value).__qualname__} on {value.device}: "
            "pass its `.item()`, which waits for the device."
        )
    return value.item()


def _shown(value: object) -> str:
    return type(value).__qualname__ if isinstance(value, Tensor | np.ndarray) else f"{value!r:.80}"
