"""No target is emptied: the floors, the exact total, and the plain comparison where no floor is reached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_autoarch.prune.allocation import counts, floors
from lightning_autoarch.prune.magnitude import magnitude_masks
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.mask_updates import exchange, prune_further, smallest_above_floors
from lightning_autoarch.prune.masked import MaskedWeights


def layers(*scales: float, size: int = 100) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"w{i}": scale * torch.rand(size, generator=generator).add(0.1) for i, scale in enumerate(scales)}


def kept(masks: list[BitMask]) -> list[int]:
    return [mask.count() for mask in masks]


def test_a_layer_of_small_weights_keeps_its_largest() -> None:
    weights = MaskedWeights(layers(1e-3, 1.0, 1.0))
    masks = prune_further(weights, 0.8, "global")
    assert masks[0].count() == 2  # a tenth of the 20 of scope "layer"
    assert sum(kept(masks)) == 60  # exact
    top = weights.parameters[0].abs().topk(2).indices
    assert set(masks[0].unpack().nonzero().flatten().tolist()) == set(top.tolist())
    rest = magnitude_masks(weights.parameters[1:], k=142)
    assert masks[1:] == rest


def test_without_a_floor_it_is_emptied() -> None:
    weights = MaskedWeights(layers(1e-3, 1.0, 1.0))
    assert kept(prune_further(weights, 0.8, "global", floor=0.0))[0] == 0


def test_where_no_floor_is_reached_nothing_changes() -> None:
    weights = MaskedWeights(layers(0.8, 1.0, 1.2))
    assert prune_further(weights, 0.7, "global") == magnitude_masks(weights.parameters, sparsity=0.7)


def test_one_floor_after_another() -> None:
    tensors = [torch.tensor([1.0, 2, 3, 4]), torch.tensor([5.0, 6, 7, 8]), torch.tensor([9.0, 10, 11, 12])]
    weights = MaskedWeights({f"w{i}": tensor for i, tensor in enumerate(tensors)})
    masks = smallest_above_floors(weights, 8, None, [2, 1, 0])
    assert [mask.unpack().tolist() for mask in masks] == [
        [False, False, True, True],
        [False, False, False, True],
        [False, False, False, True],
    ]


def test_what_is_pruned_already_stays_pruned() -> None:
    given = [BitMask.zeros((100,)), BitMask.ones((100,)), BitMask.ones((100,))]
    weights = MaskedWeights(layers(1e-3, 1.0, 1.0), dict(zip(("w0", "w1", "w2"), given, strict=True)))
    masks = prune_further(weights, 0.8, "global")
    assert kept(masks)[0] == 0 and sum(kept(masks)) == 60


@pytest.mark.parametrize("scope", ["global", "layer", "erk", "lamp", {"w0": 0.9, "w1": 0.9, "w2": 0.9}])
def test_rounding_empties_nothing(scope: object) -> None:
    weights = MaskedWeights(layers(0.1, 1.0, 1.0, size=4))
    masks = prune_further(weights, 0.7 if scope in ("global", "lamp") else 0.9, scope, final=0.9)  # type: ignore
    assert min(kept(masks)) >= 1


def test_counts_keep_one_and_what_is_pruned() -> None:
    assert counts([4, 4, 0, 8], [0.9, 0.9, 0.9, 0.9], [0, 4, 0, 0], [0, 0, 0, 2]) == [3, 4, 0, 6]


def test_too_few_weights_for_the_floors() -> None:
    assert floors([100, 100], [0, 0], 0.9, 0.1) == [1, 1]
    assert floors([1000, 1000], [0, 0], 0.9, 0.5) == [50, 50]
    assert floors([2] * 10, [0] * 10, 0.9, 0.1) == [0] * 10  # 2 are kept of 10 targets
    assert floors([2] * 10, [0] * 9 + [2], 0.9, 0.1) == [0] * 9 + [2]
    assert floors([0, 10], [0, 0], 0.5, 0.1) == [0, 1]


def test_an_exchange_leaves_one() -> None:
    weight = torch.tensor([3.0, 0.0, 0.0, 0.0])
    weights = MaskedWeights({"w": weight}, {"w": BitMask.pack(weight != 0)})
    assert exchange(weights, 1.0, [torch.ones(4)]) == weights.masks


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_an_exchange_leaves_one_in_each_slice_of_a_norm(fraction: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator)
    keep = torch.rand(6, 8, generator=generator) < 0.4
    keep[:, 0] = True
    weights = MaskedWeights({"w": weight}, {"w": BitMask.pack(keep)}, {"w": (1,)})
    weights.apply_()
    (mask,) = exchange(weights, fraction, [torch.rand(6, 8, generator=generator)])
    assert mask.count() == int(keep.sum())
    assert ((weight != 0) & mask.unpack()).any(1).all()  # of those that are not 0
