"""From the compact form that YAML holds to parameters, and back.

    width:   {low: 16, high: 512, log: true}          Int (both bounds whole) or Float
    act:     [relu, gelu]                             Categorical, the same as {choices: [relu, gelu]}
    kernel:  {choices: [3, 5], when: {block: [conv]}}
    sizes:   [[64, 32], [16]]                         Categorical of lists
    layers:  {min: 1, max: 6, block: {width: {low: 16, high: 512}}}
    hidden:  {min: 1, max: 4, block: {low: 8, high: 256}}      Repeat of plain values

A type-hinted union would name every member and never the parameter; this validator names the parameter, the bad key and
the nearest good one.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from lightning_autoarch.core.errors import SpaceError, did_you_mean
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.parameters import Categorical, Float, Int, Parameter, Repeat

_KEYS: dict[type, tuple[str, ...]] = {
    Int: ("low", "high", "log", "step", "when", "type"),
    Float: ("low", "high", "log", "step", "when", "type"),
    Categorical: ("choices", "when", "type"),
    Repeat: ("min", "max", "block", "when", "type"),
}
_TYPES: dict[str, type] = {"int": Int, "float": Float, "categorical": Categorical, "repeat": Repeat}


def parse_parameter(
    name: str,
    value: Any,  # a parameter, a list of choices, or a compact mapping
) -> Parameter:
    """The parameter that `value` stands for.

    Raises:
        SpaceError: naming the parameter, what is wrong and the nearest good key.
    """
    if isinstance(value, Repeat):
        return dataclasses.replace(value, block=_parse_block(name, value.block))
    if isinstance(value, Int | Float | Categorical):
        return value
    try:
        if isinstance(value, list | tuple):
            return Categorical(value)
        if isinstance(value, type) and issubclass(value, enum.Enum):
            return Categorical(list(value))
        if isinstance(value, Mapping):
            return _parse_mapping(name, dict(value))
    except SpaceError as error:
        raise SpaceError(error.args[0] if _names(error) else f"Parameter `{name}`: {error.args[0]}") from None
    raise SpaceError(
        f"Parameter `{name}`: expected Int, Float, Categorical, Repeat, a list of choices, an Enum or a mapping "
        f"such as {{low: 1, high: 8}}, got {value!r}."
    )


def to_compact(parameter: Parameter) -> dict[str, Any]:
    """The compact mapping that `parse_parameter` reads back; JSON types only."""
    compact = {f.name: getattr(parameter, f.name) for f in dataclasses.fields(parameter)}
    compact = {key: value for key, value in compact.items() if value is not None}
    if isinstance(parameter, Repeat):
        block = parameter.block
        is_named = isinstance(block, Mapping)
        compact["block"] = {name: to_compact(inner) for name, inner in block.items()} if is_named else to_compact(block)
    if isinstance(parameter, Categorical):
        compact["choices"] = [written(choice) for choice in parameter.choices]
    if parameter.when is not None:
        compact["when"] = {parent: [written(value) for value in values] for parent, values in parameter.when.items()}
    return {"type": type(parameter).__name__.lower(), **compact}


def _names(error: SpaceError) -> bool:
    return str(error.args[0]).startswith("Parameter `")


def _parse_mapping(name: str, value: dict[str, Any]) -> Parameter:
    kind = _kind(name, value)
    for key in value:
        if key not in _KEYS[kind]:
            raise SpaceError(
                f"Parameter `{name}`: unknown key `{key}` for {kind.__name__}.{did_you_mean(str(key), _KEYS[kind])} "
                f"Known keys: {', '.join(_KEYS[kind][:-1])}."
            )
    arguments = {key: item for key, item in value.items() if key != "type"}
    missing = [key for key in _required(kind) if key not in arguments]
    if missing:
        raise SpaceError(f"Parameter `{name}`: {kind.__name__} needs `{'` and `'.join(missing)}`, got {value!r}.")
    if kind is Repeat:
        arguments["block"] = _parse_block(name, arguments["block"])
    parameter: Parameter = kind(**arguments)
    return parameter


def _parse_block(name: str, block: Any) -> Any:
    if isinstance(block, Mapping) and not _is_one_parameter(block):
        return {key: parse_parameter(f"{name}.{key}", item) for key, item in block.items()}
    return parse_parameter(f"{name}[i]", block) if block or not isinstance(block, Mapping | list | tuple) else block


def _is_one_parameter(block: Mapping[Any, Any]) -> bool:
    """Whether a block is one parameter in compact form, rather than names with a parameter each.

    Names hold lists, mappings or parameters: so does a parameter, but for its numbers, and but for `choices`.
    """
    kind = block.get("type")
    if isinstance(kind, str):
        return kind in _TYPES
    numbers = [block[key] for key in ("low", "high", "min", "max") if key in block]
    if numbers:
        return not any(
            isinstance(item, list | tuple | Mapping | Int | Float | Categorical | Repeat) for item in numbers
        )
    return isinstance(block.get("choices"), list | tuple) and block.keys() <= {"choices", "when"}


def _required(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]


def _kind(name: str, value: dict[str, Any]) -> type:
    """Which parameter a mapping means, by its `type` or keys; numbers that YAML left as text are read in place."""
    for key in ("low", "high", "step"):
        if key in value:
            value[key] = _number(value[key])
    if "type" in value:
        if value["type"] not in _TYPES:
            near = did_you_mean(str(value["type"]), _TYPES)
            raise SpaceError(f"Parameter `{name}`: unknown type {value['type']!r}.{near} Known: {', '.join(_TYPES)}.")
        return _TYPES[value["type"]]
    for kind, keys in ((Categorical, {"choices"}), (Repeat, {"block", "min", "max"}), (Int, {"low", "high"})):
        if keys & value.keys():
            return _int_or_float(name, value) if kind is Int else kind
    known = ("low", "high", "choices", "min", "max", "block")
    near = next((hint for hint in (did_you_mean(str(key), known) for key in value) if hint), "")
    raise SpaceError(f"Parameter `{name}`: expected low and high, choices, or min, max and block, got {value!r}.{near}")


def _int_or_float(name: str, value: dict[str, Any]) -> type:
    bounds = [value[key] for key in ("low", "high") if key in value]
    whole = [isinstance(bound, int) for bound in bounds]
    if all(whole):
        return Float if isinstance(value.get("step"), float) else Int
    if any(whole) and all(whole[i] or float(bound).is_integer() for i, bound in enumerate(bounds) if _is_number(bound)):
        raise SpaceError(
            f"Parameter `{name}`: bounds {bounds!r} mix a whole number and a float: Int and Float are both possible. "
            f"Write both alike ({int(bounds[0])} or {float(bounds[0])}), or add `type: float`."
        )
    return Float


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text: read it as the number it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
