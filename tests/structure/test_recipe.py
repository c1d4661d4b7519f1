"""Recipes: a fresh module takes the shapes of a resized one, through JSON and without a trace."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from channel_nets import CONVOLUTIONAL, SEQUENTIAL, Residual, call, half, randomised
from torch import nn

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.groups import channel_groups
from lightning_autoarch.structure.recipe import apply_recipe_, chain_recipes, recipe_of
from lightning_autoarch.structure.widen import widen_

CASES = CONVOLUTIONAL | SEQUENTIAL


def halved_(module: nn.Module, inputs: object, seed: int) -> dict[str, Any]:
    groups = channel_groups(module, inputs)
    keep = {group.name: half(group, seed) for group in groups if group.fixed is None}
    return recipe_of(module, remove_channels_(module, inputs, keep))


@pytest.mark.parametrize("name", CASES)
def test_state_dict_loads_after_the_recipe(name: str) -> None:
    torch.manual_seed(0)
    build, sample = CASES[name]
    module, fresh, inputs = randomised(build()).eval(), build().eval(), sample()
    recipe = json.loads(json.dumps(halved_(module, inputs, 0)))
    apply_recipe_(fresh, recipe)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(call(fresh, inputs), call(module, inputs))
    assert [type(m) for m in fresh.modules()] == [type(m) for m in module.modules()]
    assert repr(fresh) == repr(module)


def test_two_removals_are_one_recipe() -> None:
    torch.manual_seed(0)
    module, inputs = Residual(16).eval(), torch.randn(2, 3, 6, 6)
    fresh = Residual(16).eval()
    fresh.load_state_dict(module.state_dict())
    first, second = halved_(module, inputs, 0), halved_(module, inputs, 1)
    apply_recipe_(fresh, chain_recipes(first, second))
    for name, tensor in module.state_dict().items():  # the indices too: the fresh module had the same weights
        assert torch.equal(fresh.state_dict()[name], tensor), name
    with pytest.raises(StructureError, match="in the second"):
        chain_recipes(first, first)


def test_widened_shapes() -> None:
    module, fresh, inputs = Residual(), Residual(), torch.randn(2, 3, 6, 6)
    apply_recipe_(fresh, recipe_of(module, widen_(module, inputs, {"stem.weight": 11})))
    fresh.load_state_dict(module.state_dict())
    assert fresh.stem.out_channels == 11


def test_compact() -> None:
    module, inputs = Residual(), torch.randn(2, 3, 6, 6)
    recipe = recipe_of(module, remove_channels_(module, inputs, {"stem.weight": [0, 1, 2, 5, 7]}))
    assert recipe["tensors"]["stem.weight"] == {"shape": [8, 3, 3, 3], "index": {"0": [[0, 3], [5, 6], [7, 8]]}}
    assert recipe["attributes"]["stem"] == {"out_channels": 5}


def broken(change: Any) -> dict[str, Any]:
    module, inputs = Residual(), torch.randn(2, 3, 6, 6)
    recipe = recipe_of(module, remove_channels_(module, inputs, {"stem.weight": [0, 1]}))
    change(recipe)
    return recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("tensors"), "expected `tensors` to be there, got nothing"),
        (lambda r: r.update(format=2), "has format 2, but this version"),
        (lambda r: r["tensors"].update({"stem.wight": r["tensors"]["stem.weight"]}), "Did you mean `stem.weight`"),
        (lambda r: r["tensors"]["stem.weight"].update(shape=[9, 3, 3, 3]), "Expected `stem.weight` of shape"),
        (
            lambda r: r["tensors"]["stem.weight"].update(index={"0": [[0, 99]]}),
            r"not well formed: expected ranges in \[0, 8\)",
        ),
        (lambda r: r["tensors"]["stem.weight"].update(index={"0": [[-3, 2]]}), "not well formed"),
        (lambda r: r["tensors"]["stem.weight"].update(index={"7": [[0, 1]]}), "has no dimension '7'"),
        (lambda r: r["tensors"]["stem.weight"].update(index={"0": [[0, 8]] * 65}), "more than 64 times as large"),
        (lambda r: r["tensors"]["stem.weight"].update(shape=[10**12, 3, 3, 3]), "Expected `stem.weight` of shape"),
        (lambda r: r["tensors"]["stem.weight"].update(index=3), "not well formed"),
        (lambda r: r["attributes"].update({"steam": {"out_channels": 1}}), "`steam` that the module lacks"),
        (lambda r: r["attributes"]["stem"].update(forward=1), "to be a size"),
        (lambda r: r["attributes"]["stem"].update(out_channels="rm"), "`attributes.stem.out_channels` to be a list"),
        (lambda r: r["attributes"]["stem"].update(out_channels=10**9), "at most 64 times 8 for `stem.out_channels`"),
    ],
)
def test_other_recipes_change_nothing(change: Any, message: str) -> None:
    fresh = Residual()
    before, shown = {k: v.clone() for k, v in fresh.state_dict().items()}, repr(fresh)
    with pytest.raises(StructureError, match=message):
        apply_recipe_(fresh, broken(change))
    assert repr(fresh) == shown
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())
