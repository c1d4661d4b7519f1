"""`BayesianSampler`: an Optuna sampler for architectures, BoTorch's Gaussian process and noisy expected improvement.

    trials with smaller numbers ─► observations ─► surrogate (goes on from the last trial's fit) ─► acquisition ─┐
    trial.system_attrs["autoarch:proposal"] ◄─ {"origin", "expected": {"mean", "std"}, "hyperparameters"} ◄──────┘

It works in any Optuna study. It knows which parameters are active, takes running trials into account, takes the facts
of the built module (`features`) as inputs, and never proposes an architecture twice. One write to the storage a trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.core.schema import Mismatch, real, record, sequence, text
from lightning_autoarch.seam.optuna import set_system_attr
from lightning_autoarch.search.encoding import Encoding
from lightning_autoarch.search.observations import (
    Flat,
    FlatKey,
    Observations,
    Outcomes,
    clip,
    flat_key,
    observe,
    truncated_moments,
)
from lightning_autoarch.search.sampling import (
    ArchitectureSampler,
    Ask,
    Feasible,
    RandomArchitectureSampler,
    SeededByTrial,
    sign_of,
)

if TYPE_CHECKING:
    from lightning_autoarch.search.acquisition import Problem
    from lightning_autoarch.search.hyperposterior import Hyperparameters
    from lightning_autoarch.search.space import SearchSpace

__all__ = ["PROPOSAL", "BayesianSampler", "RandomArchitectureSampler", "SeededByTrial"]

Array = NDArray[np.float64]
Features: TypeAlias = Callable[[dict[str, Any]], Mapping[str, float]]
PROPOSAL = "autoarch:proposal"  # key of the trial's system attribute
HYPERPARAMETERS = record(
    {"names": sequence(text()), "thetas": sequence(sequence(real(-100.0, 100.0))), "step": real(1e-9, 1e9)}
)  # logarithms, of a handful of states
MOST_STATES = 64
MAX_OBSERVATIONS = 400  # the fit is cubic: beyond, the better and the later half of this number


class BayesianSampler(ArchitectureSampler):
    """Proposes architectures by Bayesian optimisation.

    Args:
        space: the search space; None takes the union of what the study's trials have, and learns from them when each
            parameter is active (`search/inferred.py`).
        features: facts of an architecture by name (log parameters, depth, ...), finite and a pure function of it.
            Architectures look to `features` and `feasible` as `space.architecture` returns them; flat without `space`.
        feasible: False for an architecture that must not be tried.
        seed: one seed, one sequence, also when the process is restarted between trials or within one.
        n_startup: random architectures first. Finished trials of any origin count.
        max_feature_calls: architectures a proposal may call `feasible` and `features` on, beside those in the study.

    Raises:
        SpaceExhausted: when a small finite space has nothing left to propose.
        SearchError: a study with several objectives; a fact that is not finite.

    >>> import optuna
    >>> study = optuna.create_study(direction="maximize", sampler=BayesianSampler(seed=1))
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> study.optimize(lambda trial: -(trial.suggest_float("x", -1, 1) - 0.3) ** 2, n_trials=15)
    >>> abs(study.best_params["x"] - 0.3) < 0.05
    True
    """

    def __init__(
        self,
        *,
        space: SearchSpace | None = None,
        features: Features | None = None,
        feasible: Feasible | None = None,
        seed: int = 0,
        n_startup: int = 5,
        max_feature_calls: int = 64,
    ) -> None:
        super().__init__(space, feasible, seed)
        for name, value in {"n_startup": n_startup, "max_feature_calls": max_feature_calls}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SearchError(f"Expected `{name}` to be a whole number >= 1, got {value!r}.")
        self.features, self.n_startup, self.max_feature_calls = features, n_startup, max_feature_calls
        self._facts_memo: dict[FlatKey, dict[str, float]] = {}
        self._belongs_memo: dict[FlatKey, bool] = {}

    def _propose(self, ask: Ask) -> Flat:
        encoding, rng = ask.encoding, ask.rng
        seen = observe([t for t in ask.trials if self._belongs(t, encoding)], sign_of(ask.study))
        n_finished = len(seen.values) + len(seen.bounds) + len(seen.failed)
        proposal: dict[str, Any] = {"origin": "random"}
        flat = None
        if n_finished >= self.n_startup and seen.values and encoding.group_names:
            flat, proposal = self._bayesian(seen, _last_hyperparameters(ask.trials), encoding, rng)
        if flat is None:
            flat = self.random_new(encoding, seen.seen, rng)
            proposal = {**proposal, "origin": "random"}
        set_system_attr(ask.study, ask.trial, PROPOSAL, proposal)
        return flat

    def _bayesian(
        self, seen: Observations, start: dict[str, Any] | None, encoding: Encoding, rng: np.random.Generator
    ) -> tuple[Flat | None, dict[str, Any]]:
        import torch

        from lightning_autoarch.search.acquisition import propose
        from lightning_autoarch.search.hyperposterior import Hyperparameters

        with torch.device("cpu") if torch.get_default_device().type != "cpu" else nullcontext():  # the mode costs 20 %
            facts = FactColumns(self._facts, seen.complete + seen.pruned + seen.failed)
            hyperparameters = None if start is None else Hyperparameters.from_json(start)
            problem = _problem(seen, encoding, facts, hyperparameters, rng)
            stored = {"hyperparameters": problem.surrogate.hyperparameters.to_json()}
            found = propose(
                problem, lambda f: facts.row(f) if self.is_feasible(f) else None, self.max_feature_calls, rng
            )
            if found is None:
                return None, stored
            mean, std = problem.surrogate.predict(found[1][None])
        std_observed = math.hypot(float(std[0]), problem.surrogate.noise_std)
        expected = {"mean": seen.sign * float(mean[0]), "std": std_observed}
        return found[0], {"origin": "bayesian", "expected": expected, **stored}

    def _belongs(self, trial: FrozenTrial, encoding: Encoding) -> bool:
        """Memoised where the encoding stays: with a space of its own."""
        if self.space is None:
            return _belongs(trial, encoding)
        key = flat_key(trial.params)
        if key not in self._belongs_memo:
            self._belongs_memo[key] = _belongs(trial, encoding)
        return self._belongs_memo[key]

    def _facts(self, flat: Flat) -> dict[str, float]:
        """Facts by name, memoised by architecture."""
        if self.features is None:
            return {}
        key = flat_key(flat)
        if key not in self._facts_memo:
            facts = {name: float(value) for name, value in self.features(self.architecture(flat)).items()}
            for name, value in facts.items():
                if not math.isfinite(value):
                    raise SearchError(
                        f"Expected finite `features`, got {name}={value} for {self.architecture(flat)!r}."
                    )
            self._facts_memo[key] = facts
        return self._facts_memo[key]


class FactColumns:
    """Facts as columns, standardised over the architectures observed; a fact that an architecture lacks is average."""

    def __init__(self, facts_of: Callable[[Flat], dict[str, float]], flats: Sequence[Flat]) -> None:
        self._facts_of = facts_of
        table = [facts_of(flat) for flat in flats]
        self.names = sorted({name for facts in table for name in facts})
        known = {name: [facts[name] for facts in table if name in facts] for name in self.names}
        self._mean = {name: float(np.mean(values)) for name, values in known.items()}
        self._std = {name: float(np.std(values)) or 1.0 for name, values in known.items()}

    def row(self, flat: Flat) -> Array:
        """(m,)"""
        facts = self._facts_of(flat)
        return np.array(
            [(facts.get(name, self._mean[name]) - self._mean[name]) / self._std[name] for name in self.names]
        )


def _problem(
    seen: Observations, encoding: Encoding, facts: FactColumns, start: Hyperparameters | None, rng: np.random.Generator
) -> Problem:
    from lightning_autoarch.search.acquisition import Problem
    from lightning_autoarch.search.surrogate import fit

    def embed(flats: Sequence[Flat]) -> tuple[Array, Array]:
        rows = np.vstack([np.zeros((0, len(encoding.names))), *[encoding.encode(flat) for flat in flats]])
        return rows, np.hstack(
            [encoding.embed(rows), np.array([facts.row(f) for f in flats]).reshape(len(flats), len(facts.names))]
        )

    names = [*encoding.group_names, *(f"fact {name}" for name in facts.names)]
    groups = np.concatenate([encoding.groups, len(encoding.group_names) + np.arange(len(facts.names))])
    complete, pruned, failed = (embed(flats) for flats in (seen.complete, seen.pruned, seen.failed))
    Y, Yvar = clip(np.array(seen.values)), np.array(seen.variances)
    finished = Outcomes(complete[1], Y, Yvar, groups, names)
    bounded, bounded_var = _impute_pruned(finished, pruned[1], np.array(seen.bounds), start, rng)
    worst = min([*Y, *bounded])
    rows, Z = (np.vstack([part[i] for part in (complete, pruned, failed)]) for i in (0, 1))
    Y = np.concatenate([Y, bounded, np.full(len(seen.failed), worst)])
    Yvar = np.concatenate([Yvar, bounded_var, np.zeros(len(seen.failed))])
    kept = _kept(Y)
    surrogate = fit(Outcomes(Z[kept], Y[kept], Yvar[kept], groups, names), rng, start)
    pending = embed(seen.pending)[1]
    return Problem(encoding, surrogate, rows[kept], Z[kept], pending, len(facts.names), seen.seen)


def _kept(Y: Array) -> NDArray[np.int64]:
    """Indices of at most MAX_OBSERVATIONS: the better half of that number, and the latest of the rest."""
    everything = np.arange(len(Y))
    if len(Y) <= MAX_OBSERVATIONS:
        return everything
    best = np.argsort(-Y, kind="stable")[: MAX_OBSERVATIONS // 2]
    return np.union1d(best, np.setdiff1d(everything, best)[-(MAX_OBSERVATIONS - len(best)) :])


def _impute_pruned(
    finished: Outcomes,
    Z: Array,  # (p, columns) of the pruned trials
    bounds: Array,  # (p,)
    start: Hyperparameters | None,
    rng: np.random.Generator,
) -> tuple[Array, Array]:  # (p,), (p,)
    """Mean and variance of the outcomes of pruned trials, predicted from complete ones, truncated to [bound, best]."""
    from lightning_autoarch.search.surrogate import fit

    if len(bounds) == 0:
        return bounds, bounds
    mean, std = fit(finished, rng, start, refit=False).predict(Z)
    return truncated_moments(mean, std, np.maximum(bounds, finished.Y.min()), float(finished.Y.max()))


def _belongs(trial: FrozenTrial, encoding: Encoding) -> bool:
    """Whether its parameters are a whole point of the space (one being suggested, or of an older space, is not)."""
    if not trial.params or not all(name in encoding.index for name in trial.params):
        return False
    if not all(encoding.columns[encoding.index[name]].contains(value) for name, value in trial.params.items()):
        return False  # of a space that was wider
    row = encoding.encode(trial.params)
    whole = encoding.repair(row, np.random.default_rng(0))
    return bool((np.isnan(row) == np.isnan(whole)).all())


def _is_well_formed(stored: Any) -> bool:
    """Whether these are hyperparameters as a proposal stores them: the study may be somebody else's."""
    try:
        HYPERPARAMETERS(stored, "hyperparameters")
    except Mismatch:
        return False
    thetas = stored["thetas"]
    return 0 < len(thetas) <= MOST_STATES and all(len(theta) == len(stored["names"]) + 2 for theta in thetas)


def _last_hyperparameters(trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
    for trial in reversed(trials):
        proposal = trial.system_attrs.get(PROPOSAL)
        stored = proposal.get("hyperparameters") if isinstance(proposal, Mapping) else None
        if stored is not None and _is_well_formed(stored):
            return dict(stored)
    return None
