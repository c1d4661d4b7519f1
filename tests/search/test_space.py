"""Spaces: the two views of a point, what is active when, and every way to get one wrong."""

from __future__ import annotations

import enum
import functools
import json
import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_autoarch import Categorical, Float, Int, Repeat, SearchSpace, SpaceError
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.encoding import Encoding
from lightning_autoarch.search.space import architecture_key


class Act(enum.StrEnum):
    """Equal to its value as a string, and yet another object."""

    RELU = "relu"
    TANH = "tanh"


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


class TestChoicesOfAnyKind:
    CHOICES = ([64, 32], (3, 5), {"depth": 2}, Act.RELU, nn.ReLU, functools.partial(nn.LeakyReLU, 0.1), math.sqrt, None)

    def test_objects_for_the_module_labels_for_the_study_and_json_for_the_ledger(self) -> None:
        space = SearchSpace({"a": Categorical(self.CHOICES)})
        labels = (
            "[64, 32]", "[3, 5]", '{"depth": 2}', "RELU", "torch.nn.ReLU", "partial(torch.nn.LeakyReLU, 0.1)",
            "math.sqrt", None,
        )  # fmt: skip
        assert space.nodes[0].distribution == optuna.distributions.CategoricalDistribution(labels)
        points = list(space.points())
        assert [point["a"] for point in points] == list(labels)
        found = [space.architecture(point)["a"] for point in points]
        assert [type(choice) for choice in found] == [type(choice) for choice in self.CHOICES]
        assert found[:5] == list(self.CHOICES[:5])
        assert found[3] is Act.RELU and found[4] is nn.ReLU and found[6] is math.sqrt
        assert found[5].args == (0.1,)
        assert [space.flatten({"a": choice}) for choice in self.CHOICES] == points
        stored = json.loads(json.dumps([written({"a": choice}) for choice in self.CHOICES]))
        assert [item["a"] for item in stored[:4]] == [[64, 32], [3, 5], {"depth": 2}, "RELU"]
        assert [space.flatten(item) for item in stored] == points
        restored = [space.restored(item)["a"] for item in stored]
        assert restored[1] == (3, 5)
        assert restored[3] is Act.RELU and restored[6] is math.sqrt

    def test_the_stored_space_is_json_and_holds_the_same_points(self) -> None:
        space = SearchSpace({"a": Categorical(self.CHOICES), "b": Int(1, 2, when={"a": [[64, 32], Act.RELU]})})
        stored = json.loads(json.dumps(space.to_dict()))
        assert space.differences(stored) == []
        assert list(SearchSpace(stored).points()) == list(space.points())
        assert SearchSpace(stored).to_dict() == stored

    def test_candidates_share_no_choice(self) -> None:
        sizes = [64, 32]
        space = SearchSpace({"sizes": [sizes, [16]]})
        first, second = (space.architecture({"sizes": "[64, 32]"}) for _ in range(2))
        first["sizes"].append(8)
        assert second["sizes"] == sizes == [64, 32]

    def test_a_member_is_found_by_its_value_too(self) -> None:
        space = SearchSpace({"act": Act})
        assert space.flatten({"act": "tanh"}) == space.flatten({"act": "TANH"}) == {"act": "TANH"}
        with pytest.raises(SpaceError, match=r"`act`: Expected one of \['RELU', 'TANH'\], got 'gelu'"):
            space.restored({"act": "gelu"})

    def test_conditions_on_objects(self) -> None:
        space = SearchSpace({"sizes": [[64, 32], [16]], "drop": Categorical([0.1], when={"sizes": [(64, 32)]})})
        assert list(space.points()) == [{"sizes": "[64, 32]", "drop": 0.1}, {"sizes": "[16]"}]

    def test_equal_architectures_have_one_key_in_either_form(self) -> None:
        architecture = {"act": Act.RELU, "sizes": (3, 5), "width": 4}
        assert architecture_key(architecture) == architecture_key(written(architecture))
        assert architecture_key({"width": 4, "act": "relu"}) == '{"act": "relu", "width": 4}'


