"""What a dimension of a search space can be: `Int`, `Float`, `Categorical`, `Repeat` for a variable number of layers.

Each is a frozen value that checks itself when it is made. A parameter with `when={parent: [values]}` exists only while
`parent` has one of `values`; while it does not exist, the module is built without it.
"""

from __future__ import annotations

import copy
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeAlias

from lightning_autoarch.core.errors import SpaceError
from lightning_autoarch.search.choices import Scalar, as_python, label

When: TypeAlias = Mapping[str, Sequence[Any]] | None


def to_python_scalar(value: Any) -> Scalar:
    """A Python scalar for a Python or NumPy one: a NumPy scalar in hparams makes a checkpoint unloadable.

    Raises:
        SpaceError: for anything that is no scalar.
    """
    value = as_python(value)
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


def _check_when(when: When) -> dict[str, tuple[Any, ...]] | None:
    if when is None:
        return None
    if not isinstance(when, Mapping) or not when:
        raise SpaceError(f"Expected `when` to map a parent's name to a list of its values, got {when!r}.")
    checked: dict[str, tuple[Any, ...]] = {}
    for parent, values in when.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise SpaceError(f"Expected `when[{parent!r}]` to be a list of values, got {values!r}.")
        checked[parent] = tuple(as_python(value) for value in values)
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
        high: largest value; with `step`, lowered to the last one that it reaches.
        log: sampled and modelled on a logarithmic scale. It needs `low` > 0 and no `step`.
        step: distance of neighbouring values; None for any value of the interval.
        when: `{parent: [values]}`: exists only while every parent has one of its values.

    Raises:
        SpaceError: `low` > `high`, `log` with `low` <= 0 or with a `step`, `step` <= 0, or a bound that is not finite.

    >>> Float(0, 0.5)
    Float(low=0.0, high=0.5, log=False, step=None, when=None)
    >>> Float(0, 1, step=0.3).values()
    (0.0, 0.3, 0.6, 0.9)
    """

    low: float
    high: float
    log: bool = field(default=False, kw_only=True)
    step: float | None = field(default=None, kw_only=True)
    when: When = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high = _real("low", self.low), _real("high", self.high)
        _check_bounds(low, high, self.log)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        if self.step is not None:
            self._use_step(_real("step", self.step))
        object.__setattr__(self, "when", _check_when(self.when))

    def values(self) -> tuple[float, ...] | None:
        """Every value, with `step` or where both ends are equal; None where they are not countable."""
        if self.step is None:
            return (self.low,) if self.low == self.high else None
        cells = round((self.high - self.low) / self.step)
        return tuple(on_grid(i, self.low, self.step) for i in range(cells + 1))

    def contains(self, value: float) -> bool:
        """Whether it is one of the values, up to rounding."""
        return self.low <= value <= self.high and (self.step is None or math.isclose(self.snapped(value), value))

    def snapped(self, value: float) -> float:
        """The nearest value of the grid, without the rounding errors of multiples of `step`."""
        return value if self.step is None else on_grid(round((value - self.low) / self.step), self.low, self.step)

    def _use_step(self, step: float) -> None:
        if step <= 0:
            raise SpaceError(f"Expected `step` > 0, got {step}.")
        if self.log:
            raise SpaceError(f"Expected no `step` with `log`, got {step}.")
        cells = (Decimal(str(self.high)) - Decimal(str(self.low))) // Decimal(str(step))
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "high", on_grid(int(cells), self.low, step))


def on_grid(index: int, low: float, step: float) -> float:
    """`low + index * step` in decimal arithmetic: 0.3, not 0.30000000000000004."""
    return float(Decimal(str(low)) + index * Decimal(str(step)))


@dataclass(frozen=True)
class Categorical:
    """One of several unordered choices, which may be objects of any kind.

    The module receives the choice itself: a class, function or Enum member as it is, anything else as a deep copy that
    no other candidate shares. The study stores its label (see `search.choices`).

    Args:
        choices: distinct values: scalars, tuples, lists, dicts, Enum members, classes, functions, or other objects
            whose `repr` is the same in every process.
        when: `{parent: [values]}`: exists only while every parent has one of its values.

    Raises:
        SpaceError: no choice, two with one label (`1` and `True`; a tuple and a list of the same items), a number that
            is not finite, or an object without a stable `repr`.

    >>> Categorical(["relu", "gelu"])
    Categorical(choices=('relu', 'gelu'), when=None)
    >>> Categorical([[64, 32], [16]]).labels
    ('[64, 32]', '[16]')
    """

    choices: Sequence[Any]
    when: When = field(default=None, kw_only=True)

    def __new__(cls, *choices: Any, **options: Any) -> Categorical:
        if len(choices) > 1:
            given = ", ".join(repr(choice) for choice in choices)
            raise SpaceError(
                f"Expected `choices` to be one list, got {len(choices)} arguments: Categorical([{given}])."
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if isinstance(self.choices, str) or not isinstance(self.choices, Sequence) or not self.choices:
            raise SpaceError(f"Expected `choices` to be a list of at least one value, got {self.choices!r}.")
        object.__setattr__(self, "choices", tuple(as_python(choice) for choice in self.choices))
        for i, known in enumerate(self.labels):
            if isinstance(known, float) and not math.isfinite(known):
                raise SpaceError(f"Expected finite `choices`, got {known!r}.")
            if known in self.labels[:i]:
                twice = f" (both are stored as {known!r})" if self.holds_objects else ""
                raise SpaceError(
                    f"Expected distinct `choices`, got {self.choices[i]!r} twice in {list(self.labels)!r}{twice}."
                )
        object.__setattr__(self, "when", _check_when(self.when))

    @cached_property
    def labels(self) -> tuple[Scalar, ...]:
        """What a study stores for each choice."""
        return tuple(label(choice) for choice in self.choices)

    @property
    def holds_objects(self) -> bool:
        """Whether any choice is stored as something other than itself."""
        return any(type(choice) not in (str, int, float, bool, type(None)) for choice in self.choices)

    def label_of(self, value: Any) -> Scalar:
        """The label of the choice that `value` is or stands for: its label, its JSON form, or the value of an Enum.

        A value that is no choice has its own label, which is not among `labels`.
        """
        own = label(value)
        for known, choice in zip(self.labels, self.choices, strict=True):
            if known == own:
                return known
            if isinstance(choice, enum.Enum) and isinstance(choice.value, str | int | float) and choice.value == own:
                return known
        return own

    def choice_of(self, value: Any) -> Any:
        """A copy of the choice that `value` is or stands for.

        Raises:
            SpaceError: it is none.
        """
        found = self.label_of(value)
        if found not in self.labels:
            raise SpaceError(f"Expected one of {list(self.labels)!r}, got {value!r}.")
        return copy.deepcopy(self.choices[self.labels.index(found)])


@dataclass(frozen=True)
class Repeat:
    """A block repeated `min` to `max` times; the module receives a list with an entry for each repetition.

    Args:
        min: fewest repetitions, >= 0.
        max: most repetitions.
        block: name -> parameter or its compact form, and the entries are dicts; or one parameter, and they are plain
            values: `Repeat(1, 4, Int(8, 256))` gives `[64, 32]`. A `when` in a block of names looks in the same
            repetition first, then outside.
        when: `{parent: [values]}`: exists only while every parent has one of its values.

    Raises:
        SpaceError: `min` < 0, `min` > `max`, `max` < 1, an empty block, or a `when` in a block of plain values.

    >>> Repeat(1, 6, {"width": Int(16, 512, log=True)}).max
    6
    """

    min: int
    max: int
    block: Any
    when: When = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high = _whole("min", self.min), _whole("max", self.max)
        if not 0 <= low <= high or high < 1:
            raise SpaceError(f"Expected 0 <= `min` <= `max` and `max` >= 1, got min={low} and max={high}.")
        if isinstance(self.block, Int | Float | Categorical | Repeat):
            if self.block.when is not None:
                raise SpaceError("Expected no `when` in a block of plain values: give it to the Repeat.")
        elif not isinstance(self.block, Mapping | list | tuple) or not self.block:
            raise SpaceError(f"Expected `block` to be a parameter or to map names to parameters, got {self.block!r}.")
        object.__setattr__(self, "min", low)
        object.__setattr__(self, "max", high)
        object.__setattr__(self, "block", dict(self.block) if isinstance(self.block, Mapping) else self.block)
        object.__setattr__(self, "when", _check_when(self.when))

    def of(self, i: int) -> tuple[str, dict[str, Parameter]]:
        """Of repetition `i`: the prefix of its names, and its parameters; one of plain values is named `i`."""
        if isinstance(self.block, Mapping):
            return f"{i}.", dict(self.block)
        return "", {str(i): self.block}


Parameter: TypeAlias = Int | Float | Categorical | Repeat
