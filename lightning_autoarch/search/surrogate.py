r"""A Gaussian process over embedded architectures: an ensemble of BoTorch's `SingleTaskGP`, one lengthscale a group.

    y(z) = m + f(z) + noise,   f ~ GP(0, k),   k(z, z') = exp(-r^2 / 2),   r^2 = sum_g |z_g - z'_g|^2 / l_g^2

`z` is the embedding of `encoding.py` with the facts of the built module beside it, `z_g` its columns of group `g` (all
indicator columns of one categorical parameter share one lengthscale; on categories this kernel is the product of one
Hamming kernel a parameter). A parameter that both architectures lack contributes 0 to r: the model knows what is
active.

The members of the ensemble are the batch dimension of one model: the mode of the hyperparameters' posterior and a few
samples of it (`hyperposterior.py`). BoTorch averages acquisition functions over it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import gpytorch
import numpy as np
import torch
from botorch.models import SingleTaskGP
from botorch.posteriors.fully_bayesian import MCMC_DIM, GaussianMixturePosterior
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from torch import Tensor

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.search.hyperposterior import MIN_LENGTHSCALE, MIN_NOISE, Array, Data, Hyperparameters, infer
from lightning_autoarch.search.observations import Outcomes

MIN_FIXED_NOISE = 1e-6  # GPyTorch raises smaller ones itself, with a warning
SAMPLES = 3  # beside the mode: 4 members; each adds about 10 ms to a proposal at 50 trials
FULL_EFFORT = 100  # observations up to which the hyperparameters get all iterations and moves


class GroupedRBF(Kernel):  # type: ignore[misc]
    """exp(-r^2 / 2) whose columns share lengthscales by group.

    Args:
        groups: (columns,) index of each column's lengthscale.
    """

    has_lengthscale = True

    def __init__(self, groups: Tensor, n_groups: int, **kwargs: Any) -> None:
        super().__init__(ard_num_dims=n_groups, **kwargs)
        self.ard_num_dims = None  # else GPyTorch expects as many columns as lengthscales
        self.register_buffer("groups", groups)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        scale = self.lengthscale[..., self.groups]
        a, b = x1 / scale, x2 / scale
        if diag:
            return torch.exp(-0.5 * (a - b).square().sum(-1))
        squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2.0 * a @ b.mT
        return torch.exp(-0.5 * squares.clamp_min(0.0))


class EnsembleGP(SingleTaskGP):
    """`SingleTaskGP` whose batch dimension is an ensemble, as BoTorch's fully Bayesian models have it."""

    _is_ensemble = True

    def posterior(self, X: Tensor, *args: Any, **kwargs: Any) -> GaussianMixturePosterior:  # (..., q, columns)
        posterior: Any = super().posterior(X.unsqueeze(MCMC_DIM), *args, **kwargs)
        return GaussianMixturePosterior(posterior.distribution)


@dataclass(frozen=True)
class Surrogate:
    """A fitted model and the scale of its outcomes: `y = location + scale * standardised`."""

    model: EnsembleGP
    data: Data
    hyperparameters: Hyperparameters
    location: float
    scale: float

    def members(self, Z: Array) -> tuple[Tensor, Tensor]:  # (n, columns) -> (S, n), (S, n)
        """Standardised mean and variance of the noise-free outcome, of each member."""
        with torch.no_grad(), quiet():
            posterior = self.model(torch.from_numpy(Z))
            return posterior.mean, posterior.variance.clamp_min(1e-10)

    def predict(self, Z: Array) -> tuple[Array, Array]:  # (n, columns) -> (n,), (n,)
        """Mean and standard deviation of the noise-free outcome, in the outcome's units, over all members."""
        means, variances = self.members(Z)
        variance = variances.mean(0) + means.var(0, unbiased=False)
        return self.location + self.scale * means.mean(0).numpy(), self.scale * variance.sqrt().numpy()

    @property
    def noise_std(self) -> float:
        """Standard deviation of the fitted noise, in the outcome's units."""
        return self.scale * math.sqrt(float(np.mean([math.exp(theta[-2]) for theta in self.hyperparameters.thetas])))


