"""Spaces: the two views of a point, what is active when, and every way to get one wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_autoarch import Categorical, Float, Int, Repeat, SearchSpace, SpaceError

SPACE = SearchSpace(
    {
        "kernel": Categorical([3, 5, 7], when={"block": ["conv", "separable"]}),
        "block": Categorical(["conv", "separable", "mlp"]),
        "layers": Repeat(
            0,
            3,
            {"width": Int(16, 512, log=True), "act": ["relu", "gelu"], "slope": Float(0, 1, when={"act": ["gelu"]})},
        ),
        "step": Int(1, 10, step=4),
        "rate": Float(1e-4, 1e-1, log=True),
        "data.batch_size": [16, 32],
    }
)


@given(st.integers(0, 2**32 - 1))
def test_views_are_inverse(seed: int) -> None:
    flat = SPACE.random(np.random.default_rng(seed))
    architecture = SPACE.architecture(flat)
    assert SPACE.flatten(architecture) == flat
    assert ("kernel" in architecture) == (architecture["block"] != "mlp")
    assert len(architecture["layers"]) == flat["layers.n"]
    assert all(("slope" in layer) == (layer["act"] == "gelu") for layer in architecture["layers"])
    assert architecture["step"] in (1, 5, 9)
    assert 1e-4 <= architecture["rate"] <= 1e-1


def test_parents_come_first() -> None:
    names = [node.name for node in SPACE.nodes]
    assert names.index("block") < names.index("kernel")
    for node in SPACE.nodes:
        assert all(names.index(c.parent) < names.index(node.name) for c in node.conditions)


def test_suggest_asks_optuna_for_active_parameters_only() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        assert SPACE.flatten(SPACE.suggest(trial)) == trial.params


def test_distributions() -> None:
    by_name = {node.name: node.distribution for node in SPACE.nodes}
    assert by_name["layers.1.width"] == optuna.distributions.IntDistribution(16, 512, log=True)
    assert by_name["step"] == optuna.distributions.IntDistribution(1, 9, step=4)
    assert by_name["rate"] == optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
    assert by_name["kernel"] == optuna.distributions.CategoricalDistribution((3, 5, 7))


def test_points_of_a_finite_space() -> None:
    space = SearchSpace({"n": Repeat(0, 2, {"a": [1, 2]}), "b": Categorical(["x", "y"], when={"n": [2]})})
    points = list(space.points())
    assert len(points) == 1 + 2 + 4 * 2 == space.cardinality()
    assert len({str(sorted(p.items())) for p in points}) == 11
    assert all(space.flatten(space.architecture(p)) == p for p in points)
    assert SPACE.cardinality() == math.inf
    assert SearchSpace({f"p{i}": [0, 1, 2] for i in range(30)}).cardinality(limit=100) == math.inf


def test_compact_form_is_the_same_space() -> None:
    compact = {
        "width": {"low": 16, "high": 512, "log": True},
        "rate": {"low": "1e-4", "high": "1e-1", "log": True},  # what YAML 1.1 makes of 1e-4
        "act": {"choices": ["relu", "gelu"]},
        "norm": ["batch", "layer"],
        "layers": {"min": 1, "max": 2, "block": {"k": {"choices": [3, 5], "when": {"norm": ["batch"]}}}},
        "dropout": {"low": 0, "high": 0.5},
    }
    space = SearchSpace(compact)
    assert space.parameters["width"] == Int(16, 512, log=True)
    assert space.parameters["rate"] == Float(1e-4, 1e-1, log=True)
    assert space.parameters["norm"] == Categorical(["batch", "layer"])
    assert space.parameters["dropout"] == Float(0, 0.5)
    assert SearchSpace(space.to_dict()).nodes == space.nodes
    assert space.differences(space.to_dict()) == []


def test_differences_name_the_parameter() -> None:
    stored = SearchSpace({"a": Int(1, 2), "b": Int(1, 2)}).to_dict()
    lines = SearchSpace({"a": Int(1, 3), "c": Int(1, 2)}).differences(stored)
    assert [line.split(":")[0] for line in lines] == ["`a`", "`c`", "`b`"]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, ["at least one"]),
        ({"a b": [1]}, ["`a b`", "name of an argument"]),
        ({1: [1]}, ["`1`"]),
        ({"a": 5}, ["`a`", "5"]),
        ({"a": []}, ["`a`", "at least one value"]),
        ({"a": [1, 1]}, ["`a`", "distinct"]),
        ({"a": [1, True]}, ["`a`", "distinct"]),
        ({"a": [float("nan")]}, ["`a`", "finite"]),
        ({"a": [[1, 2]]}, ["`a`", "[1, 2]"]),
        ({"a": {}}, ["`a`", "low and high"]),
        ({"width": {"lwo": 1, "high": 2}}, ["`width`", "`lwo`", "Did you mean `low`"]),
        ({"a": {"chioces": [1]}}, ["`a`", "Did you mean `choices`"]),
        ({"a": {"low": 1}}, ["`a`", "needs `high`"]),
        ({"a": {"low": 2, "high": 1}}, ["`a`", "`low` <= `high`"]),
        ({"a": {"low": 0, "high": 1.5, "log": True}}, ["`a`", "> 0"]),
        ({"a": {"low": 0, "high": 8, "log": True}}, ["`a`", "> 0"]),
        ({"a": {"low": 1, "high": 8.0}}, ["`a`", "Int and Float"]),
        ({"a": {"low": 1, "high": 8, "log": True, "step": 2}}, ["`a`", "`step`"]),
        ({"a": {"low": 1, "high": 8, "step": 0}}, ["`a`", "`step`"]),
        ({"a": {"low": 0.0, "high": 1.0, "step": 0.1}}, ["`a`", "`step`", "Float"]),
        ({"a": {"low": 1, "high": float("inf")}}, ["`a`", "finite"]),
        ({"a": {"low": 1, "high": "x"}}, ["`a`", "'x'"]),
        ({"a": {"low": True, "high": 2}}, ["`a`", "True"]),
        ({"a": {"type": "integer", "low": 1, "high": 2}}, ["`a`", "Did you mean `int`"]),
        ({"l": {"min": 2, "max": 1, "block": {"w": [1, 2]}}}, ["`l`", "`min` <= `max`"]),
        ({"l": {"min": 1, "max": 2, "block": {}}}, ["`l`", "`block`"]),
        ({"l": {"min": 1, "max": 2, "block": {"w": {"low": 1, "hihg": 2}}}}, ["`l.w`", "Did you mean `high`"]),
        ({"l": {"min": 1, "max": 2, "block": {"data.w": [1]}}}, ["data.w"]),
        ({"a": {"choices": [1], "when": {"b": [1]}}}, ["`a`", "unknown parent `b`"]),
        ({"a": {"choices": [1], "when": {"b": [3]}}, "b": [1, 2]}, ["`a`", "never has the value 3"]),
        ({"a": {"choices": [1], "when": {"b": 1}}, "b": [1, 2]}, ["`a`", "list of values"]),
        ({"a": {"choices": [1], "when": {"b": [0.5]}}, "b": {"low": 0.0, "high": 1.0}}, ["`a`", "Float"]),
        (
            {"a": {"choices": [1], "when": {"b": [1]}}, "b": {"choices": [1], "when": {"a": [1]}}},
            ["circle", "a -> b -> a"],
        ),
        ({"a": {"choices": [1], "when": {"a": [1]}}}, ["circle"]),
    ],
)
def test_a_bad_space_is_named_in_two_lines_at_most(space: Any, words: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace(space)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 240
    assert "\n" not in message


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ({"blcok": "mlp"}, "Did you mean `block`"),
        ({"block": "mlp", "kernel": 3, "layers": [], "step": 1, "rate": 0.01, "data.batch_size": 16}, "not active"),
        ({"block": "mlp"}, "lacks"),
        ({"block": "mlp", "layers": [{"width": 5, "act": "relu"}]}, "cannot be 5"),
        ({"block": "mlp", "layers": {"width": 16}}, "list of mappings"),
        ({"block": "mlp", "layers": [{"width": 16, "act": "relu"}] * 4}, "cannot be 4"),
        ({"block": "conv", "kernel": 3, "layers": [], "step": 2}, "cannot be 2"),
    ],
)
def test_a_bad_architecture(architecture: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        SPACE.flatten(architecture)
