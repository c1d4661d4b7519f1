r"""Architectures as rows of numbers: many are drawn, mutated and embedded at once, without a Python loop over them.

A *row* has one entry a parameter: the index of a choice, a position in [0, 1] on the (log) scale of a number, or NaN
while the parameter is inactive. Rows are canonical: a number sits on its grid, an inactive entry is NaN.

An *embedding* z is what the surrogate's kernel measures distances in. Lengthscale l_g belongs to a group g of columns:

    number, active                u - 1/2                  one column, one group a parameter
    choice of m, active           e_i / sqrt(2)            m columns, one group: |z - z'|^2 is 1 for two choices, else 0
    any, inactive                 0                        two architectures without it do not differ in it
    parameters alike, of which    mean over the active     numbers: mean and count; choices: how often each was chosen
    two or more

Parameters are *alike* when their names are equal up to digits (`layers.0.width`, `layers.3.width`, `edge0`, `edge5`)
and their distributions are equal. Counts of operations and depth are what architectures have in common across
positions; on NAS-Bench-201 they took a third off the regret at 25 trials (see `benchmarks/search_tabular.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lightning_autoarch.seam.optuna import contains
from lightning_autoarch.search.parameters import on_grid

Rows = NDArray[np.float64]  # (n, number of parameters)
MAX_RESAMPLED = 0.3  # share of mutated numbers that are drawn anew rather than moved


class ConditionLike(Protocol):
    """Holds while the flat parameter `parent` is active and has one of `values`."""

    @property
    def parent(self) -> str: ...
    @property
    def values(self) -> tuple[Any, ...]: ...


class NodeLike(Protocol):
    """One flat parameter: `search.space.Node`, or one learned from the trials of a study."""

    @property
    def name(self) -> str: ...
    @property
    def distribution(self) -> BaseDistribution: ...
    @property
    def conditions(self) -> Sequence[ConditionLike]: ...


class Column:
    """One parameter's scale: values to codes and back, for whole arrays."""

    def __init__(self, distribution: BaseDistribution) -> None:
        self.distribution = distribution
        self.n_choices = len(distribution.choices) if isinstance(distribution, CategoricalDistribution) else 0
        self.single = distribution.single()
        if isinstance(distribution, IntDistribution | FloatDistribution):
            self.log, self.step = distribution.log, distribution.step
            self.low, self.high = float(distribution.low), float(distribution.high)
            half = 0.5 if isinstance(distribution, IntDistribution) and self.log else 0.0
            self.ends = (np.log(self.low - half), np.log(self.high + half)) if self.log else (self.low, self.high)

    def code(self, value: Any) -> float:
        """The row entry of a value; a number outside its range is moved to the nearest end."""
        if self.n_choices:
            return float(self.distribution.to_internal_repr(value))
        return float(self.snap(self._to_unit(np.array([float(value)])))[0])

    def value(self, code: float) -> Any:
        """The value of a row entry, of Python's own type."""
        if self.n_choices:
            return self.distribution.to_external_repr(int(code))
        number = float(self._from_unit(np.array([code]))[0])
        if isinstance(self.distribution, IntDistribution):
            return round(number)
        return number if self.step is None else on_grid(round((number - self.low) / self.step), self.low, self.step)

    def contains(self, value: Any) -> bool:
        """Whether it is a choice, or lies in the range and on its grid; without, `code` would move it."""
        try:
            return contains(self.distribution, value)
        except (ArithmeticError, TypeError, ValueError):  # no such choice, or no number
            return False

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """`n` codes, uniform over the choices, the grid, or the (log) interval."""
        if self.n_choices:
            return rng.integers(self.n_choices, size=n).astype(float)
        if self.step is not None and not self.log:
            cells = round((self.high - self.low) / self.step)
            return rng.integers(cells + 1, size=n) / max(cells, 1)
        return self.snap(rng.random(n))

    def move(self, codes: Rows, scale: float, rng: np.random.Generator) -> Rows:
        """Another choice, or a number nearby (normal, standard deviation `scale`, at least one step of the grid)."""
        if self.n_choices:
            return (codes + rng.integers(1, max(self.n_choices, 2), size=len(codes))) % self.n_choices
        steps = rng.normal(0.0, scale, len(codes))
        moved = self.snap(np.abs(1.0 - np.abs(1.0 - (codes + steps) % 2.0)))  # reflected at both ends
        drawn = self.draw(len(codes), rng)
        moved = np.where(rng.random(len(codes)) < MAX_RESAMPLED * min(1.0, scale / 0.2), drawn, moved)
        stuck = moved == codes
        if stuck.any() and self.step is not None:
            moved[stuck] = self._neighbour(codes[stuck], np.sign(steps[stuck]))
        return moved

    def snap(self, codes: Rows) -> Rows:
        """Codes on the grid of representable values."""
        codes = np.clip(codes, 0.0, 1.0)
        return codes if self.n_choices or self.step is None else self._to_unit(self._from_unit(codes))

    def _neighbour(self, codes: Rows, sign: Rows) -> Rows:
        values = self._from_unit(codes) + np.where(sign == 0, 1, sign) * (self.step or 1)
        inside = np.where(values > self.high, values - 2 * (self.step or 1), values)
        inside = np.where(inside < self.low, inside + 2 * (self.step or 1), inside)
        return self._to_unit(np.clip(inside, self.low, self.high))

    def _to_unit(self, values: Rows) -> Rows:
        values = np.clip(values, self.low, self.high)
        low, high = self.ends
        return ((np.log(values) if self.log else values) - low) / (high - low) if high > low else np.zeros(len(values))

    def _from_unit(self, codes: Rows) -> Rows:
        low, high = self.ends
        values = low + codes * (high - low)
        values = np.exp(values) if self.log else values
        if self.step is not None:
            values = self.low + np.round((values - self.low) / self.step) * self.step
        return np.clip(values, self.low, self.high)


