"""Checks of arguments, with one wording: "Expected `depth` to be an int >= 1, got 0."

Each check takes the value, the name of its argument and the class of the error to raise, and returns the value. They
are strict: a bool is no number, 2.0 is no int, and NaN and the infinities are no numbers at all. Where scalars of NumPy
or tensors are welcome, pass the value through `plain_number` first:

    self.rounds = check_whole(rounds, "rounds", PruneValueError, at_least=1)
    self.decay = check_number(plain_number(decay), "decay", TransferError, above=0, at_most=1)
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_autoarch.core.errors import AutoArchError

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing has it from Python 3.11 on

T = TypeVar("T")
SHOWN = 80  # characters of a wrong value in a message


class Bounds(TypedDict, total=False):
    """The interval in which a number is expected; a bound that is not given is none."""

    at_least: float
    above: float
    at_most: float
    below: float


def check_whole(
    value: object,
    name: str,  # of the argument
    error: type[AutoArchError],
    *,
    wrong_type: type[AutoArchError] | None = None,  # raised instead of `error` for what is no int
    or_else: str = "",  # what else the caller accepts, for the message: "None"
    hint: str = "",  # what to do
    **bounds: Unpack[Bounds],
) -> int:
    """An int within its bounds; a bool is none.

    >>> check_whole(0, "rounds", AutoArchError, at_least=1)
    Traceback (most recent call last):
    lightning_autoarch.core.errors.AutoArchError: Expected `rounds` to be an int >= 1, got 0.
    """
    expected = _bounded("an int", **bounds)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _unexpected(wrong_type or error, name, expected, value, or_else, hint)
    if not _is_within(value, **bounds):
        raise _unexpected(error, name, expected, value, or_else, hint)
    return value


def check_number(
    value: object,
    name: str,  # of the argument
    error: type[AutoArchError],
    *,
    wrong_type: type[AutoArchError] | None = None,  # raised instead of `error` for what is no number
    or_else: str = "",  # what else the caller accepts, for the message: "None"
    hint: str = "",  # what to do
    **bounds: Unpack[Bounds],
) -> float:
    """A finite int or float within its bounds, as it was given; a bool is none.

    >>> check_number(1, "sparsity", AutoArchError, at_least=0, below=1)
    Traceback (most recent call last):
    lightning_autoarch.core.errors.AutoArchError: Expected `sparsity` to be a number in [0, 1), got 1.
    """
    expected = _bounded("a number", **bounds)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unexpected(wrong_type or error, name, expected, value, or_else, hint)
    if not _is_finite(value) or not _is_within(value, **bounds):
        raise _unexpected(error, name, expected, value, or_else, hint)
    return value


def check_flag(value: object, name: str, error: type[AutoArchError]) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise _unexpected(error, name, "True or False", value)
    return value


def check_text(value: object, name: str, error: type[AutoArchError], *, or_else: str = "", hint: str = "") -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise _unexpected(error, name, "a string that is not empty", value, or_else, hint)
    return value


def check_choice(
    value: object, name: str, choices: Iterable[T], error: type[AutoArchError], *, or_else: str = "", hint: str = ""
) -> T:
    """One of the choices.

    >>> check_choice("avg", "mode", ("min", "max"), AutoArchError)
    Traceback (most recent call last):
    lightning_autoarch.core.errors.AutoArchError: Expected `mode` to be one of 'min', 'max', got 'avg'.
    """
    known = list(choices)
    for choice in known:
        if type(choice) is type(value) and choice == value:
            return choice
    raise _unexpected(error, name, f"one of {', '.join(map(repr, known))}", value, or_else, hint)


def check_mapping(
    value: object,
    name: str,
    form: str,  # of it, for the message: "{pattern: factor}"
    error: type[AutoArchError],
) -> Mapping[object, object]:
    """A mapping; what is in it is for the caller to check."""
    if not isinstance(value, Mapping):
        raise _unexpected(error, name, form, value)
    return value


def check_items(
    value: object,
    name: str,
    of: str,  # what it holds, for the message: "numbers"
    error: type[AutoArchError],
) -> list[object]:
    """The items of a list or any other collection; a string, a mapping, a tensor or an array is none."""
    if not isinstance(value, Collection) or isinstance(value, str | bytes | Mapping | Tensor | np.ndarray):
        raise _unexpected(error, name, f"a list of {of}", value)
    return list(value)


def plain_number(value: object) -> object:
    """A Python number for one of NumPy, or for a tensor on the CPU without dimensions; anything else as it is.

    A tensor on another device is left alone too, as reading it would wait for the device.

    >>> plain_number(np.float64(0.5)), plain_number(torch.tensor(3)), plain_number("0.5")
    (0.5, 3, '0.5')
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if type(value) in (Tensor, torch.nn.Parameter):
        assert isinstance(value, Tensor)
        return value.item() if value.dim() == 0 and value.device.type == "cpu" else value
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return value


def _unexpected(
    error: type[AutoArchError], name: str, expected: str, value: object, or_else: str = "", hint: str = ""
) -> AutoArchError:
    either = f" or {or_else}" if or_else else ""
    return error(f"Expected `{name}` to be {expected}{either}, got {_shown(value)}{f': {hint}' if hint else ''}.")


def _shown(value: object) -> str:
    """A wrong value in a message: of an array only the type, which is what is wrong, and no wait for a device."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__qualname__} of shape {tuple(value.shape)}"
    return f"{value!r:.{SHOWN}}"


def _bounded(kind: str, **bounds: Unpack[Bounds]) -> str:
    """The kind with its bounds.

    >>> _bounded("a number", above=0, at_most=1), _bounded("an int", at_least=1)
    ('a number in (0, 1]', 'an int >= 1')
    """
    low, high = bounds.get("at_least", bounds.get("above")), bounds.get("at_most", bounds.get("below"))
    if low is not None and high is not None:
        return f"{kind} in {'(' if 'above' in bounds else '['}{low}, {high}{')' if 'below' in bounds else ']'}"
    if low is not None:
        return f"{kind} {'>' if 'above' in bounds else '>='} {low}"
    return kind if high is None else f"{kind} {'<' if 'below' in bounds else '<='} {high}"


def _is_within(value: float, **bounds: Unpack[Bounds]) -> bool:
    return (
        bounds.get("at_least", -math.inf) <= value <= bounds.get("at_most", math.inf)
        and ("above" not in bounds or value > bounds["above"])
        and ("below" not in bounds or value < bounds["below"])
    )


def _is_finite(value: float) -> bool:
    """Whether it is, and in the range of a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
