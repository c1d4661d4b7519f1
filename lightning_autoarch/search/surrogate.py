r"""A Gaussian process over embedded architectures: BoTorch's `SingleTaskGP`, its kernel grouped by parameter.

    y(z) = m + f(z) + noise,   f ~ GP(0, s k),   k = Matern-5/2 of  r^2(z, z') = sum_g |z_g - z'_g|^2 / l_g^2

`z` is the embedding of `encoding.py` with the facts of the built module beside it, `z_g` its columns of group `g` (all
indicator columns of one categorical parameter share one lengthscale). A parameter that both architectures lack
contributes 0 to r: the model knows what is active.

Hyperparameters are maximum a posteriori (notation and gradient: Rasmussen and Williams, 2006, equations 5.8 and 5.9):

    log l_g ~ Normal(sqrt 2 + log(G)/2, 3)     grows with the number of groups G (Hvarfner, Hellsten, Nardi, 2024); the
                                               mode is taken in log l, which prefers smooth functions while data are few
    log noise ~ Normal(-4, 1)                  beside the known variance of each trial
    s = 1 and m free, on standardised outcomes

The gradient is written out in NumPy, with the distances as matrix products: one evaluation takes 0.2 ms at 50 points
where GPyTorch's autograd takes 4 ms (one thread of a Xeon). The value is GPyTorch's own; a test holds them together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gpytorch
import numpy as np
import torch
from botorch.models import SingleTaskGP
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize
from torch import Tensor

from lightning_autoarch.errors import SearchError

Array = NDArray[np.float64]
PRIOR_MEAN, PRIOR_STD = math.sqrt(2.0), math.sqrt(3.0)
NOISE_MEAN, NOISE_STD = -4.0, 1.0
MIN_NOISE, MAX_NOISE = 1e-4, 2.0
MIN_LENGTHSCALE, MAX_LENGTHSCALE = 0.025, 1e3
MIN_FIXED_NOISE = 1e-6  # GPyTorch raises smaller ones itself, with a warning
MAX_ITERATIONS = 25  # from each start


@dataclass(frozen=True)
class Hyperparameters:
    """What was fitted; JSON round trip without loss, so that a resumed search starts where the last fit ended."""

    lengthscales: dict[str, float]
    noise: float
    mean: float

    def to_json(self) -> dict[str, Any]:
        return {"lengthscales": self.lengthscales, "noise": self.noise, "mean": self.mean}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Hyperparameters:
        return cls(dict(stored["lengthscales"]), float(stored["noise"]), float(stored["mean"]))


class GroupedMatern(Kernel):  # type: ignore[misc]
    """Matern-5/2 whose columns share lengthscales by group; 1 on the diagonal.

    Args:
        groups: (columns,) index of each column's lengthscale.
    """

    has_lengthscale = True

    def __init__(self, groups: Tensor, **kwargs: Any) -> None:
        super().__init__(ard_num_dims=int(groups.max()) + 1, **kwargs)
        self.ard_num_dims = None  # else GPyTorch expects as many columns as lengthscales
        self.register_buffer("groups", groups)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        scale = self.lengthscale[..., self.groups]
        a, b = x1 / scale, x2 / scale
        if diag:
            return _matern((a - b).square().sum(-1))
        squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2.0 * a @ b.mT
        return _matern(squares)


@dataclass(frozen=True)
class Surrogate:
    """A fitted model and the scale of its outcomes: `y = location + scale * standardised`."""

    model: SingleTaskGP
    hyperparameters: Hyperparameters
    location: float
    scale: float

    def predict(self, Z: Array) -> tuple[Array, Array]:  # (n, columns) -> (n,), (n,)
        """Mean and standard deviation of the noise-free outcome, in the outcome's units."""
        with torch.no_grad(), quiet():
            posterior = self.model.posterior(torch.from_numpy(Z))
            mean, variance = posterior.mean.squeeze(-1).numpy(), posterior.variance.squeeze(-1).numpy()
        return self.location + self.scale * mean, self.scale * np.sqrt(variance)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the fitted noise, in the outcome's units."""
        return self.scale * math.sqrt(self.hyperparameters.noise)


def fit(
    Z: Array,  # (n, columns)
    Y: Array,  # (n,), larger is better
    Yvar: Array,  # (n,) known variances, 0 where unknown
    groups: NDArray[np.int64],  # (columns,)
    names: Sequence[str],  # of the groups
    start: Hyperparameters | None = None,
    iterations: int = MAX_ITERATIONS,
) -> Surrogate:
    """The surrogate of these outcomes. Deterministic; with `iterations=0` the hyperparameters are `start`'s own.

    It is the best of the fits from `start`, the prior's mode, and lengthscales at the median distance: from `start` alone,
    an early "all is noise" was never left again (seen on digits).

    Raises:
        SearchError: inputs that are not finite, or a covariance that is not positive definite wherever the fit begins.
    """
    if not (np.isfinite(Z).all() and np.isfinite(Y).all() and np.isfinite(Yvar).all()):
        raise SearchError("Expected finite inputs to the surrogate; a feature or a score is NaN or infinite.")
    location, scale = float(Y.mean()), float(Y.std())
    scale = scale if scale > 1e-12 * max(1.0, abs(location)) else max(1e-12, abs(location) * 1e-6)
    y, noise = (Y - location) / scale, np.clip(Yvar / scale**2, MIN_FIXED_NOISE, 1e6)
    theta = _best_theta(Z, y, noise, groups, names, start, iterations)
    lengthscales = {name: float(value) for name, value in zip(names, np.exp(theta[:-2]), strict=True)}
    hyperparameters = Hyperparameters(lengthscales, float(np.exp(theta[-2])), float(theta[-1]))
    return Surrogate(build(Z, y, noise, groups, hyperparameters), hyperparameters, location, scale)


