"""The search for the best candidate: finds what it should, keeps to its budget, knows of running trials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import LogExpectedImprovement

from lightning_autoarch.search.acquisition import Problem, noisy_improvement, propose
from lightning_autoarch.search.acquisition import _screen as screen
from lightning_autoarch.search.encoding import Encoding
from lightning_autoarch.search.observations import Flat, Outcomes, flat_key
from lightning_autoarch.search.parameters import Categorical, Float
from lightning_autoarch.search.space import SearchSpace
from lightning_autoarch.search.surrogate import fit

SPACE = SearchSpace({"op": Categorical(["a", "b", "c"]), "x": Float(0, 1), "y": Float(0, 1, when={"op": ["a", "b"]})})


def _value(flat: Flat) -> float:
    return float(flat["op"] == "b") - (flat["x"] - 0.3) ** 2 - (flat.get("y", 1.0) - 0.7) ** 2


def _problem(n: int = 25, pending: int = 0, n_facts: int = 0) -> Problem:
    encoding, rng = Encoding(SPACE.nodes), np.random.default_rng(0)
    rows = encoding.random(n, rng)
    Y = np.array([_value(encoding.decode(row)) for row in rows])
    Z = np.hstack([encoding.embed(rows), np.tile(rows[:, [1]] - 0.5, n_facts)])
    names = [*encoding.group_names, *(f"fact {i}" for i in range(n_facts))]
    groups = np.concatenate([encoding.groups, len(encoding.group_names) + np.arange(n_facts)])
    waiting = np.hstack([encoding.embed(encoding.random(pending, rng)), np.zeros((pending, n_facts))])
    seen = frozenset(flat_key(encoding.decode(row)) for row in rows)
    surrogate = fit(Outcomes(Z, Y, np.zeros(n), groups, names), np.random.default_rng(0))
    return Problem(encoding, surrogate, rows, Z, waiting, n_facts, seen)


def _anything(flat: Flat) -> np.ndarray:
    return np.zeros(0)


def test_it_proposes_close_to_the_optimum() -> None:
    flat, _ = propose(_problem(), _anything, 64, np.random.default_rng(1)) or ({}, None)
    assert flat["op"] == "b" and abs(flat["x"] - 0.3) < 0.15 and abs(flat["y"] - 0.7) < 0.15


def test_one_generator_one_proposal() -> None:
    first, second = (propose(_problem(), _anything, 32, np.random.default_rng(7)) for _ in range(2))
    assert first is not None and second is not None and first[0] == second[0]


@pytest.mark.parametrize("budget", [1, 3, 20])
def test_the_budget_bounds_the_calls_and_no_architecture_is_asked_about_twice(budget: int) -> None:
    asked: list[Flat] = []

    def admit(flat: Flat) -> np.ndarray | None:
        asked.append(flat)
        return np.array([flat["x"] - 0.5]) if len(asked) % 2 else None

    assert propose(_problem(n_facts=1), admit, budget, np.random.default_rng(0)) is not None
    keys = [flat_key(flat) for flat in asked]
    assert len(keys) <= budget and len(set(keys)) == len(keys)
    assert not set(keys) & _problem().seen


def test_nothing_admitted_is_none() -> None:
    assert propose(_problem(), lambda flat: None, 16, np.random.default_rng(0)) is None


def test_the_screen_is_botorch_s_own_log_expected_improvement() -> None:
    problem = _problem()
    Z = problem.encoding.embed(problem.encoding.random(20, np.random.default_rng(3)))
    with torch.no_grad():
        best = problem.surrogate.members(problem.Z)[0].amax(-1, keepdim=True)
        theirs = LogExpectedImprovement(problem.surrogate.model, best)(torch.from_numpy(Z).unsqueeze(-2)).numpy()
    np.testing.assert_allclose(screen(problem)(Z), theirs, rtol=1e-4, atol=1e-4)


def test_a_running_trial_is_worth_less_to_both_acquisitions() -> None:
    Z = _best_candidate()[None]
    free, busy = _problem(), replace(_problem(), pending=Z)
    assert noisy_improvement(busy, Z, 0)[0] < noisy_improvement(free, Z, 0)[0] - 1.0
    assert screen(busy)(Z)[0] < screen(free)(Z)[0]  # what is believed keeps the fitted noise


def _best_candidate() -> np.ndarray:
    found = propose(_problem(), _anything, 32, np.random.default_rng(0))
    assert found is not None
    return found[1]


def test_random_state_and_default_dtype_are_left_alone() -> None:
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    propose(_problem(pending=2), _anything, 16, np.random.default_rng(0))
    assert torch.equal(before, torch.get_rng_state()) and torch.get_default_dtype() == torch.float32
    np.testing.assert_array_equal(numpy_before, np.random.get_state()[1])
