r"""Where to look next: the log of the noisy expected improvement, maximised by mutating the best architectures.

    alpha(x) = log E[ max(f(x) - max_i f(x_i), 0) ]      i over what was evaluated and what is running

Ament et al. (2023), "Unexpected improvements to expected improvement", equations 8 to 10. Two steps, both BoTorch's:
`LogExpectedImprovement` screens pools of candidates (running trials count as if they had come out as expected), and
`qLogNoisyExpectedImprovement`, with the running trials as `X_pending`, decides among the short list.

Pools are random architectures, mutants and crosses of the best observed, then mutants of the best candidates so far,
with a step that halves each round: local search, and at the end the polish of the continuous part (White et al., 2021,
BANANAS; Schneider et al., 2021, "Mutation is all you need"). Nothing enumerates the space.

Facts of the built module are expensive (it must be built), so a pool is screened with facts predicted by ridge
regression on the embedding, and only the leaders of each round are built: `budget` architectures a proposal, whatever
the clock says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from botorch.acquisition.analytic import LogExpectedImprovement
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.models.model import Model
from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.distributions import MultivariateNormal
from linear_operator.operators import DiagLinearOperator
from numpy.typing import NDArray
from torch import Tensor

from lightning_autoarch.search.encoding import Encoding
from lightning_autoarch.search.observations import Flat, FlatKey, flat_key
from lightning_autoarch.search.surrogate import EnsembleGP, Surrogate, quiet, with_believed

Array = NDArray[np.float64]
ROUNDS = 4  # of screening; the mutation's step halves each round
POOL = 160  # candidates a round
PARENTS = 8  # of the best observed, and of the best candidates
FIRST_STEP = 0.2  # standard deviation of the first round's mutations, on the unit interval
SHORT_LIST = 16  # candidates that qLogNEI decides among
BASELINE = 16  # observed points that may be the best: the rest cannot change qLogNEI
MC_SAMPLES = 128  # quasi-random, BoTorch's order of magnitude (128 to 512)
RIDGE = 0.1

Admit = Callable[[Flat], Array | None]  # standardised facts (m,) of an architecture that is feasible, else None


@dataclass
class Problem:
    """All that one proposal depends on. Z are embeddings with facts beside them, as the surrogate was trained on."""

    encoding: Encoding
    surrogate: Surrogate
    rows: Array  # (n, d) observed
    Z: Array  # (n, columns) of them
    pending: Array  # (p, columns) running
    n_facts: int  # last columns of Z
    seen: frozenset[FlatKey]  # never proposed again


@dataclass
class Candidates:
    """Architectures that may be proposed, with their true facts and log EI, and the rows asked about so far."""

    rows: Array
    Z: Array
    values: Array
    asked: set[bytes] = field(default_factory=set)

    @classmethod
    def none(cls, problem: Problem) -> Candidates:
        return cls(problem.rows[:0], problem.Z[:0], np.zeros(0))


def propose(
    problem: Problem, admit: Admit, budget: int, rng: np.random.Generator
) -> tuple[Flat, Array] | None:  # the flat point and its (columns,) embedding
    """The best candidate found, or None when none of them may be proposed.

    Args:
        problem: the surrogate and what it knows.
        admit: called on at most `budget` architectures, each new to the study and once; None refuses one.
        budget: see `admit`.
        rng: the only source of randomness.
    """
    screen, found = _screen(problem), Candidates.none(problem)
    incumbents = problem.rows[_leaders(problem.surrogate.predict(problem.Z)[0], PARENTS)]
    pool, step = _first_pool(problem.encoding, incumbents, rng), FIRST_STEP
    for round_ in range(ROUNDS):
        Z = np.hstack([problem.encoding.embed(pool), _predicted_facts(problem, found, pool)])
        order = np.argsort(-screen(Z), kind="stable")
        share = budget * (round_ + 1) // ROUNDS - budget * round_ // ROUNDS
        _admit(problem, admit, pool[order], share, found, screen)
        parents = found.rows[_leaders(found.values, PARENTS)] if len(found.rows) else incumbents
        step /= 2.0
        pool = _next_pool(problem.encoding, parents, incumbents, step, rng)
    if len(found.rows) == 0:
        return None
    short = _leaders(found.values, SHORT_LIST)
    best = short[int(np.argmax(noisy_improvement(problem, found.Z[short], int(rng.integers(2**31)))))]
    return problem.encoding.decode(found.rows[best]), found.Z[best]


def noisy_improvement(problem: Problem, Z: Array, seed: int) -> Array:  # (c, columns) -> (c,)
    """BoTorch's qLogNEI of each candidate by itself."""
    mean, std = problem.surrogate.predict(problem.Z)
    baseline = _leaders(mean + std, BASELINE)
    with torch.no_grad(), quiet():
        acquisition = qLogNoisyExpectedImprovement(
            problem.surrogate.model,
            X_baseline=torch.from_numpy(problem.Z[baseline]),
            sampler=SobolQMCNormalSampler(torch.Size([MC_SAMPLES]), seed=seed),
            X_pending=torch.from_numpy(problem.pending) if len(problem.pending) else None,
            prune_baseline=False,
        )
        values: Array = acquisition(torch.from_numpy(Z).unsqueeze(-2)).numpy()
    return values


