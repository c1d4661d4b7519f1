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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from lightning_autoarch.errors import SpaceError, did_you_mean
from lightning_autoarch.search.choices import Scalar, written
from lightning_autoarch.search.parameters import Categorical, Float, Int, Parameter, Repeat, on_grid, to_python_scalar
from lightning_autoarch.search.parse import parse_parameter, to_compact

if TYPE_CHECKING:
    import numpy as np
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Architecture: TypeAlias = dict[str, Any]
Flat: TypeAlias = dict[str, Scalar]

PREFIXES = ("data.", "prune.", "transfer.")
# What a pattern of layers' names may follow, `encoder.*`.
BY_PATTERN = ("prune.sparsity.", "prune.weight.", "transfer.lr_scale.", "transfer.lora.")


@dataclass(frozen=True)
class Condition:
    """Holds while the flat parameter `parent` is active and has one of `values`."""

    parent: str
    values: tuple[Scalar, ...]

    def holds(self, flat: Mapping[str, Scalar]) -> bool:
        return self.parent in flat and flat[self.parent] in self.values


@dataclass(frozen=True)
class Node:
    """One flat parameter: its name, its scalar `Int`, `Float` or `Categorical`, and when it exists (all must hold)."""

    name: str
    parameter: Int | Float | Categorical
    conditions: tuple[Condition, ...]

    @property
    def distribution(self) -> BaseDistribution:
        """Optuna's distribution for it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        p = self.parameter
        if isinstance(p, Int):
            return IntDistribution(p.low, p.high, log=p.log, step=p.step)
        if isinstance(p, Float):
            return FloatDistribution(p.low, p.high, log=p.log, step=p.step)
        return CategoricalDistribution(p.labels)


class SearchSpace:
    """Named parameters, checked as a whole.

    Args:
        parameters: name -> parameter, or its compact form (`{"low": 1, "high": 8}`, `["relu", "gelu"]`).

    Raises:
        SpaceError: an empty space, a bad name, a `when` with an unknown parent, an impossible value or a cycle; the
            message names the parameter.

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
            _check_name(name, PREFIXES)
        self.parameters: dict[str, Parameter] = {
            name: parse_parameter(name, value) for name, value in parameters.items()
        }
        self.nodes: tuple[Node, ...] = _parents_first(_unroll(self.parameters))
        self._by_name = {node.name: node for node in self.nodes}

    def is_active(self, node: Node, flat: Mapping[str, Scalar]) -> bool:
        """Whether `node` exists next to the parameters that `flat` already holds."""
        return all(condition.holds(flat) for condition in node.conditions)

    def is_whole(self, flat: Mapping[str, Scalar]) -> bool:
        """Whether no active parameter is missing."""
        return all(node.name in flat for node in self.nodes if self.is_active(node, flat))

    def architecture(self, flat: Mapping[str, Scalar]) -> Architecture:
        """The architecture of a flat point, its choices copied."""
        return _fold(self.parameters, flat, "")

    def restored(self, architecture: Mapping[str, Any]) -> Architecture:
        """The architecture whose JSON form (`written`) this is: choices that are objects take the place of their names.

        What the space does not know is left as it is.

        Raises:
            SpaceError: a name that is none of a parameter's choices, some of which are objects.
        """
        return _restored(self.parameters, architecture, "")

    def flatten(self, architecture: Mapping[str, Any], *, partial: bool = False) -> Flat:
        """The flat point of an architecture.

        Args:
            architecture: see the module's docstring; its JSON form will do.
            partial: allow active parameters to be left out.

        Raises:
            SpaceError: unknown, inactive or missing parameter, or a value outside its parameter.
        """
        given = _spread(self.parameters, architecture, "")
        flat: Flat = {}
        for node in self.nodes:
            if self.is_active(node, {**given, **flat}):
                if node.name in given:
                    flat[node.name] = _checked(node, given[node.name])
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
                flat[node.name] = _checked(node, _flat_value(node.parameter, given[node.name]))
        for name in given:
            if name not in flat:
                raise SpaceError(f"`{name}` is {'not active' if name in self._by_name else 'not in the space'}.")
        return flat

    def suggest(self, trial: Trial) -> Architecture:
        """Ask an Optuna trial for every active parameter, parents first."""
        flat: Flat = {}
        for node in self.nodes:
            if self.is_active(node, flat):
                flat[node.name] = _suggest(trial, node)
        return self.architecture(flat)

    def random(self, rng: np.random.Generator) -> Flat:
        """A flat point, every active parameter drawn uniformly (log-uniformly with `log`)."""
        flat: Flat = {}
        for node in self.nodes:
            if self.is_active(node, flat):
                flat[node.name] = _draw(node.parameter, rng)
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
        return all(_values(node.parameter) is not None for node in self.nodes)

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
        for value in _values(node.parameter) or ():
            yield from self._points(index + 1, {**flat, node.name: value})


