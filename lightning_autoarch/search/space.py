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

from lightning_autoarch.core.errors import SpaceError
from lightning_autoarch.search.choices import Scalar, written
from lightning_autoarch.search.nodes import (
    Node,
    check_name,
    checked,
    draw,
    flat_value,
    parents_first,
    suggest,
    unroll,
    values_of,
)
from lightning_autoarch.search.parameters import Parameter
from lightning_autoarch.search.parse import parse_parameter, to_compact
from lightning_autoarch.search.views import fold, restored, spread

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