def fit(
    outcomes: Outcomes, rng: np.random.Generator, start: Hyperparameters | None = None, refit: bool = True
) -> Surrogate:
    """The surrogate of these outcomes, continued from `start`; without `refit` its hyperparameters are `start`'s own.

    Raises:
        SearchError: inputs that are not finite, or a covariance that is not positive definite wherever a fit begins.
    """
    Z, Y, Yvar, names = outcomes.Z, outcomes.Y, outcomes.Yvar, outcomes.names
    if not (np.isfinite(Z).all() and np.isfinite(Y).all() and np.isfinite(Yvar).all()):
        raise SearchError("Expected finite inputs to the surrogate; a feature or a score is NaN or infinite.")
    location, scale = float(Y.mean()), float(Y.std())
    scale = scale if scale > 1e-12 * max(1.0, abs(location)) else max(1e-12, abs(location) * 1e-6)
    noise = np.clip(Yvar / scale**2, MIN_FIXED_NOISE, 1e6)
    data = Data(Z, (Y - location) / scale, noise, outcomes.groups, len(names))
    if refit or start is None:
        effort = min(1.0, FULL_EFFORT / len(Y))
        hyperparameters = infer(data, names, start, max(1, round(SAMPLES * min(1.0, 3 * effort))), rng, effort)
    else:
        thetas = tuple(tuple(theta) for theta in start.named(names).tolist())
        hyperparameters = Hyperparameters(tuple(names), thetas, start.step)
    return Surrogate(build(data, hyperparameters), data, hyperparameters, location, scale)


def build(data: Data, hyperparameters: Hyperparameters) -> EnsembleGP:
    """BoTorch's model of standardised outcomes, in evaluation mode, hyperparameters set."""
    thetas = torch.tensor(hyperparameters.thetas, dtype=torch.double)
    S = torch.Size([len(thetas)])
    with quiet():
        smallest = GreaterThan(0.99 * MIN_LENGTHSCALE, transform=None)
        kernel = GroupedRBF(
            torch.from_numpy(data.groups), data.n_groups, batch_shape=S, lengthscale_constraint=smallest
        )
        likelihood = FixedNoiseGaussianLikelihood(
            torch.from_numpy(data.noise).expand(*S, -1),
            learn_additional_noise=True,
            batch_shape=S,
            noise_constraint=GreaterThan(0.99 * MIN_NOISE, transform=None),
        )
        X, Y = (torch.from_numpy(a).expand(*S, -1, -1) for a in (data.Z, data.y[:, None]))
        model = EnsembleGP(X, Y, likelihood=likelihood, covar_module=kernel, outcome_transform=None).double()
        kernel.lengthscale = thetas[:, None, :-2].exp()
        likelihood.second_noise = thetas[:, -2:-1].exp()
        model.mean_module.constant = thetas[:, -1]
    model.requires_grad_(False)
    return model.eval()


def with_believed(surrogate: Surrogate, Z: Array) -> EnsembleGP:
    """The model as if these points had come out as expected."""
    data = surrogate.data
    believed = (surrogate.predict(Z)[0] - surrogate.location) / surrogate.scale
    noise = np.concatenate([data.noise, np.full(len(Z), MIN_FIXED_NOISE)])
    grown = Data(np.vstack([data.Z, Z]), np.concatenate([data.y, believed]), noise, data.groups, data.n_groups)
    return build(grown, surrogate.hyperparameters)


class quiet(warnings.catch_warnings):
    """Silences what BoTorch and GPyTorch say about numerics, here only, and their lazy covariances."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        self._fast = gpytorch.settings.fast_computations(log_prob=False, solves=False, covar_root_decomposition=False)
        self._fast.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._fast.__exit__(*exception)
        super().__exit__(*exception)
