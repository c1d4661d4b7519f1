r"""The posterior of the surrogate's hyperparameters: its density with gradient, its mode, and samples from it.

    theta = (log l_1 ... log l_G, log noise, m)      y | theta ~ N(m, K + noise + known variances),  K = exp(-r^2 / 2)
    r^2(z, z') = sum_g |z_g - z'_g|^2 / l_g^2        groups g of columns, see `surrogate.py`

    log l_g ~ Normal(sqrt 2 + log(G)/2, 3)     grows with the number of groups G (Hvarfner, Hellsten, Nardi, 2024)
    log noise ~ Normal(-4, 1)

Twenty trials do not determine thirty lengthscales. The mode alone is often a wrong and confident explanation, and a
search that starts each fit from the last one keeps it: on NAS-Bench-201 a tenth of the searches got stuck so. A few
samples of Hamiltonian Monte Carlo (Neal, 2011, section 5.3) carry the doubt into the acquisition. The chains go on
from trial to trial, which is also what makes them cheap; their random numbers come from (seed, trial number).

The gradient (Rasmussen and Williams, 2006, equation 5.9) is written out in NumPy, with distances as matrix products:
one evaluation takes 0.2 ms at 50 points where GPyTorch's autograd takes 4 ms. The value is GPyTorch's own; a test
holds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize

from lightning_autoarch.core.errors import SearchError

Array = NDArray[np.float64]
PRIOR_MEAN, PRIOR_STD = math.sqrt(2.0), math.sqrt(3.0)
NOISE_MEAN, NOISE_STD = -4.0, 1.0
MEAN_STEP = 0.3  # the mean's own scale in the sampler: it has no prior
MIN_NOISE, MAX_NOISE = 1e-4, 2.0
MIN_LENGTHSCALE, MAX_LENGTHSCALE = 0.025, 1e3
FIT_ITERATIONS = 10  # L-BFGS, from each start
MOVES, LEAPFROG = 4, 5  # Monte Carlo moves of each chain a trial, gradient steps in each
FIRST_MOVES = 20  # of a chain that has just been started
FIRST_STEP = 0.15
SETTLED = 200  # observations from which on the mode is only followed
STRAY = 20.0  # a chain this many nats (and one a dimension) below the mode is started anew from it


@dataclass(frozen=True)
class Data:
    """Standardised outcomes `y` (n,) at `Z` (n, columns), known variances `noise` (n,), groups (columns,)."""

    Z: Array
    y: Array
    noise: Array
    groups: NDArray[np.int64]
    n_groups: int

    def loss(self, theta: Array) -> tuple[float, Array]:
        """Negative log posterior up to a constant, and its gradient; infinite where K is not positive definite."""
        n, G = len(self.y), self.n_groups
        A = self.Z * np.exp(-theta[:G])[self.groups]
        squares = (A**2).sum(1)
        K = np.exp(-0.5 * np.maximum(squares[:, None] + squares[None] - 2.0 * A @ A.T, 0.0))
        covariance = K.copy()
        covariance[np.diag_indices(n)] += np.exp(theta[G]) + self.noise
        try:
            L = cholesky(covariance, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return math.inf, np.zeros_like(theta)
        alpha = cho_solve((L, True), self.y - theta[-1], check_finite=False)
        W = 0.5 * (cho_solve((L, True), np.eye(n), check_finite=False) - np.outer(alpha, alpha))  # dLoss/dK
        M = -0.5 * W * K  # dLoss/d(r^2)
        by_column = -4.0 * (M.sum(1) @ A**2 - ((M @ A) * A).sum(0))
        of_likelihood = np.append(
            np.bincount(self.groups, by_column, G), [np.trace(W) * np.exp(theta[G]), -alpha.sum()]
        )
        center, width = prior(G)
        off = (theta - center) / width
        value = 0.5 * (self.y - theta[-1]) @ alpha + np.log(np.diag(L)).sum() + 0.5 * (off**2).sum()
        return float(value), of_likelihood + off / width


@dataclass(frozen=True)
class Hyperparameters:
    """The mode (first), the chains' states, and their step; JSON without loss, so that a resumed search goes on."""

    names: tuple[str, ...]  # of the groups
    thetas: tuple[tuple[float, ...], ...]  # each (G + 2,)
    step: float = FIRST_STEP

    def to_json(self) -> dict[str, Any]:
        return {"names": list(self.names), "thetas": [list(theta) for theta in self.thetas], "step": self.step}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Hyperparameters:
        return cls(tuple(stored["names"]), tuple(tuple(theta) for theta in stored["thetas"]), float(stored["step"]))

    def named(self, names: Sequence[str]) -> Array:  # (S, G + 2)
        """The states for these groups; the prior's center where a name is new."""
        thetas = np.tile(prior(len(names))[0], (len(self.thetas), 1))
        for theta, stored in zip(thetas, self.thetas, strict=True):
            known = dict(zip(self.names, stored, strict=False))
            theta[:-2] = [known.get(name, theta[i]) for i, name in enumerate(names)]
            theta[-2:] = stored[-2:]
        return thetas


