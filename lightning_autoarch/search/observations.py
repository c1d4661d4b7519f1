r"""What the trials of a study say, as the surrogate takes it: larger is better, and every oddity settled here.

    COMPLETE     its value, with variance `user_attrs["stderr"]`^2 where there is one
    PRUNED       its last value v is a *bound*: y >= v, had it gone on; y <= best, or it would not have been stopped.
                 It enters as mean and variance of the surrogate's own belief, truncated to [v, best] (Hutter, Hoos,
                 Leyton-Brown, 2011, "Bayesian optimization with censored response data", section 3: imputation)
    FAIL         or a value that is not finite: as the worst value seen, so that its neighbourhood is avoided
    RUNNING      pending: it has an architecture and no value yet

Outcomes far below the median are raised to `median - CLIP (best - median)`: a net that diverged says "bad", and its
distance must not flatten the scale on which good ones differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr

from lightning_autoarch.search.leaderboard import real

Flat: TypeAlias = dict[str, Any]
FlatKey: TypeAlias = tuple[tuple[str, Any], ...]
Vector: TypeAlias = NDArray[np.float64]

LARGEST = 1e100  # standard error: its square is still a number
CLIP = 2.0  # chosen on NAS-Bench-201 with seeds the benchmark does not use


@dataclass(frozen=True)
class Outcomes:
    """What a surrogate is fitted to.

    Attributes:
        Z: (n, columns) embeddings of architectures, with facts beside them.
        Y: (n,) outcomes, larger is better.
        Yvar: (n,) their known variances, 0 where unknown.
        groups: (columns,) index of each column's group.
        names: of the groups.
    """

    Z: NDArray[np.float64]
    Y: NDArray[np.float64]
    Yvar: NDArray[np.float64]
    groups: NDArray[np.int64]
    names: Sequence[str]


@dataclass
class Observations:
    """Flat points by what is known of them; `sign` is 1 to maximise, -1 to minimise, and already in the values."""

    sign: float
    complete: list[Flat] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    pruned: list[Flat] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    failed: list[Flat] = field(default_factory=list)
    pending: list[Flat] = field(default_factory=list)

    @property
    def seen(self) -> frozenset[FlatKey]:
        """Keys of every architecture in the study."""
        return frozenset(flat_key(flat) for flat in self.complete + self.pruned + self.failed + self.pending)


def flat_key(flat: Mapping[str, Any]) -> FlatKey:
    """Equal for equal flat points, whatever the order of their names."""
    return tuple(sorted(flat.items(), key=lambda item: item[0]))


def observe(trials: Sequence[FrozenTrial], sign: float) -> Observations:
    """Sorts trials by what they say; of several with one architecture only those that know most count."""
    seen = Observations(sign)
    for trial in trials:
        value = _last_value(trial)
        if not trial.params or trial.state == TrialState.WAITING:
            continue
        if trial.state == TrialState.RUNNING:
            seen.pending.append(trial.params)
        elif trial.state == TrialState.FAIL or not math.isfinite(value):
            seen.failed.append(trial.params)
        elif trial.state == TrialState.COMPLETE:
            seen.complete.append(trial.params)
            seen.values.append(sign * value)
            seen.variances.append(_variance(trial))
        else:
            seen.pruned.append(trial.params)
            seen.bounds.append(sign * value)
    return _without_repeats(seen)


def clip(values: Vector) -> Vector:
    """Values with those far below the median raised.

    >>> clip(np.array([-1000.0, 1.0, 2.0, 3.0, 4.0]))
    array([-2.,  1.,  2.,  3.,  4.])
    """
    median = float(np.median(values))
    return np.maximum(values, median - CLIP * (float(values.max()) - median))


def truncated_moments(
    mean: Vector,
    std: Vector,
    low: Vector,
    high: float,  # (n,), (n,), (n,)
) -> tuple[Vector, Vector]:
    """Mean and variance of Normal(mean, std^2) truncated to [low, high]; a bound above `high` is taken as the value.

    >>> mean, variance = truncated_moments(np.zeros(1), np.ones(1), np.array([0.0]), np.inf)
    >>> mean.round(4), variance.round(4)
    (array([0.7979]), array([0.3634]))
    """
    low = np.asarray(low, dtype=float)
    upper = np.maximum(high, low + 1e-6 * std)
    a, b = (low - mean) / std, (upper - mean) / std
    log_mass = _log_mass(a, b)
    pdf_a, pdf_b = np.exp(_log_pdf(a) - log_mass), np.exp(_log_pdf(b) - log_mass)
    shift = pdf_a - pdf_b
    spread = (
        1.0 + np.where(np.isinf(a), 0.0, a * pdf_a) - np.where(np.isinf(b), 0.0, np.nan_to_num(b) * pdf_b) - shift**2
    )
    moments = np.clip(mean + std * shift, low, upper)
    return moments, np.clip(std**2 * spread, 0.0, std**2)


def _log_pdf(x: Vector) -> Vector:
    return -0.5 * x**2 - 0.5 * math.log(2.0 * math.pi)


def _log_mass(a: Vector, b: Vector) -> Vector:
    """log(Phi(b) - Phi(a)), in the tail where it is accurate."""
    a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)
    log_b = log_ndtr(b)
    mass: Vector = log_b + np.log(-np.expm1(np.minimum(log_ndtr(a) - log_b, -1e-12)))
    return mass


def _last_value(trial: FrozenTrial) -> float:
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        return float(trial.intermediate_values[max(trial.intermediate_values)])
    return math.nan if not trial.values else float(trial.values[0])


def _variance(trial: FrozenTrial) -> float:
    stderr = real(trial.user_attrs.get("stderr"))
    return 0.0 if stderr is None else min(abs(stderr), LARGEST) ** 2


def _without_repeats(seen: Observations) -> Observations:
    known = {flat_key(flat) for flat in seen.complete}
    kept = [i for i, flat in enumerate(seen.pruned) if flat_key(flat) not in known]
    seen.pruned, seen.bounds = [seen.pruned[i] for i in kept], [seen.bounds[i] for i in kept]
    known |= {flat_key(flat) for flat in seen.pruned}
    seen.failed = [flat for flat in seen.failed if flat_key(flat) not in known]
    seen.pending = [flat for flat in seen.pending if flat_key(flat) not in known]
    return seen