class PointwiseModel(Model):
    """The posterior point by point: GPyTorch repeats the training data for each point of a batch otherwise."""

    num_outputs = 1
    _is_ensemble = True

    def __init__(self, model: EnsembleGP) -> None:
        super().__init__()
        self.model = model

    def posterior(self, X: Tensor, *args: Any, **kwargs: Any) -> GaussianMixturePosterior:  # (b, 1, columns)
        posterior = self.model(X.squeeze(-2))  # (S, b)
        variance = posterior.variance.T.unsqueeze(-1).clamp_min(1e-10)
        return GaussianMixturePosterior(
            MultivariateNormal(posterior.mean.T.unsqueeze(-1), DiagLinearOperator(variance))
        )


def _screen(problem: Problem) -> Callable[[Array], Array]:
    """LogEI over the best posterior mean, pending points believed (Ginsbourger et al., 2010, kriging believer)."""
    surrogate = problem.surrogate
    model = with_believed(surrogate, problem.pending) if len(problem.pending) else surrogate.model
    with torch.no_grad(), quiet():
        best = model(torch.from_numpy(problem.Z)).mean.amax(-1, keepdim=True)  # (S, 1)
    acquisition = LogExpectedImprovement(PointwiseModel(model), best_f=best)

    def score(Z: Array) -> Array:
        with torch.no_grad(), quiet():
            values: Array = acquisition(torch.from_numpy(Z).unsqueeze(-2)).numpy()
        return values

    return score


def _leaders(values: Array, k: int) -> NDArray[np.int64]:
    return np.argsort(-values, kind="stable")[:k]


def _first_pool(encoding: Encoding, incumbents: Array, rng: np.random.Generator) -> Array:
    draws = encoding.random(POOL // 2, rng)
    return np.vstack(
        [
            draws,
            encoding.mutate(_pick(incumbents, POOL // 4, rng), FIRST_STEP, rng),
            encoding.cross(_pick(incumbents, POOL // 4, rng), _pick(incumbents, POOL // 4, rng), rng),
        ]
    )


def _next_pool(encoding: Encoding, parents: Array, incumbents: Array, step: float, rng: np.random.Generator) -> Array:
    moved = encoding.mutate(_pick(parents, POOL * 5 // 8, rng), step, rng)
    near = encoding.mutate(_pick(incumbents, POOL // 4, rng), step, rng)
    crossed = encoding.cross(_pick(parents, POOL // 8, rng), _pick(incumbents, POOL // 8, rng), rng)
    return np.vstack([moved, near, crossed])


def _pick(rows: Array, n: int, rng: np.random.Generator) -> Array:
    return rows[rng.integers(len(rows), size=n)]


def _admit(
    problem: Problem, admit: Admit, rows: Array, budget: int, found: Candidates, screen: Callable[[Array], Array]
) -> None:
    """Asks about the first `budget` new rows, and keeps those that may be proposed."""
    kept: list[Array] = []
    facts: list[Array] = []
    for row in rows:
        if budget <= 0:
            break
        flat = problem.encoding.decode(row)
        if row.tobytes() in found.asked or flat_key(flat) in problem.seen:
            continue
        found.asked.add(row.tobytes())
        answer = admit(flat)
        budget -= 1
        if answer is not None:
            kept.append(row)
            facts.append(answer)
    if kept:
        Z = np.hstack([problem.encoding.embed(np.array(kept)), np.array(facts)])
        found.rows, found.Z = np.vstack([found.rows, kept]), np.vstack([found.Z, Z])
        found.values = np.concatenate([found.values, screen(Z)])


def _predicted_facts(problem: Problem, found: Candidates, rows: Array) -> Array:  # (n, m)
    """Ridge regression of the (standardised) facts on the embedding; no facts, no columns."""
    if problem.n_facts == 0:
        return np.zeros((len(rows), 0))
    known = np.vstack([problem.Z, found.Z])
    E, F = known[:, : -problem.n_facts], known[:, -problem.n_facts :]
    center, middle = E.mean(0), F.mean(0)
    C = E - center
    # in the dual when there are fewer points than columns: the same solution, a smaller system
    K = C @ C.T + RIDGE * np.eye(len(C))
    weights = C.T @ np.linalg.solve(K, F - middle)
    predicted: Array = (problem.encoding.embed(rows) - center) @ weights + middle
    return predicted
