"""The Gaussian process against GPyTorch's own likelihood and gradient, and on cases with a known answer."""

from __future__ import annotations

import math

import gpytorch
import numpy as np
import pytest
import torch

from lightning_autoarch.errors import SearchError
from lightning_autoarch.search.encoding import Encoding
from lightning_autoarch.search.space import Categorical, Float, SearchSpace
from lightning_autoarch.search.surrogate import Hyperparameters, build, fit, loss_and_gradient

GROUPS = np.array([0, 1, 1, 2])
NAMES = ["a", "b", "c"]


def _data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    Z = rng.random((n, 4))
    return Z, np.sin(3 * Z[:, 0]) + 0.1 * Z[:, 1]


def _values(theta: np.ndarray) -> Hyperparameters:
    lengthscales = dict(zip(NAMES, np.exp(theta[:3]).tolist(), strict=True))
    return Hyperparameters(lengthscales, math.exp(theta[3]), float(theta[4]))


def test_loss_differs_from_gpytorch_by_the_prior_alone() -> None:
    Z, y = _data(12)
    noise = np.full(12, 1e-2)
    differences = []
    for theta in (np.array([0.1, -0.3, 1.0, -3.0, 0.2]), np.array([1.1, 0.5, -1.0, -1.0, -0.4])):
        model = build(Z, y, noise, GROUPS, _values(theta)).train()
        mll = gpytorch.ExactMarginalLogLikelihood(model.likelihood, model)
        theirs = -mll(model(*model.train_inputs), model.train_targets).item()
        prior = np.append((theta[:3] - math.sqrt(2) - math.log(3) / 2) / math.sqrt(3), theta[3] + 4.0)
        differences.append(loss_and_gradient(theta, Z, y, noise, GROUPS)[0] - theirs - 0.5 * (prior**2).sum() / 12)
    assert differences[0] == pytest.approx(-0.5 * math.log(2 * math.pi), abs=1e-9)
    assert differences[1] == pytest.approx(differences[0], abs=1e-9)


def test_gradient_is_that_of_finite_differences() -> None:
    Z, y = _data(9)
    theta, noise = np.array([0.1, -0.3, 0.7, -3.0, 0.2]), np.linspace(1e-3, 1e-1, 9)
    gradient = loss_and_gradient(theta, Z, y, noise, GROUPS)[1]
    for i in range(5):
        step = np.eye(5)[i] * 1e-6
        ends = [loss_and_gradient(theta + s * step, Z, y, noise, GROUPS)[0] for s in (1, -1)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


def test_it_interpolates_and_returns_to_the_mean_with_its_prior_deviation() -> None:
    Z, y = _data(40)
    surrogate = fit(Z, 100 + 10 * y, np.zeros(40), GROUPS, NAMES)
    mean, std = surrogate.predict(Z)
    np.testing.assert_allclose(mean, 100 + 10 * y, atol=0.5)
    far_mean, far_std = surrogate.predict(np.full((1, 4), 1e4))
    assert far_std[0] == pytest.approx(surrogate.scale, rel=1e-6)
    assert far_std[0] > 5 * std.max()
    assert far_mean[0] == pytest.approx(surrogate.location + surrogate.scale * surrogate.hyperparameters.mean)


def test_known_noise_pulls_less() -> None:
    Z = np.array([[0.0] * 4, [0.0] * 4])
    start = Hyperparameters(dict.fromkeys(NAMES, 1.0), 1e-4, 0.0)
    mean = fit(Z, np.array([0.0, 1.0]), np.array([0.0, 100.0]), GROUPS, NAMES, start, iterations=0).predict(Z[:1])[0]
    assert mean[0] == pytest.approx(0.0, abs=0.01)


def test_two_architectures_without_a_parameter_do_not_differ_in_it() -> None:
    space = SearchSpace({"block": Categorical(["conv", "mlp"]), "x": Float(0, 1, when={"block": ["conv"]})})
    encoding = Encoding(space.nodes)
    rows = np.vstack([encoding.encode(f) for f in ({"block": "mlp"}, {"block": "conv", "x": 0.2}, {"block": "conv", "x": 0.9})])
    values = Hyperparameters(dict.fromkeys(encoding.group_names, 0.5), 1e-4, 0.0)
    Z = encoding.embed(rows)
    model = build(Z, np.zeros(3), np.full(3, 1e-6), encoding.groups, values)
    K = model.covar_module(torch.from_numpy(np.vstack([Z, Z[:1]]))).to_dense().detach().numpy()
    assert K[0, 3] == pytest.approx(1.0)
    assert K[1, 2] < 0.9 and K[0, 1] < 0.9


def test_only_what_matters_gets_a_short_lengthscale() -> None:
    Z, y = _data(60, seed=3)
    lengthscales = fit(Z, np.sin(6 * Z[:, 0]), np.zeros(60), GROUPS, NAMES).hyperparameters.lengthscales
    assert lengthscales["a"] < 1.5 < 4 < min(lengthscales["b"], lengthscales["c"])


@pytest.mark.parametrize("y", [[3.0], [3.0, 3.0], [0.0] * 5, [1e12, -1e12, 0.0], [1e-9, 2e-9]])
def test_strange_outcomes_have_finite_predictions(y: list[float]) -> None:
    Z, _ = _data(len(y))
    mean, std = fit(Z, np.array(y), np.zeros(len(y)), GROUPS, NAMES).predict(Z)
    assert np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()


def test_not_finite_is_refused() -> None:
    Z, y = _data(3)
    with pytest.raises(SearchError, match="finite"):
        fit(Z, np.array([1.0, np.nan, 0.0]), np.zeros(3), GROUPS, NAMES)


def test_hyperparameters_survive_json_and_new_names() -> None:
    import json

    Z, y = _data(20)
    fitted = fit(Z, y, np.zeros(20), GROUPS, NAMES).hyperparameters
    assert Hyperparameters.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    fit(Z, y, np.zeros(20), GROUPS, ["a", "new", "c"], start=fitted)