def architecture_key(architecture: Mapping[str, Any]) -> str:
    """One text for equal architectures, whatever the order of their names; of the JSON form it is the same.

    >>> architecture_key({"b": 1, "a": "x"})
    '{"a": "x", "b": 1}'
    """
    return json.dumps(written(architecture), sort_keys=True)


def _check_name(name: Any, prefixes: tuple[str, ...]) -> None:
    if isinstance(name, str):
        prefix = next((p for p in (*BY_PATTERN, *prefixes) if prefixes and name.startswith(p)), "")
        rest = name.removeprefix(prefix)
        if rest.isidentifier() or (prefix in BY_PATTERN and rest):
            return
    hint = f", optionally after {', '.join(prefixes)}" if prefixes else ""
    raise SpaceError(f"Parameter `{name}`: expected the name of an argument{hint}.")


def _unroll(parameters: Mapping[str, Parameter]) -> list[Node]:
    """Flat nodes in the order of declaration; a `Repeat` is unrolled to its largest count."""
    nodes: list[Node] = []
    _unroll_into(nodes, parameters, "", (), ({},))
    return nodes


def _unroll_into(
    nodes: list[Node],
    parameters: Mapping[str, Parameter],
    prefix: str,
    inherited: tuple[Condition, ...],
    scopes: tuple[Mapping[str, tuple[str, Parameter]], ...],  # innermost first: name -> (flat name, parameter)
) -> None:
    scope = {name: (_flat_name(prefix, name, p), p) for name, p in parameters.items()}
    for name, parameter in parameters.items():
        own = tuple(
            _condition(prefix + name, parent, values, (scope, *scopes))
            for parent, values in (parameter.when or {}).items()
        )
        conditions = inherited + own
        if not isinstance(parameter, Repeat):
            nodes.append(Node(prefix + name, parameter, conditions))
            continue
        count = f"{prefix}{name}.n"
        nodes.append(Node(count, Int(parameter.min, parameter.max), conditions))
        for inner in parameter.block if isinstance(parameter.block, Mapping) else ():
            _check_name(inner, ())
        for i in range(parameter.max):
            exists = Condition(count, tuple(range(max(i + 1, parameter.min), parameter.max + 1)))
            before, block = parameter.of(i)
            _unroll_into(nodes, block, f"{prefix}{name}.{before}", (*conditions, exists), (scope, *scopes))


def _flat_name(prefix: str, name: str, parameter: Parameter) -> str:
    return f"{prefix}{name}.n" if isinstance(parameter, Repeat) else prefix + name


def _condition(
    name: str,
    parent: str,
    values: Any,
    scopes: tuple[Mapping[str, tuple[str, Parameter]], ...],
) -> Condition:
    found = next((scope[parent] for scope in scopes if parent in scope), None)
    if found is None:
        near = did_you_mean(parent, [key for scope in scopes for key in scope])
        raise SpaceError(f"Parameter `{name}`: unknown parent `{parent}` in `when`.{near}")
    flat_name, parameter = found
    if isinstance(parameter, Float):
        raise SpaceError(
            f"Parameter `{name}`: the parent `{parent}` in `when` is a Float, which has no list of values."
        )
    scalar = Int(parameter.min, parameter.max) if isinstance(parameter, Repeat) else parameter
    known = tuple(_flat_value(scalar, value) for value in values)
    for value, flat_value in zip(values, known, strict=True):
        if not _contains(scalar, flat_value):
            raise SpaceError(f"Parameter `{name}`: `{parent}` in `when` never has the value {value!r}: {scalar}.")
    return Condition(flat_name, known)


def _parents_first(nodes: list[Node]) -> tuple[Node, ...]:
    """A stable topological order.

    Raises:
        SpaceError: a cycle, named.
    """
    by_name = {node.name: node for node in nodes}
    done: dict[str, Node] = {}

    def visit(node: Node, path: tuple[str, ...]) -> None:
        if node.name in path:
            cycle = " -> ".join((*path[path.index(node.name) :], node.name))
            raise SpaceError(f"Parameter `{node.name}`: `when` goes round in a circle: {cycle}.")
        if node.name in done:
            return
        for condition in node.conditions:
            visit(by_name[condition.parent], (*path, node.name))
        done[node.name] = node

    for node in nodes:
        visit(node, ())
    return tuple(done.values())


def _fold(parameters: Mapping[str, Parameter], flat: Mapping[str, Scalar], prefix: str) -> Architecture:
    folded: Architecture = {}
    for name, parameter in parameters.items():
        key = _flat_name(prefix, name, parameter)
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
    folded = _fold(block, flat, prefix + before)
    return folded if isinstance(repeat.block, Mapping) else folded[str(i)]