class TestRepeatedValues:
    SPACES = (
        {"hidden": Repeat(1, 3, Int(8, 256)), "skip": Categorical([True], when={"hidden": [3]})},
        {
            "hidden": {"min": 1, "max": 3, "block": {"low": 8, "high": 256}},
            "skip": {"choices": [True], "when": {"hidden": [3]}},
        },
    )

    @pytest.mark.parametrize("given", SPACES)
    def test_a_list_of_plain_values(self, given: Any) -> None:
        space = SearchSpace(given)
        assert [node.name for node in space.nodes] == ["hidden.n", "hidden.0", "hidden.1", "hidden.2", "skip"]
        flat = {"hidden.n": 2, "hidden.0": 64, "hidden.1": 32}
        assert space.architecture(flat) == {"hidden": [64, 32]} == space.restored({"hidden": [64, 32]})
        assert space.flatten({"hidden": (64, 32)}) == flat
        assert space.flatten({"hidden": [9, 8, 8], "skip": True})["hidden.2"] == 8
        assert SearchSpace(space.to_dict()).nodes == space.nodes
        with pytest.raises(SpaceError, match=r"`hidden\.1` cannot be 7"):
            space.flatten({"hidden": [64, 7]})

    def test_positions_are_alike_for_the_surrogate(self) -> None:
        encoding = Encoding(SearchSpace(self.SPACES[0]).nodes)
        assert "hidden.0 ... hidden.2: mean" in encoding.group_names

    def test_choices_and_lists_of_lists(self) -> None:
        space = SearchSpace({"acts": Repeat(1, 2, [nn.ReLU, nn.Tanh]), "grid": Repeat(1, 2, Repeat(1, 2, Int(1, 9)))})
        architecture = {"acts": [nn.ReLU, nn.Tanh], "grid": [[1, 2], [3]]}
        flat = space.flatten(architecture)
        assert space.architecture(flat) == architecture == space.restored(written(architecture))
        assert flat["acts.1"] == "torch.nn.Tanh"
        assert flat["grid.0.1"] == 2

    def test_names_that_are_also_keys_stay_names(self) -> None:
        space = SearchSpace({"b": {"min": 1, "max": 1, "block": {"low": [1, 2], "high": [3]}}})
        assert space.architecture({"b.n": 1, "b.0.low": 1, "b.0.high": 3}) == {"b": [{"low": 1, "high": 3}]}
        assert SearchSpace(space.to_dict()).nodes == space.nodes


class TestFloatOnAGrid:
    SPACE = SearchSpace({"dropout": {"low": 0, "high": 0.65, "step": 0.1}})

    def test_values_are_those_that_a_person_writes(self) -> None:
        assert [point["dropout"] for point in self.SPACE.points()] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
        assert self.SPACE.cardinality() == 7
        assert self.SPACE.parameters["dropout"] == Float(0, 0.6, step=0.1)
        rng = np.random.default_rng(0)
        drawn = {self.SPACE.random(rng)["dropout"] for _ in range(100)}
        assert drawn == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6}

    def test_optuna_and_the_surrogate_keep_to_the_grid(self) -> None:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        values = {self.SPACE.suggest(study.ask())["dropout"] for _ in range(50)}
        encoding = Encoding(self.SPACE.nodes)
        rows = encoding.mutate(encoding.random(50, np.random.default_rng(0)), 0.01, np.random.default_rng(1))
        values |= {encoding.decode(row)["dropout"] for row in rows}
        assert values == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6}

    def test_off_the_grid(self) -> None:
        assert self.SPACE.flatten({"dropout": 0.1 + 0.2}) == {"dropout": 0.3}
        with pytest.raises(SpaceError, match=r"`dropout` cannot be 0\.25"):
            self.SPACE.flatten({"dropout": 0.25})

    def test_whole_bounds_with_a_step_that_is_none(self) -> None:
        parameters = SearchSpace({"a": {"low": 0, "high": 1, "step": "0.5"}, "b": {"low": 0, "high": 4, "step": 2}})
        assert list(parameters.parameters.values()) == [Float(0, 1, step=0.5), Int(0, 4, step=2)]


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
        ({"a": [[1, 2], (1, 2)]}, ["`a`", "distinct", "'[1, 2]'"]),
        ({"a": [Act.RELU, "RELU"]}, ["`a`", "distinct", "'RELU'"]),
        ({"a": [object()]}, ["`a`", "another process", "`__repr__`"]),
        ({"a": {"low": 0.0, "high": 1.0, "step": 0}}, ["`a`", "`step` > 0"]),
        ({"a": {"low": 0.1, "high": 1.0, "step": 0.1, "log": True}}, ["`a`", "no `step` with `log`"]),
        ({"l": {"min": 1, "max": 2, "block": {"low": 2, "high": 1}}}, ["`l[i]`", "`low` <= `high`"]),
        (
            {"l": {"min": 1, "max": 2, "block": {"choices": [1], "when": {"b": [1]}}}, "b": [1]},
            ["`l`", "to the Repeat"],
        ),
        ({"a": {"choices": [1], "when": {"b": [Act.RELU]}}, "b": [Act.TANH]}, ["`a`", "never has the value"]),
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