def build(Z: Array, y: Array, noise: Array, groups: NDArray[np.int64], values: Hyperparameters) -> SingleTaskGP:
    """BoTorch's model of standardised outcomes, in evaluation mode, hyperparameters set."""
    with quiet():
        kernel = GroupedMatern(
            torch.from_numpy(groups), lengthscale_constraint=GreaterThan(MIN_LENGTHSCALE * 0.99, transform=None)
        )
        likelihood = FixedNoiseGaussianLikelihood(
            torch.from_numpy(noise),
            learn_additional_noise=True,
            noise_constraint=GreaterThan(MIN_NOISE * 0.99, transform=None),
        )
        X, Y = torch.from_numpy(Z), torch.from_numpy(y).unsqueeze(-1)
        model = SingleTaskGP(X, Y, likelihood=likelihood, covar_module=kernel, outcome_transform=None).double()
        kernel.lengthscale = torch.tensor(list(values.lengthscales.values()), dtype=torch.double)
        likelihood.second_noise = torch.tensor(values.noise, dtype=torch.double)
        model.mean_module.constant = torch.tensor(values.mean, dtype=torch.double)
    return model.eval()  # type: ignore[no-any-return]


def loss_and_gradient(
    theta: Array,  # (G + 2,): log lengthscales, log noise, mean
    Z: Array,
    y: Array,
    noise: Array,
    groups: NDArray[np.int64],
) -> tuple[float, Array]:
    """Negative log posterior over n (up to a constant), and its gradient; infinite where K is not positive definite."""
    n, G = len(y), len(theta) - 2
    A = Z * np.exp(-theta[:G])[groups]
    squares = (A**2).sum(1)[:, None] + (A**2).sum(1)[None] - 2.0 * A @ A.T
    r = np.sqrt(5.0 * np.maximum(squares, 1e-20))
    decay = np.exp(-r)
    K = (1.0 + r + r**2 / 3.0) * decay
    K[np.diag_indices(n)] += np.exp(theta[G]) + noise
    try:
        L = cholesky(K, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return math.inf, np.zeros_like(theta)
    alpha = cho_solve((L, True), y - theta[-1], check_finite=False)
    W = 0.5 * (cho_solve((L, True), np.eye(n), check_finite=False) - np.outer(alpha, alpha))  # dLoss/dK
    M = W * (-5.0 / 6.0) * (1.0 + r) * decay  # dLoss/d(r^2)
    by_column = -4.0 * (M.sum(1) @ A**2 - ((M @ A) * A).sum(0))
    gradient = np.concatenate([np.bincount(groups, by_column, G), [np.trace(W) * np.exp(theta[G]), -alpha.sum()]])
    value = 0.5 * (y - theta[-1]) @ alpha + np.log(np.diag(L)).sum()
    center, width = _prior(G)
    gradient[:-1] += (theta[:-1] - center) / width**2
    return float(value + 0.5 * (((theta[:-1] - center) / width) ** 2).sum()) / n, gradient / n


class quiet(warnings.catch_warnings):  # type: ignore[type-arg]
    """Silences what BoTorch and GPyTorch say about numerics, here only."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


def _matern(squares: Tensor) -> Tensor:
    r = (5.0 * squares.clamp_min(1e-20)).sqrt()
    return (1.0 + r + r.square() / 3.0) * torch.exp(-r)


def _prior(G: int) -> tuple[Array, Array]:
    center = np.append(np.full(G, PRIOR_MEAN + 0.5 * math.log(max(G, 1))), NOISE_MEAN)
    return center, np.append(np.full(G, PRIOR_STD), NOISE_STD)


def _best_theta(
    Z: Array,
    y: Array,
    noise: Array,
    groups: NDArray[np.int64],
    names: Sequence[str],
    start: Hyperparameters | None,
    iterations: int,
) -> Array:
    default = np.append(_prior(len(names))[0], 0.0)
    starts = [default, _median_start(Z, default)]
    if start is not None:
        starts.insert(0, _theta(start, names, default))
        if iterations == 0:
            return starts[0]
    bounds = [(math.log(MIN_LENGTHSCALE), math.log(MAX_LENGTHSCALE))] * len(names)
    bounds += [(math.log(MIN_NOISE), math.log(MAX_NOISE)), (-5.0, 5.0)]
    args, options = (Z, y, noise, groups), {"maxiter": iterations}
    fits = [minimize(loss_and_gradient, s, args, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for s in starts]
    best = min(fits, key=lambda result: float(result.fun))
    if not math.isfinite(best.fun):
        raise SearchError("The surrogate's covariance is not positive definite; are two features enormous?")
    return np.asarray(best.x)


def _median_start(Z: Array, default: Array) -> Array:
    """All lengthscales such that the median squared distance is 1: far from the plateau where everything is noise."""
    squares = ((Z[:, None] - Z[None]) ** 2).sum(-1) if len(Z) <= 100 else ((Z[:100, None] - Z[None, :100]) ** 2).sum(-1)
    positive = squares[squares > 0]
    theta = default.copy()
    theta[:-2] = 0.5 * math.log(float(np.median(positive))) if len(positive) else default[:-2]
    return theta


def _theta(values: Hyperparameters, names: Sequence[str], default: Array) -> Array:
    """Stored values by name, the prior's mode where a name is new."""
    logs = [math.log(values.lengthscales[n]) if n in values.lengthscales else default[i] for i, n in enumerate(names)]
    return np.array([*logs, math.log(values.noise), values.mean])
