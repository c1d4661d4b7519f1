"""From a flat point of a space to an architecture and back, and from an architecture's JSON form to its objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_autoarch.core.errors import SpaceError, did_you_mean
from lightning_autoarch.search.choices import Scalar
from lightning_autoarch.search.nodes import flat_name, flat_value
from lightning_autoarch.search.parameters import Categorical, Float, Parameter, Repeat


def fold(parameters: Mapping[str, Parameter], flat: Mapping[str, Scalar], prefix: str) -> dict[str, Any]:
    """The architecture of a flat point, of the names that begin with `prefix`."""
    folded: dict[str, Any] = {}
    for name, parameter in parameters.items():
        key = flat_name(prefix, name, parameter)
        if key not in flat:
            continue
        value = flat[key]
        if isinstance(parameter, Repeat) and isinstance(value, int):
            folded[name] = [_fold_item(parameter, i, flat, f"{prefix}{name}.") for i in range(value)]
        elif isinstance(parameter, Categorical):
            folded[name] = parameter.choice_of(value)
        elif isinstance(parameter, Float) and isinstance(value, float):
            folded[name] = parameter.snapped(value)
        else:
            folded[name] = value
    return folded


def _fold_item(repeat: Repeat, i: int, flat: Mapping[str, Scalar], prefix: str) -> Any:
    before, block = repeat.of(i)
    folded = fold(block, flat, prefix + before)
    return folded if isinstance(repeat.block, Mapping) else folded[str(i)]


def spread(parameters: Mapping[str, Parameter], architecture: Mapping[str, Any], prefix: str) -> dict[str, Scalar]:
    """The flat point of an architecture, unchecked; each name begins with `prefix`."""
    flat: dict[str, Scalar] = {}
    for name, value in architecture.items():
        if name not in parameters:
            near = did_you_mean(str(name), parameters)
            raise SpaceError(f"Unknown parameter `{prefix}{name}` in an architecture.{near}")
        parameter = parameters[name]
        if not isinstance(parameter, Repeat):
            flat[prefix + name] = flat_value(parameter, value)
            continue
        items = _items(parameter, prefix + name, value)
        flat[f"{prefix}{name}.n"] = len(items)
        for i, item in enumerate(items):
            before, block = parameter.of(i)
            flat.update(spread(block, item, f"{prefix}{name}.{before}"))
    return flat


def _items(repeat: Repeat, name: str, value: Any) -> list[Mapping[str, Any]]:
    """The repetitions in an architecture, each as a mapping; a plain value is named by its position."""
    is_list, named = isinstance(value, list | tuple), isinstance(repeat.block, Mapping)
    if not is_list or (named and not all(isinstance(item, Mapping) for item in value)):
        raise SpaceError(f"Expected `{name}` to be a list{' of mappings' if named else ''}, got {value!r}.")
    return list(value) if named else [{str(i): item} for i, item in enumerate(value)]


def restored(parameters: Mapping[str, Parameter], architecture: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """An architecture with the objects in the place of their names; see `SearchSpace.restored`."""
    found: dict[str, Any] = {}
    for name, value in architecture.items():
        parameter = parameters.get(name)
        if isinstance(parameter, Repeat) and isinstance(value, list | tuple):
            found[name] = [_restored_item(parameter, i, item, f"{prefix}{name}.") for i, item in enumerate(value)]
        elif isinstance(parameter, Categorical) and parameter.holds_objects:
            try:
                found[name] = parameter.choice_of(value)
            except SpaceError as error:
                raise SpaceError(f"`{prefix}{name}`: {error.args[0]}") from None
        else:
            found[name] = value
    return found


def _restored_item(repeat: Repeat, i: int, item: Any, prefix: str) -> Any:
    before, block = repeat.of(i)
    if not isinstance(repeat.block, Mapping):
        return restored(block, {str(i): item}, prefix)[str(i)]
    return restored(block, item, prefix + before) if isinstance(item, Mapping) else item