def _spread(parameters: Mapping[str, Parameter], architecture: Mapping[str, Any], prefix: str) -> Flat:
    spread: Flat = {}
    for name, value in architecture.items():
        if name not in parameters:
            raise SpaceError(f"Unknown parameter `{prefix}{name}` in an architecture.{did_you_mean(name, parameters)}")
        parameter = parameters[name]
        if not isinstance(parameter, Repeat):
            spread[prefix + name] = _flat_value(parameter, value)
            continue
        items = _items(parameter, prefix + name, value)
        spread[f"{prefix}{name}.n"] = len(items)
        for i, item in enumerate(items):
            before, block = parameter.of(i)
            spread.update(_spread(block, item, f"{prefix}{name}.{before}"))
    return spread


def _items(repeat: Repeat, name: str, value: Any) -> list[Mapping[str, Any]]:
    """The repetitions in an architecture, each as a mapping; a plain value is named by its position."""
    is_list, named = isinstance(value, list | tuple), isinstance(repeat.block, Mapping)
    if not is_list or (named and not all(isinstance(item, Mapping) for item in value)):
        raise SpaceError(f"Expected `{name}` to be a list{' of mappings' if named else ''}, got {value!r}.")
    return list(value) if named else [{str(i): item} for i, item in enumerate(value)]


def _flat_value(parameter: Int | Float | Categorical, value: Any) -> Scalar:
    return parameter.label_of(value) if isinstance(parameter, Categorical) else to_python_scalar(value)


def _restored(parameters: Mapping[str, Parameter], architecture: Mapping[str, Any], prefix: str) -> Architecture:
    restored: Architecture = {}
    for name, value in architecture.items():
        parameter = parameters.get(name)
        if isinstance(parameter, Repeat) and isinstance(value, list | tuple):
            restored[name] = [_restored_item(parameter, i, item, f"{prefix}{name}.") for i, item in enumerate(value)]
        elif isinstance(parameter, Categorical) and parameter.holds_objects:
            try:
                restored[name] = parameter.choice_of(value)
            except SpaceError as error:
                raise SpaceError(f"`{prefix}{name}`: {error.args[0]}") from None
        else:
            restored[name] = value
    return restored


def _restored_item(repeat: Repeat, i: int, item: Any, prefix: str) -> Any:
    before, block = repeat.of(i)
    if not isinstance(repeat.block, Mapping):
        return _restored(block, {str(i): item}, prefix)[str(i)]
    return _restored(block, item, prefix + before) if isinstance(item, Mapping) else item


def _checked(node: Node, value: Scalar) -> Scalar:
    if not _contains(node.parameter, value):
        raise SpaceError(f"`{node.name}` cannot be {value!r}: {node.parameter}.")
    return node.parameter.snapped(float(value)) if isinstance(node.parameter, Float) else value  # type: ignore[arg-type]


def _contains(parameter: Parameter, value: Scalar) -> bool:
    if isinstance(parameter, Categorical):
        return value in parameter.labels
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(parameter, Int):
        return (
            isinstance(value, int)
            and parameter.low <= value <= parameter.high
            and (value - parameter.low) % parameter.step == 0
        )
    return isinstance(parameter, Float) and parameter.contains(value)


def _values(parameter: Int | Float | Categorical) -> Sequence[Scalar] | None:
    """The flat values of a finite parameter, None for an infinite one."""
    if isinstance(parameter, Categorical):
        return parameter.labels
    if isinstance(parameter, Int):
        return range(parameter.low, parameter.high + 1, parameter.step)
    return parameter.values()


def _suggest(trial: Trial, node: Node) -> Scalar:
    p = node.parameter
    if isinstance(p, Int):
        return trial.suggest_int(node.name, p.low, p.high, log=p.log, step=p.step)
    if isinstance(p, Float):
        return trial.suggest_float(node.name, p.low, p.high, log=p.log, step=p.step)
    return trial.suggest_categorical(node.name, p.labels)


def _draw(parameter: Int | Float | Categorical, rng: np.random.Generator) -> Scalar:
    if isinstance(parameter, Categorical):
        return parameter.labels[int(rng.integers(len(parameter.labels)))]
    if isinstance(parameter, Int):
        if parameter.log:
            u = rng.uniform(math.log(parameter.low - 0.5), math.log(parameter.high + 0.5))
            return min(max(round(math.exp(u)), parameter.low), parameter.high)
        return (
            int(rng.integers(len(range(parameter.low, parameter.high + 1, parameter.step)))) * parameter.step
            + parameter.low
        )
    if parameter.log:
        u = rng.uniform(math.log(parameter.low), math.log(parameter.high))
        return min(max(math.exp(u), parameter.low), parameter.high)
    if parameter.step is not None:
        return on_grid(int(rng.integers(len(parameter.values() or ()))), parameter.low, parameter.step)
    return float(rng.uniform(parameter.low, parameter.high))
