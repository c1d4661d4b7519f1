"""Rows and embeddings: round trips, activity, the groups of like parameters."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lightning_autoarch.search.encoding import Column, Encoding
from lightning_autoarch.search.parameters import Categorical, Float, Int, Repeat
from lightning_autoarch.search.space import SearchSpace

SPACE = SearchSpace(
    {
        "layers": Repeat(1, 4, {"width": Int(16, 512, log=True), "act": Categorical(["relu", "gelu"])}),
        "block": Categorical(["conv", "mlp"]),
        "kernel": Categorical([3, 5, 7], when={"block": ["conv"]}),
        "dropout": Float(0.0, 0.5),
        "lr": Float(1e-4, 1e-1, log=True),
        "heads": Int(2, 8, step=2),
        "one": Int(3, 3),
    }
)


def test_random_rows_are_points_of_the_space_and_come_back() -> None:
    encoding, rng = Encoding(SPACE.nodes), np.random.default_rng(0)
    for row in encoding.random(200, rng):
        flat = encoding.decode(row)
        assert SPACE.flatten(SPACE.architecture(flat)) == flat
        again = encoding.encode(flat)[0]
        np.testing.assert_allclose(again, row, atol=1e-12)


def test_mutants_and_crosses_are_points_of_the_space_and_differ() -> None:
    encoding, rng = Encoding(SPACE.nodes), np.random.default_rng(1)
    rows = encoding.random(100, rng)
    for scale in (0.2, 0.01):
        mutants = encoding.mutate(rows, scale, rng)
        assert all(encoding.decode(a) != encoding.decode(b) for a, b in zip(rows, mutants, strict=True))
        for row in np.vstack([mutants, encoding.cross(rows, rows[::-1], rng)]):
            SPACE.flatten(SPACE.architecture(encoding.decode(row)))


def test_an_inactive_parameter_has_no_influence_on_the_embedding() -> None:
    encoding = Encoding(SPACE.nodes)
    flat = {"layers.n": 1, "layers.0.width": 32, "layers.0.act": "relu", "block": "mlp"}
    rest = {"dropout": 0.1, "lr": 1e-3, "heads": 4, "one": 3}
    with_leftover = encoding.repair(
        encoding.encode({**flat, **rest, "kernel": 7, "layers.3.width": 99}), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(encoding.embed(with_leftover), encoding.embed(encoding.encode({**flat, **rest})))


def test_two_choices_are_one_apart_and_counts_are_shares() -> None:
    space = SearchSpace({f"edge{i}": ["a", "b", "c"] for i in range(4)})
    encoding = Encoding(space.nodes)
    rows = np.array([[0.0, 0, 1, 2], [0.0, 0, 2, 2]])
    Z = encoding.embed(rows)
    assert encoding.group_names[4:] == [f"edge0 ... edge3: count {i}" for i in range(3)]
    assert np.square(Z[0, :12] - Z[1, :12]).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(Z[:, 12:], [[0.5, 0.25, 0.25], [0.5, 0.0, 0.5]])


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (IntDistribution(1, 9, step=4), {1, 5, 9}),
        (IntDistribution(1, 4, log=True), {1, 2, 3, 4}),
        (CategoricalDistribution([None, True, "x"]), {None, True, "x"}),
        (FloatDistribution(0.0, 1.0, step=0.5), {0.0, 0.5, 1.0}),
        (FloatDistribution(2.0, 2.0), {2.0}),
        (IntDistribution(7, 7), {7}),
    ],
)
def test_columns_draw_and_move_over_all_values(distribution: object, values: set[object]) -> None:
    column, rng = Column(distribution), np.random.default_rng(0)  # type: ignore[arg-type]
    codes = column.draw(300, rng)
    assert {column.value(code) for code in codes} == values
    assert {column.value(code) for code in column.move(codes, 0.2, rng)} <= values
    assert all(column.value(column.code(value)) == value for value in values)