def prior(G: int) -> tuple[Array, Array]:  # (G + 2,), (G + 2,)
    """Center and width of the prior of theta; the mean's is flat."""
    center = np.append(np.full(G, PRIOR_MEAN + 0.5 * math.log(max(G, 1))), [NOISE_MEAN, 0.0])
    return center, np.append(np.full(G, PRIOR_STD), [NOISE_STD, math.inf])


def infer(
    data: Data,
    names: Sequence[str],
    start: Hyperparameters | None,
    n_samples: int,
    rng: np.random.Generator,
    effort: float = 1.0,
) -> Hyperparameters:
    """The mode and `n_samples` samples, continued from `start`; `effort` scales iterations and moves.

    The mode is the best of the fits from its last value, the prior's center, and lengthscales at the median distance:
    from the last value alone, an early "all is noise" was never left again.

    Raises:
        SearchError: a covariance that is not positive definite wherever a fit begins.
    """
    known = None if start is None else start.named(names)
    mode, lowest = _mode(data, None if known is None else known[0], max(2, round(FIT_ITERATIONS * effort)))
    step, chains = FIRST_STEP if start is None else start.step, []
    for i in range(n_samples):
        state = mode if known is None or i + 1 >= len(known) else known[i + 1]
        is_new = state is mode or data.loss(state)[0] > lowest + STRAY + len(mode)
        moves = max(1, round((FIRST_MOVES if is_new else MOVES) * effort))
        state, step = sample(data, mode if is_new else state, moves, step, rng)
        chains.append(state)
    # rounded so that the stored text is short; the model is built from the rounded values
    rounded = (tuple(round(float(value), 6) for value in theta) for theta in [mode, *chains])
    return Hyperparameters(tuple(names), tuple(rounded), step)


def sample(data: Data, theta: Array, moves: int, step: float, rng: np.random.Generator) -> tuple[Array, float]:
    """The state after some moves of Hamiltonian Monte Carlo, and the step, adapted towards 4 of 5 accepted."""
    low, high = _box(data.n_groups)
    width = prior(data.n_groups)[1]
    width[-1] = MEAN_STEP
    loss, gradient = data.loss(theta)
    for _ in range(moves):
        jittered = step * rng.uniform(0.6, 1.4)
        momentum = rng.normal(size=len(theta))
        energy = loss + 0.5 * momentum @ momentum
        new, new_loss, new_gradient = theta, loss, gradient
        for _ in range(LEAPFROG):
            momentum = momentum - 0.5 * jittered * width * new_gradient
            new = np.clip(new + jittered * width * momentum, low, high)
            new_loss, new_gradient = data.loss(new)
            momentum = momentum - 0.5 * jittered * width * new_gradient
        accepted = math.log(1.0 - rng.random()) < energy - new_loss - 0.5 * momentum @ momentum
        if accepted:
            theta, loss, gradient = new, new_loss, new_gradient
        step = min(max(step * (1.05 if accepted else 0.8), 1e-3), 0.5)
    return theta, step


def _mode(data: Data, last: Array | None, iterations: int) -> tuple[Array, float]:
    center, n = prior(data.n_groups)[0], len(data.y)
    starts = [center, _median_start(data.Z, center)]
    if last is not None:  # many data determine the mode, and each evaluation is dear
        starts = [last] if n > SETTLED else [last, *starts]
    bounds = list(zip(*_box(data.n_groups), strict=True))
    scaled = lambda theta: tuple(part / n for part in data.loss(theta))  # noqa: E731
    options = {"maxiter": iterations}
    fits = [minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for start in starts]
    best = min(fits, key=lambda result: float(result.fun))
    if not math.isfinite(best.fun):
        raise SearchError("The surrogate's covariance is not positive definite; are two features enormous?")
    return np.asarray(best.x), float(best.fun) * n


def _box(G: int) -> tuple[Array, Array]:
    low = np.append(np.full(G, math.log(MIN_LENGTHSCALE)), [math.log(MIN_NOISE), -5.0])
    return low, np.append(np.full(G, math.log(MAX_LENGTHSCALE)), [math.log(MAX_NOISE), 5.0])


def _median_start(Z: Array, center: Array) -> Array:
    """All lengthscales such that the median squared distance is 1."""
    some = Z[:100]
    squares = ((some[:, None] - some[None]) ** 2).sum(-1)
    positive = squares[squares > 0]
    theta = center.copy()
    if len(positive):
        theta[:-2] = 0.5 * math.log(float(np.median(positive)))
    return theta
