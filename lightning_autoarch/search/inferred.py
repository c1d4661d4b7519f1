"""The search space of a plain Optuna study, read from its trials: which parameters there are and when each is active.

A define-by-run objective never states its space. What is known is the union of the distributions seen, and which trials
had which parameters. The rule for activity is exact on what was seen, and optimistic on what was not:

    A parameter `q` that some trials lack depends on a parent `p` when `p` is present in every trial with `q` and in
    at least one without, and the values of `p` separate them: no value of `p` was seen both with and without `q`.
    For numbers one threshold must separate them. `q` is then active unless `p` has a value seen without `q`
    (a number: unless it lies on that side of the threshold), and only while `p` is active itself.

Among several such parents the one present in the fewest trials is taken (the nearest ancestor), then the first by name.
A parameter without such a parent counts as always active; proposing one that is then not asked for does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

MAX_INT_VALUES = 1_000  # an Int with more values is not taken for a parent


@dataclass(frozen=True)
class InferredCondition:
    """Holds while the flat parameter `parent` is active and has one of `values`."""

    parent: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class InferredNode:
    """One parameter of a plain study."""

    name: str
    distribution: BaseDistribution
    conditions: tuple[InferredCondition, ...] = ()


def infer_nodes(trials: Sequence[FrozenTrial]) -> tuple[InferredNode, ...]:
    """The parameters of these trials, parents before children; equal for equal trials in the same order."""
    distributions = union_of_distributions(trials)
    seen = [trial for trial in trials if trial.params]
    nodes = [InferredNode(name, distributions[name], _conditions(name, distributions, seen)) for name in distributions]
    present = {name: sum(name in trial.params for trial in seen) for name in distributions}
    return tuple(sorted(nodes, key=lambda node: -present[node.name]))  # a parent is present strictly more often


def union_of_distributions(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Name -> distribution; ranges of numbers are united, and where kinds differ the latest trial decides."""
    union: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            union[name] = _unite(union.get(name, distribution), distribution)
    return union


def _unite(old: BaseDistribution, new: BaseDistribution) -> BaseDistribution:
    if old == new:
        return new
    same_scale = isinstance(new, IntDistribution | FloatDistribution) and isinstance(old, type(new))
    if not same_scale or (old.log, old.step) != (new.log, new.step):  # type: ignore[attr-defined]
        return new
    low, high = min(old.low, new.low), max(old.high, new.high)  # type: ignore[attr-defined]
    if new.step is not None and (new.low - low) % new.step:  # type: ignore[attr-defined]
        return new  # two grids out of phase
    return type(new)(low, high, log=new.log, step=new.step)  # type: ignore[attr-defined,call-arg]


def _conditions(
    name: str, distributions: dict[str, BaseDistribution], trials: Sequence[FrozenTrial]
) -> tuple[InferredCondition, ...]:
    found: list[tuple[int, str, tuple[Any, ...]]] = []
    for parent, distribution in distributions.items():
        having = [trial for trial in trials if parent in trial.params]
        present = [trial.params[parent] for trial in having if name in trial.params]
        absent = [trial.params[parent] for trial in having if name not in trial.params]
        n_with = sum(name in trial.params for trial in trials)
        if parent != name and absent and len(present) == n_with:
            values = _separating(distribution, present, absent)
            if values:
                found.append((len(having), parent, values))
    return tuple(InferredCondition(parent, values) for _, parent, values in sorted(found, key=lambda f: f[:2])[:1])


def _separating(distribution: BaseDistribution, present: list[Any], absent: list[Any]) -> tuple[Any, ...]:
    """The parent's values with which the child is active; empty when they do not separate."""
    if isinstance(distribution, CategoricalDistribution):
        disjoint = not any(value in absent for value in present)
        return tuple(choice for choice in distribution.choices if choice not in absent) if disjoint else ()
    if not isinstance(distribution, IntDistribution):
        return ()
    values = range(distribution.low, distribution.high + 1, distribution.step)
    if len(values) > MAX_INT_VALUES:
        return ()
    if min(present) > max(absent):
        return tuple(value for value in values if value > max(absent))
    if max(present) < min(absent):
        return tuple(value for value in values if value < min(absent))
    return ()
