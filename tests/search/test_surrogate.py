"""The Gaussian process against GPyTorch's own likelihood and gradient, and on cases with a known answer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import gpytorch
import numpy as np
import pytest
import torch

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.search.encoding import Encoding
from lightning_autoarch.search.hyperposterior import Data, Hyperparameters, prior, sample
from lightning_autoarch.search.observations import Outcomes
from lightning_autoarch.search.parameters import Categorical, Float
from lightning_autoarch.search.space import SearchSpace
from lightning_autoarch.search.surrogate import Surrogate, build, fit

GROUPS = np.array([0, 1, 1, 2])
NAMES = ["a", "b", "c"]


def _data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    Z = rng.random((n, 4))
    return Z, np.sin(3 * Z[:, 0]) + 0.1 * Z[:, 1]


def _fit(Z: np.ndarray, Y: np.ndarray, Yvar: np.ndarray | None = None, **kwargs: Any) -> Surrogate:
    outcomes = Outcomes(Z, Y, np.zeros(len(Y)) if Yvar is None else Yvar, GROUPS, NAMES)
    return fit(outcomes, np.random.default_rng(0), **kwargs)


def _values(*thetas: np.ndarray, names: Sequence[str] = NAMES) -> Hyperparameters:
    return Hyperparameters(tuple(names), tuple(tuple(theta) for theta in thetas))


def test_loss_differs_from_gpytorch_by_the_prior_alone() -> None:
    Z, y = _data(12)
    data = Data(Z, y, np.full(12, 1e-2), GROUPS, 3)
    differences = []
    for theta in (np.array([0.1, -0.3, 1.0, -3.0, 0.2]), np.array([1.1, 0.5, -1.0, -1.0, -0.4])):
        model = build(data, _values(theta)).train()
        mll = gpytorch.ExactMarginalLogLikelihood(model.likelihood, model)
        theirs = -mll(model(*model.train_inputs), model.train_targets).item() * 12
        prior = np.append((theta[:3] - math.sqrt(2) - math.log(3) / 2) / math.sqrt(3), theta[3] + 4.0)
        differences.append(data.loss(theta)[0] - theirs - 0.5 * (prior**2).sum())
    assert differences[0] == pytest.approx(-6 * math.log(2 * math.pi), abs=1e-8)
    assert differences[1] == pytest.approx(differences[0], abs=1e-8)


def test_gradient_is_that_of_finite_differences() -> None:
    Z, y = _data(9)
    data, theta = Data(Z, y, np.linspace(1e-3, 1e-1, 9), GROUPS, 3), np.array([0.1, -0.3, 0.7, -3.0, 0.2])
    for i in range(5):
        step = np.eye(5)[i] * 1e-6
        ends = [data.loss(theta + s * step)[0] for s in (1, -1)]
        assert data.loss(theta)[1][i] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-5)


def test_without_data_the_chain_samples_the_prior() -> None:
    data = Data(np.zeros((1, 4)), np.zeros(1), np.full(1, 1e6), GROUPS, 3)
    rng, theta, step, drawn = np.random.default_rng(0), prior(3)[0], 0.3, []
    for _ in range(300):
        theta, step = sample(data, theta, 3, step, rng)
        drawn.append(theta)
    center, width = prior(3)
    np.testing.assert_allclose(np.mean(drawn, 0)[:4], center[:4], atol=0.6)
    np.testing.assert_allclose(np.std(drawn, 0)[:4], width[:4], rtol=0.35)


def test_it_interpolates_and_returns_to_the_mean_with_its_prior_deviation() -> None:
    Z, y = _data(40)
    surrogate = _fit(Z, 100 + 10 * y)
    mean, std = surrogate.predict(Z)
    np.testing.assert_allclose(mean, 100 + 10 * y, atol=0.5)
    means, variances = surrogate.members(np.full((1, 4), 1e6))
    np.testing.assert_allclose(variances[:, 0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(means[:, 0], [theta[-1] for theta in surrogate.hyperparameters.thetas], atol=1e-9)
    assert surrogate.predict(np.full((1, 4), 1e6))[1][0] >= surrogate.scale > 5 * std.max()


def test_members_are_averaged_as_a_mixture() -> None:
    Z, y = _data(15)
    surrogate = _fit(Z, y)
    with torch.no_grad():
        theirs = surrogate.model.posterior(torch.from_numpy(Z[:4]).unsqueeze(-2))
    mean, std = surrogate.predict(Z[:4])
    np.testing.assert_allclose(
        mean, surrogate.location + surrogate.scale * theirs.mixture_mean.flatten().numpy(), atol=1e-6
    )
    np.testing.assert_allclose(
        std, surrogate.scale * theirs.mixture_variance.flatten().sqrt().numpy(), rtol=1e-2, atol=1e-4
    )


def test_known_noise_pulls_less() -> None:
    Z = np.array([[0.0] * 4, [0.0] * 4])
    start = _values(np.array([0.0, 0.0, 0.0, math.log(1e-4), 0.0]))
    mean = _fit(Z, np.array([0.0, 1.0]), np.array([0.0, 100.0]), start=start, refit=False).predict(Z[:1])[0]
    assert mean[0] == pytest.approx(0.0, abs=0.01)


def test_two_architectures_without_a_parameter_do_not_differ_in_it() -> None:
    space = SearchSpace({"block": Categorical(["conv", "mlp"]), "x": Float(0, 1, when={"block": ["conv"]})})
    encoding = Encoding(space.nodes)
    rows = np.vstack(
        [encoding.encode(f) for f in ({"block": "mlp"}, {"block": "conv", "x": 0.2}, {"block": "conv", "x": 0.9})]
    )
    G = len(encoding.group_names)
    values = _values(np.append(np.full(G, math.log(0.5)), [math.log(1e-4), 0.0]), names=encoding.group_names)
    Z = encoding.embed(rows)
    model = build(Data(Z, np.zeros(3), np.full(3, 1e-6), encoding.groups, G), values)
    K = model.covar_module(torch.from_numpy(np.vstack([Z, Z[:1]]))).to_dense()[0].numpy()
    assert K[0, 3] == pytest.approx(1.0)
    assert K[1, 2] < 0.9 and K[0, 1] < 0.9


def test_only_what_matters_gets_a_short_lengthscale() -> None:
    Z = _data(60, seed=3)[0]
    a, b, c = np.exp(_fit(Z, np.sin(6 * Z[:, 0])).hyperparameters.thetas[0][:3])
    assert a < 1.5 < 4 < min(b, c)


@pytest.mark.parametrize("y", [[3.0], [3.0, 3.0], [0.0] * 5, [1e12, -1e12, 0.0], [1e-9, 2e-9]])
def test_strange_outcomes_have_finite_predictions(y: list[float]) -> None:
    Z, _ = _data(len(y))
    mean, std = _fit(Z, np.array(y)).predict(Z)
    assert np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()


def test_not_finite_is_refused() -> None:
    Z = _data(3)[0]
    with pytest.raises(SearchError, match="finite"):
        _fit(Z, np.array([1.0, np.nan, 0.0]))


def test_hyperparameters_survive_json_and_new_names() -> None:
    Z, y = _data(20)
    fitted = _fit(Z, y).hyperparameters
    assert Hyperparameters.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    thetas = fitted.named(["c", "new", "a"])
    np.testing.assert_array_equal(thetas[:, [2, 0, 3, 4]], np.array(fitted.thetas)[:, [0, 2, 3, 4]])
    assert (thetas[:, 1] == prior(3)[0][1]).all()
