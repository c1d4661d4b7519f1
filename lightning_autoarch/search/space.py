"""A search space: named parameters, which of them exist when, and two views of one point in it.

    architecture  {"layers": [{"width": 64, "act": nn.ReLU}], "dropout": 0.1}     what the module's `__init__` receives
    flat          {"layers.n": 1, "layers.0.width": 64, "layers.0.act": "torch.nn.ReLU", "dropout": 0.1}
                                                                                  what the study stores

Both hold active parameters only. A `Repeat` named `layers` becomes the count `layers.n` and one set of block parameters
for each repetition; those of repetition `i` exist while `layers.n` > `i`. A repeated plain value is `hidden.i`. A flat
point holds the labels of choices (`search.choices`). `written` of an architecture is its JSON form, and
`SearchSpace.restored` leads back from it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from lightning_autoarch.core.errors import SpaceError, did_you_mean
from lightning_autoarch.search.choices import Scalar, written
from lightning_autoarch.search.nodes import (
    Node,
    check_name,
    checked,
    draw,
    flat_name,
    flat_value,
    parents_first,
    suggest,
    unroll,
    values_of,
)
from lightning_autoarch.search.parameters import Categorical, Float, Parameter, Repeat
from lightning_autoarch.search.parse import parse_parameter, to_compact

if TYPE_CHECKING:
    import numpy as np
    from optuna import Trial

Architecture: TypeAlias = dict[str, Any]
Flat: TypeAlias = dict[str, Scalar]


class SearchSpace:
    """Named parameters, checked as a whole.

    Args:
        parameters: name -> parameter, or its compact form (`{"low": 1, "high": 8}`, `["relu", "gelu"]`).

    Raises:
        SpaceError: an empty space, a bad name, a `when` with an unknown parent, an impossible value or a cycle; the
            message names the parameter.

    >>> from lightning_autoarch.search.parameters import Int, Repeat
    >>> space = SearchSpace({"layers": Repeat(1, 2, {"width": Int(8, 64)}), "act": ["relu", "gelu"]})
    >>> [node.name for node in space.nodes]
    ['layers.n', 'layers.0.width', 'layers.1.width', 'act']
    >>> space.architecture({"layers.n": 1, "layers.0.width": 32, "act": "relu"})
    {'layers': [{'width': 32}], 'act': 'relu'}
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        if not isinstance(parameters, Mapping) or not parameters:
            raise SpaceError(f"Expected a space of at least one named parameter, got {parameters!r}.")
        for name in parameters:
            check_name(name)
        self.parameters: dict[str, Parameter] = {
            name: parse_parameter(name, value) for name, value in parameters.items()
        }
        self.nodes: tuple[Node, ...] = parents_first(unroll(self.parameters))
        self._by_name = {node.name: node for node in self.nodes}

    def is_active(self, node: Node, flat: Mapping[str, Scalar]) -> bool:
        """Whether `node` exists next to the parameters that `flat` already holds."""
        return all(condition.holds(flat) for condition in node.conditions)

    def is_whole(self, flat: Mapping[str, Scalar]) -> bool:
        """Whether no active parameter is missing."""
        return all(node.name in flat for node in self.nodes if self.is_active(node, flat))

    def architecture(self, flat: Mapping[str, Scalar]) -> Architecture:
        """The architecture of a flat point, its choices copied."""
        return fold(self.parameters, flat, "")

    def restored(self, architecture: Mapping[str, Any]) -> Architecture:
        """The architecture whose JSON form (`written`) this is: choices that are objects take the place of their names.

        What the space does not know is left as it is.

        Raises:
            SpaceError: a name that is none of a parameter's choices, some of which are objects.
        """
        return restored(self.parameters, architecture, "")

    def flatten(self, architecture: Mapping[str, Any], *, partial: bool = False) -> Flat:
        """The flat point of an architecture.

        Args:
            architecture: see the module's docstring; its JSON form will do.
            partial: allow active parameters to be left out.

        Raises:
            SpaceError: unknown, inactive or missing parameter, or a value outside its parameter.
        """
        given = spread(self.parameters, architecture, "")
        flat: Flat = {}
        for node in self.nodes:
            if self.is_active(node, {**given, **flat}):
                if node.name in given:
                    flat[node.name] = checked(node, given[node.name])
                elif not partial:
                    raise SpaceError(f"Architecture {dict(architecture)!r} lacks a value for `{node.name}`.")
        for name in given:
            if name not in flat:
                raise SpaceError(f"`{name}` is not active in architecture {dict(architecture)!r}: leave it out.")
        return flat

    def point(self, given: Mapping[str, Any]) -> Flat:
        """A flat point that comes from elsewhere, checked; values of choices may be the choices themselves.

        Raises:
            SpaceError: naming what is missing, unknown, not active, or has a value that it cannot have.
        """
        flat: Flat = {}
        for node in self.nodes:
            if self.is_active(node, flat):
                if node.name not in given:
                    raise SpaceError(f"`{node.name}` is missing.")
                flat[node.name] = checked(node, flat_value(node.parameter, given[node.name]))
        for name in given:
            if name not in flat:
                raise SpaceError(f"`{name}` is {'not active' if name in self._by_name else 'not in the space'}.")
        return flat

    def suggest(self, trial: Trial) -> Architecture:
        """Ask an Optuna trial for every active parameter, parents first."""
        flat: Flat = {}
        for node in self.nodes:
            if self.is_active(node, flat):
                flat[node.name] = suggest(trial, node)
        return self.architecture(flat)

    def random(self, rng: np.random.Generator) -> Flat:
        """A flat point, every active parameter drawn uniformly (log-uniformly with `log`)."""
        flat: Flat = {}
        for node in self.nodes:
            if self.is_active(node, flat):
                flat[node.name] = draw(node.parameter, rng)
        return flat

    def points(self) -> Iterator[Flat]:
        """Every flat point of a finite space, lazily.

        Raises:
            SpaceError: the space holds a `Float` without `step`.
        """
        if not self.is_finite:
            raise SpaceError("A space with a Float without `step` has infinitely many points.")
        return self._points(0, {})

    @property
    def is_finite(self) -> bool:
        """Whether every `Float` in it has a `step`, or one value."""
        return all(values_of(node.parameter) is not None for node in self.nodes)

    def cardinality(self, limit: int = 10_000) -> float:
        """How many architectures there are; `math.inf` when there are more than `limit`."""
        if not self.is_finite:
            return math.inf
        count = sum(1 for _ in itertools.islice(self.points(), limit + 1))
        return count if count <= limit else math.inf

    def to_dict(self) -> dict[str, Any]:
        """The space in compact form, JSON types only; `SearchSpace(d)` reads it back."""
        return {name: to_compact(parameter) for name, parameter in self.parameters.items()}

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """What differs from a space stored by `to_dict`, a line a parameter; empty when they are the same."""
        mine = json.loads(json.dumps(self.to_dict()))
        return [
            f"`{name}`: stored {stored.get(name, 'nothing')}, given {mine.get(name, 'nothing')}"
            for name in {**mine, **stored}
            if mine.get(name) != stored.get(name)
        ]

    def _points(self, index: int, flat: Flat) -> Iterator[Flat]:
        if index == len(self.nodes):
            yield dict(flat)
            return
        node = self.nodes[index]
        if not self.is_active(node, flat):
            yield from self._points(index + 1, flat)
            return
        for value in values_of(node.parameter) or ():
            yield from self._points(index + 1, {**flat, node.name: value})


def architecture_key(architecture: Mapping[str, Any]) -> str:
    """One text for equal architectures, whatever the order of their names; of the JSON form it is the same.

    >>> architecture_key({"b": 1, "a": "x"})
    '{"a": "x", "b": 1}'
    """
    return json.dumps(written(architecture), sort_keys=True)


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
