"""The flat parameters of a space: one node for each scalar, with the conditions under which it exists.

A `Repeat` is unrolled to its largest count; a parent precedes the parameters that depend on it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_autoarch.core.errors import SpaceError, did_you_mean
from lightning_autoarch.core.prefixes import TRAINER
from lightning_autoarch.search.choices import Scalar
from lightning_autoarch.search.parameters import Categorical, Float, Int, Parameter, Repeat, on_grid, to_python_scalar

if TYPE_CHECKING:
    import numpy as np
    from optuna import Trial
    from optuna.distributions import BaseDistribution


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


def check_name(name: object, *, dotted: bool = True) -> None:
    """Check that a name can be that of an argument, or of a tunable of a callback.

    With dots it is a value inside of an argument, `encoder.width`, or has a prefix, `data.batch_size`. From its third
    part on it may hold a pattern of layers' names, `prune.sparsity.encoder.*`: which callback takes that is known only
    when the search starts.

    Args:
        name: of a parameter of a space.
        dotted: whether dots are allowed; a Repeat has plain names inside.

    Raises:
        SpaceError: it is no such name.
    """
    if isinstance(name, str):
        parts = name.split(".")
        own, pattern = parts[:2], name.split(".", 2)[2:]
        well_formed = all(part.isidentifier() for part in own) and all(map(_is_pattern, pattern))
        if well_formed and (dotted or len(parts) == 1) and not (parts[0] == TRAINER and pattern):
            return
    hint = ", optionally with dots: `encoder.width`, `data.batch_size`" if dotted else " without dots"
    raise SpaceError(f"Parameter `{name}`: expected the name of an argument{hint}.")


def _is_pattern(rest: str) -> bool:
    return bool(rest) and rest.isprintable() and " " not in rest


def unroll(parameters: Mapping[str, Parameter]) -> list[Node]:
    """Flat nodes in the order of declaration; a `Repeat` is unrolled to its largest count."""
    nodes: list[Node] = []
    _unroll_into(nodes, parameters, "", (), ({},))
    counts = Counter(node.name for node in nodes)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise SpaceError(f"Two parameters of the space are called `{twice[0]}`: a Repeat has names inside of its own.")
    return nodes


def _unroll_into(
    nodes: list[Node],
    parameters: Mapping[str, Parameter],
    prefix: str,
    inherited: tuple[Condition, ...],
    scopes: tuple[Mapping[str, tuple[str, Parameter]], ...],  # innermost first: name -> (flat name, parameter)
) -> None:
    scope = {name: (flat_name(prefix, name, p), p) for name, p in parameters.items()}
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
            check_name(inner, dotted=False)
        for i in range(parameter.max):
            exists = Condition(count, tuple(range(max(i + 1, parameter.min), parameter.max + 1)))
            before, block = parameter.of(i)
            _unroll_into(nodes, block, f"{prefix}{name}.{before}", (*conditions, exists), (scope, *scopes))


def flat_name(prefix: str, name: str, parameter: Parameter) -> str:
    """What a parameter is called in a flat point: a `Repeat` by its count."""
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
    parent_name, parameter = found
    if isinstance(parameter, Float):
        raise SpaceError(
            f"Parameter `{name}`: the parent `{parent}` in `when` is a Float, which has no list of values."
        )
    scalar = Int(parameter.min, parameter.max) if isinstance(parameter, Repeat) else parameter
    known = tuple(flat_value(scalar, value) for value in values)
    for value, held in zip(values, known, strict=True):
        if not _contains(scalar, held):
            raise SpaceError(f"Parameter `{name}`: `{parent}` in `when` never has the value {value!r}: {scalar}.")
    return Condition(parent_name, known)


def parents_first(nodes: list[Node]) -> tuple[Node, ...]:
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


def flat_value(parameter: Int | Float | Categorical, value: Any) -> Scalar:
    """What a value of an architecture is in a flat point."""
    return parameter.label_of(value) if isinstance(parameter, Categorical) else to_python_scalar(value)


def checked(node: Node, value: Scalar) -> Scalar:
    """The value, as a node holds it; raises SpaceError for one that it cannot have."""
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


def values_of(parameter: Int | Float | Categorical) -> Sequence[Scalar] | None:
    """The flat values of a finite parameter, None for an infinite one."""
    if isinstance(parameter, Categorical):
        return parameter.labels
    if isinstance(parameter, Int):
        return range(parameter.low, parameter.high + 1, parameter.step)
    return parameter.values()


def suggest(trial: Trial, node: Node) -> Scalar:
    """Ask an Optuna trial for the value of a node."""
    p = node.parameter
    if isinstance(p, Int):
        return trial.suggest_int(node.name, p.low, p.high, log=p.log, step=p.step)
    if isinstance(p, Float):
        return trial.suggest_float(node.name, p.low, p.high, log=p.log, step=p.step)
    return trial.suggest_categorical(node.name, p.labels)


def draw(parameter: Int | Float | Categorical, rng: np.random.Generator) -> Scalar:
    """A value drawn uniformly, with `log` log-uniformly."""
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
