"""Masks of whole slices: how many, which of equals, of one tensor or of all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from weight_lists import DTYPES, INF, LAYOUTS, NAN, few_values, normal

from lightning_autoarch.prune import BitMask, group_masks, group_norms


def rows(mask: BitMask, dim: int = 0) -> list[int]:
    """1 where a slice stays; every slice stays or goes as a whole."""
    slices = mask.unpack().movedim(dim, 0).flatten(1)
    assert torch.equal(slices.all(1), slices.any(1))
    return slices.all(1).int().tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_norm_goes(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[3.0, -4.0], [0.0, 6.0], [1.0, -1.0], [-5.5, 0.0]], dtype=dtype)
    assert rows(group_masks([tensor], 0.5)[0]) == [0, 1, 0, 1]
    assert rows(group_masks([tensor], 0.5, p=1)[0]) == [1, 1, 0, 0]
    assert rows(group_masks([tensor], 0.5, dim=1)[0], 1) == [0, 1]
    assert rows(group_masks([tensor], k=3)[0]) == [0, 1, 0, 0]


@pytest.mark.parametrize("options", [{"amount": a} for a in (0, 0.0, 0.24, 0.5, 0.76, 1, 1.0)] + [{"k": 0}, {"k": 7}])
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_exactly_so_many_and_of_equals_the_first_stay(options: dict[str, float], scope: str) -> None:
    tensors = [torch.ones(7, 3), torch.ones(10, 2)]
    masks = group_masks(tensors, **options, scope=scope)  # type: ignore[arg-type]
    kept = [rows(mask) for mask in masks]
    for groups in [kept[0] + kept[1]] if scope == "global" else kept:
        gone = options["k"] if "k" in options else round(options["amount"] * len(groups))
        assert groups == [1] * (len(groups) - gone) + [0] * gone


def test_scopes_differ() -> None:
    tensors = [torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0], [20.0]])]
    assert [rows(mask) for mask in group_masks(tensors, 0.5)] == [[0, 0], [1, 1]]
    assert [rows(mask) for mask in group_masks(tensors, 0.5, scope="tensor")] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -4])
def test_against_a_sort_of_the_norms(dim: int) -> None:
    for maker in (normal, few_values):
        tensors = [maker(6, 5, 4, 3), maker(7, 8, 3, 2, seed=1)]
        norms: list[Tensor] = group_norms(tensors, 2, dim)
        flat = torch.cat(norms).tolist()
        order = sorted(range(len(flat)), key=lambda i: (flat[i], -i))
        masks = group_masks(tensors, 0.4, dim=dim)
        kept = [i for i, one in enumerate(rows(masks[0], dim) + rows(masks[1], dim)) if one]
        assert kept == sorted(order[round(0.4 * len(flat)) :])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    tensor = normal(6, 5, 4, 3)
    for dim in range(4):
        assert group_masks([LAYOUTS[layout](tensor)], 0.5, dim=dim) == group_masks([tensor], 0.5, dim=dim)


def test_tied_infinite_and_empty() -> None:
    tensor = torch.tensor([[INF, 1.0], [1.0, 1.0], [2.0, -INF]])
    masks = group_masks([tensor, tensor], k=2)
    assert masks[0] is masks[1] and rows(masks[0]) == [1, 0, 0]
    assert group_masks([], 0.5) == []
    (mask,) = group_masks([torch.empty(0, 3)], 0.5)
    assert mask.shape == (0, 3)
    (mask,) = group_masks([torch.empty(3, 0)], k=1)  # three groups of nothing
    assert mask.shape == (3, 0)


@pytest.mark.parametrize(
    ("tensor", "options", "message"),
    [
        (torch.ones(4, 2), {"amount": 1.5}, r"Expected `amount` in \[0, 1\], got 1.5\."),
        (torch.ones(4, 2), {"amount": 3}, r"in \[0, 1\], got 3: pass `k=3` for that many slices"),
        (torch.ones(4, 2), {"amount": -1}, r"Expected `amount` in \[0, 1\], got -1\."),
        (torch.ones(4, 2), {"amount": [0.5, 2], "scope": "tensor"}, "one of `amount` for each of 1 tensors, got 2"),
        (torch.ones(4, 2), {"k": 5}, r"Expected `k` in \[0, 4\], the number of slices, got 5"),
        (torch.ones(4, 2), {"k": [5], "scope": "tensor"}, r"Expected `k` in \[0, 4\], the number of slices"),
        (torch.ones(4, 2), {"k": 1, "amount": 1}, "Expected exactly one of `amount` and `k`"),
        (torch.ones(4, 2), {}, "Expected exactly one of `amount` and `k`"),
        (torch.ones(4, 2), {"amount": 1, "p": 3}, "Expected `p` to be 1 or 2, got 3"),
        (torch.ones(4, 2), {"amount": 1, "dim": 2}, "to have a dimension 2"),
        (torch.ones(()), {"amount": 1}, "to have a dimension 0"),
        (torch.tensor([[NAN], [1.0]]), {"amount": 1}, r"tensors\[0\]"),
        (torch.ones(4, 2), {"amount": 1, "scope": "all"}, "Expected `scope` to be 'global' or 'tensor', got 'all'"),
    ],
    ids=str,
)
def test_bad_input(tensor: Tensor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_masks([tensor], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [True, 2.0, "2", [1]])
def test_k_of_another_type(k: object) -> None:
    with pytest.raises(TypeError, match="Expected `k` an int"):
        group_masks([torch.ones(4, 2)], k=k)  # type: ignore[arg-type]


def test_one_amount_for_each_tensor() -> None:
    a, b = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([[1.0], [2.0]])
    expected = [[0, 1, 1, 1], [0, 0]]
    assert [rows(mask) for mask in group_masks([a, b], [0.25, 1], scope="tensor")] == expected
    assert [rows(mask) for mask in group_masks([a, b], k=[1, 2], scope="tensor")] == expected
    assert [rows(mask) for mask in group_masks([a, b, a], k=[1, 2, 1], scope="tensor")] == [*expected, expected[0]]
    with pytest.raises(ValueError, match=r"Expected equal `k` for tied tensors, got another for tensors\[2\]"):
        group_masks([a, b, a], k=[1, 2, 2], scope="tensor")


def test_a_nan_behind_tied_tensors_is_named() -> None:
    tied = torch.ones(4, 2)
    for scope in ("global", "tensor"):
        with pytest.raises(ValueError, match=r"NaN in tensors\[2\]"):
            group_masks([tied, tied, torch.full((2, 2), NAN)], 0.5, scope=scope)


@pytest.mark.parametrize("amount", [True, "0.5", [0.5]])
def test_amount_of_another_type(amount: object) -> None:
    with pytest.raises(TypeError, match="amount"):
        group_masks([torch.ones(4, 2)], amount)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_against_the_cpu(dtype: torch.dtype) -> None:
    for maker in (normal, few_values):
        tensors = [maker(64, 33, dtype=dtype), maker(65, 7, 5, dtype=dtype)]
        for p, dim in [(1, 0), (2, 1), (2, -1)]:
            there = group_masks([t.cuda() for t in tensors], 0.3, p, dim)
            assert [mask.to("cpu") for mask in there] == group_masks(tensors, 0.3, p, dim)
