"""What a dimension of a search space can be: `Int`, `Float`, `Categorical`, `Repeat` for a variable number of layers.

Each is a frozen value that checks itself when it is made. A parameter with `when={parent: [values]}` exists only while
`parent` has one of `values`; while it does not exist, the module is built without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lightning_autoarch.errors import SpaceError

Scalar: TypeAlias = str | int | float | bool | None
When: TypeAlias = Mapping[str, Sequence[Scalar]] | None


def to_python_scalar(value: Any) -> Scalar:
    """A Python scalar for a Python or NumPy one: a NumPy scalar in hparams makes a checkpoint unloadable.

    Raises:
        SpaceError: for anything that is no scalar.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise SpaceError(f"Expected a str, int, float, bool or None, got {value!r} of type {type(value).__name__}.")


def _whole(name: str, value: Any) -> int:
    value = to_python_scalar(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpaceError(f"Expected `{name}` to be a whole number, got {value!r}.")
    return value


def _real(name: str, value: Any) -> float:
    value = to_python_scalar(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SpaceError(f"Expected `{name}` to be a finite number, got {value!r}.")
    return float(value)


def _check_bounds(low: float, high: float, log: bool) -> None:
    if not isinstance(log, bool):
        raise SpaceError(f"Expected `log` to be true or false, got {log!r}.")
    if low > high:
        raise SpaceError(f"Expected `low` <= `high`, got low={low!r} and high={high!r}.")
    if log and low <= 0:
        raise SpaceError(f"Expected `low` > 0 with `log`, got low={low!r}.")


def _check_when(when: When) -> dict[str, tuple[Scalar, ...]] | None:
    if when is None:
        return None
    if not isinstance(when, Mapping) or not when:
        raise SpaceError(f"Expected `when` to map a parent's name to a list of its values, got {when!r}.")
    checked: dict[str, tuple[Scalar, ...]] = {}
    for parent, values in when.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise SpaceError(f"Expected `when[{parent!r}]` to be a list of values, got {values!r}.")
        checked[parent] = tuple(to_python_scalar(value) for value in values)
    return checked


@dataclass(frozen=True)
class Int:
    """A whole number in `[low, high]`, both ends included.

    Args:
        low: smallest value.
        high: largest value; lowered to the last one that `step` reaches.
        log: sampled and modelled on a logarithmic scale. It needs `low` > 0 and `step` = 1.
        step: distance of neighbouring values.
        when: `{parent: [values]}`: exists only while every parent has one of its values.

    Raises:
        SpaceError: `low` > `high`, `log` with `low` <= 0 or with a `step`, `step` < 1, or a bound that is not whole.

    >>> Int(16, 512, log=True)
    Int(low=16, high=512, log=True, step=1, when=None)
    >>> Int(1, 8, step=3).high
    7
    """

    low: int
    high: int
    log: bool = field(default=False, kw_only=True)
    step: int = field(default=1, kw_only=True)
    when: When = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high, step = _whole("low", self.low), _whole("high", self.high), _whole("step", self.step)
        _check_bounds(low, high, self.log)
        if step < 1:
            raise SpaceError(f"Expected `step` >= 1, got {step}.")
        if self.log and step != 1:
            raise SpaceError(f"Expected `step` = 1 with `log`, got {step}.")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", low + (high - low) // step * step)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "when", _check_when(self.when))


@dataclass(frozen=True)
class Float:
    """A real number in `[low, high]`, both ends included.

    Args:
        low: smallest value.
        high: largest value.
        log: sampled and modelled on a logarithmic scale. It needs `low` > 0.
        when: `{parent: [values]}`: exists only while every parent has one of its values.

    Raises:
        SpaceError: `low` > `high`, `log` with `low` <= 0, or a bound that is not finite.

    >>> Float(0, 0.5)
    Float(low=0.0, high=0.5, log=False, when=None)
    """

    low: float
    high: float
    log: bool = field(default=False, kw_only=True)
    when: When = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high = _real("low", self.low), _real("high", self.high)
        _check_bounds(low, high, self.log)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "when", _check_when(self.when))


@dataclass(frozen=True)
class Categorical:
    """One of several unordered choices.

    Args:
        choices: distinct str, int, float, bool or None.
        when: `{parent: [values]}`: exists only while every parent has one of its values.

    Raises:
        SpaceError: no choice, two equal ones (Python's equality: `1` and `True` are), or one that is no scalar.

    >>> Categorical(["relu", "gelu"])
    Categorical(choices=('relu', 'gelu'), when=None)
    """

    choices: Sequence[Scalar]
    when: When = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.choices, str) or not isinstance(self.choices, Sequence) or not self.choices:
            raise SpaceError(f"Expected `choices` to be a list of at least one value, got {self.choices!r}.")
        choices = tuple(to_python_scalar(choice) for choice in self.choices)
        for i, choice in enumerate(choices):
            if isinstance(choice, float) and not math.isfinite(choice):
                raise SpaceError(f"Expected finite `choices`, got {choice!r}.")
            if choice in choices[:i]:
                raise SpaceError(f"Expected distinct `choices`, got {choice!r} twice in {list(choices)!r}.")
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "when", _check_when(self.when))


@dataclass(frozen=True)
class Repeat:
    """A block of parameters repeated `min` to `max` times; the module receives a list of dicts, one a repetition.

    Args:
        min: fewest repetitions, >= 0.
        max: most repetitions.
        block: name -> parameter or its compact form; a `when` in it looks in the same repetition first, then outside.
        when: `{parent: [values]}`: exists only while every parent has one of its values.

    Raises:
        SpaceError: `min` < 0, `min` > `max`, `max` < 1, or an empty block.

    >>> Repeat(1, 6, {"width": Int(16, 512, log=True)}).max
    6
    """

    min: int
    max: int
    block: Mapping[str, Any]
    when: When = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high = _whole("min", self.min), _whole("max", self.max)
        if not 0 <= low <= high or high < 1:
            raise SpaceError(f"Expected 0 <= `min` <= `max` and `max` >= 1, got min={low} and max={high}.")
        if not isinstance(self.block, Mapping) or not self.block:
            raise SpaceError(f"Expected `block` to map names to parameters, got {self.block!r}.")
        object.__setattr__(self, "min", low)
        object.__setattr__(self, "max", high)
        object.__setattr__(self, "block", dict(self.block))
        object.__setattr__(self, "when", _check_when(self.when))


Parameter: TypeAlias = Int | Float | Categorical | Repeat