class Encoding:
    """Rows and embeddings of the flat parameters `nodes` (parents before children)."""

    def __init__(self, nodes: Sequence[NodeLike]) -> None:
        self.names = [node.name for node in nodes]
        self.index = {name: j for j, name in enumerate(self.names)}
        self.columns = [Column(node.distribution) for node in nodes]
        self._conditions = [[self._table(c) for c in node.conditions] for node in nodes]
        self._alike = [g for g in _alike(nodes) if len(g) > 1]
        self.group_names, self.groups = self._layout()  # groups: (columns of z,) -> index into group_names

    def encode(self, flat: Mapping[str, Any]) -> Rows:
        """(1, d): the row of one flat point."""
        row = [col.code(flat[n]) if n in flat else np.nan for n, col in zip(self.names, self.columns, strict=True)]
        return np.array([row])

    def decode(self, row: Rows) -> dict[str, Any]:
        """The flat point of one row (d,), active parameters only."""
        entries = zip(self.names, self.columns, row, strict=True)
        return {name: column.value(code) for name, column, code in entries if not np.isnan(code)}

    def random(self, n: int, rng: np.random.Generator) -> Rows:
        """`n` random rows."""
        return self.repair(np.full((n, len(self.names)), np.nan), rng)

    def mutate(self, rows: Rows, scale: float, rng: np.random.Generator) -> Rows:
        """Each row with one active parameter changed, and each further one with probability 1/d; then repaired."""
        free = ~np.isnan(rows) & ~np.array([column.single for column in self.columns])
        chosen = np.where(free, rng.random(rows.shape), -1.0).argmax(1)
        change = rng.random(rows.shape) < 1.0 / np.maximum(free.sum(1, keepdims=True), 1)
        change[np.arange(len(rows)), chosen] = True
        change &= free
        mutants = rows.copy()
        for j, column in enumerate(self.columns):
            where = change[:, j]
            if where.any():
                mutants[where, j] = column.move(rows[where, j], scale, rng)
        return self.repair(mutants, rng)

    def cross(self, mothers: Rows, fathers: Rows, rng: np.random.Generator) -> Rows:
        """Each entry from one of two parents, then repaired."""
        return self.repair(np.where(rng.random(mothers.shape) < 0.5, mothers, fathers), rng)

    def repair(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Drops what has become inactive and draws what has become active."""
        rows = rows.copy()
        for j, column in enumerate(self.columns):
            active = np.ones(len(rows), dtype=bool)
            for parent, codes in self._conditions[j]:
                active &= (np.abs(rows[:, parent, None] - codes) < 1e-9).any(1)
            rows[~active, j] = np.nan
            missing = active & np.isnan(rows[:, j])
            if missing.any():
                rows[missing, j] = column.draw(int(missing.sum()), rng)
        return rows

    def embed(self, rows: Rows) -> Rows:
        """(n, columns of z): see the module's table."""
        parts = [self._embed_column(j, rows[:, j]) for j in range(len(self.columns)) if not self.columns[j].single]
        parts += [self._embed_alike(rows[:, group], self.columns[group[0]]) for group in self._alike]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))

    def _table(self, condition: ConditionLike) -> tuple[int, Rows]:
        parent = self.index[condition.parent]
        return parent, np.array([self.columns[parent].code(value) for value in condition.values])

    def _layout(self) -> tuple[list[str], NDArray[np.int64]]:
        names: list[str] = []
        groups: list[int] = []
        for name, column in zip(self.names, self.columns, strict=True):
            if not column.single:
                groups += [len(names)] * max(column.n_choices, 1)
                names.append(name)
        for group in self._alike:
            column = self.columns[group[0]]
            labels = [f"count {i}" for i in range(column.n_choices)] or ["mean", "count"]
            groups += range(len(names), len(names) + len(labels))
            names += [f"{self.names[group[0]]} ... {self.names[group[-1]]}: {label}" for label in labels]
        return names, np.array(groups, dtype=np.int64)

    def _embed_column(self, j: int, codes: Rows) -> Rows:
        if self.columns[j].n_choices:
            indicators: Rows = (codes[:, None] == np.arange(self.columns[j].n_choices)) / np.sqrt(2.0)
            return indicators
        return np.where(np.isnan(codes), 0.0, codes - 0.5)[:, None]

    def _embed_alike(self, codes: Rows, column: Column) -> Rows:
        if column.n_choices:
            shares: Rows = (codes[:, :, None] == np.arange(column.n_choices)).mean(1)
            return shares
        count = (~np.isnan(codes)).sum(1)
        total = np.where(np.isnan(codes), 0.0, codes - 0.5).sum(1)
        return np.stack([total / np.maximum(count, 1), count / codes.shape[1]], axis=1)


def _alike(nodes: Sequence[NodeLike]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for j, node in enumerate(nodes):
        if not node.distribution.single():
            groups.setdefault(f"{re.sub(r'[0-9]+', '#', node.name)} {node.distribution!r}", []).append(j)
    return list(groups.values())
