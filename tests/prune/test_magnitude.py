"""Exact magnitude selection: analytic cases, then numpy's sort as the oracle, then what surrounds a call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from weight_lists import DTYPES, INF, INTEGERS, LAYOUTS, NAN, bits, few_values, normal, random_bits, same_bits

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune import (
    BitMask,
    apply_masks_,
    density,
    group_masks,
    magnitude_masks,
    magnitude_threshold,
    prune_,
    regrow_masks,
    soft_threshold_,
)
from lightning_autoarch.prune.magnitude import MaskApplier

UNSIGNED = {8: np.uint64, 4: np.uint32, 2: np.uint16}


def kept(masks: list[BitMask]) -> list[list[object]]:
    return [mask.unpack().int().tolist() for mask in masks]


def keys(tensors: list[Tensor]) -> np.ndarray:
    """The bits with the sign cleared, of all tensors in one row."""
    row = torch.cat([bits(tensor).flatten() for tensor in tensors]).numpy()
    unsigned = row.view(UNSIGNED[row.itemsize])
    return unsigned & (np.iinfo(unsigned.dtype).max >> 1)


def oracle(tensors: list[Tensor], k: int) -> np.ndarray:
    """True where kept. Of the smallest keys first, and among equals of the highest index, k are removed."""
    flat = keys(tensors)
    keep = np.ones(flat.size, dtype=bool)
    keep[np.lexsort((-np.arange(flat.size), flat))[:k]] = False
    return keep


def oracle_large(tensors: list[Tensor], k: int) -> np.ndarray:
    """The same without a sort: np.partition finds the key, then equals are counted."""
    flat = keys(tensors)
    if k == 0:
        return np.ones(flat.size, dtype=bool)
    key = np.partition(flat, k - 1)[k - 1]
    equal = np.flatnonzero(flat == key)
    keep = flat > key
    keep[equal[: equal.size - (k - np.count_nonzero(flat < key))]] = True
    return keep


def row(masks: list[BitMask]) -> np.ndarray:
    return torch.cat([mask.unpack().flatten() for mask in masks]).numpy()


def check_pruning(tensors: list[Tensor], k: int, **options: object) -> None:
    """`prune_` against the oracle: masks, weights to the bit, and the threshold."""
    expected = oracle_large(tensors, k)
    before = [tensor.clone() for tensor in tensors]
    threshold = magnitude_threshold(tensors, k=k)
    masks = prune_(tensors, k=k, **options)  # type: ignore[arg-type]
    assert np.array_equal(row(masks), expected)
    for tensor, old, mask in zip(tensors, before, masks, strict=True):
        assert same_bits(tensor, torch.where(mask.unpack(), old, torch.zeros_like(old)))
    removed = keys(before)[~expected]
    largest = torch.from_numpy(removed.max(keepdims=True).view(f"i{removed.itemsize}")) if k else None
    assert threshold == (0.0 if largest is None else largest.view(tensors[0].dtype).item())


@pytest.mark.parametrize("dtype", DTYPES)
class TestOrder:
    def test_the_smallest_go(self, dtype: torch.dtype) -> None:
        tensors = [torch.tensor([3.0, -1.0], dtype=dtype), torch.tensor([[0.5], [-2.0]], dtype=dtype)]
        assert kept(magnitude_masks(tensors, sparsity=0.5)) == [[1, 0], [[0], [1]]]
        assert magnitude_threshold(tensors, sparsity=0.5) == 1.0

    def test_among_equals_the_lowest_index_stays(self, dtype: torch.dtype) -> None:
        tensors = [torch.tensor([1.0, -1.0, 1.0], dtype=dtype), torch.tensor([-1.0, 2.0, 1.0], dtype=dtype)]
        expected = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 0], [1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0],
                    [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]  # fmt: skip
        assert [row(magnitude_masks(tensors, k=k)).astype(int).tolist() for k in range(7)] == expected

    def test_zeros_of_both_signs_are_equal(self, dtype: torch.dtype) -> None:
        zeros = torch.tensor([-0.0, 0.0, -0.0, 0.0], dtype=dtype)
        assert kept(magnitude_masks([zeros], k=2)) == [[1, 1, 0, 0]]
        prune_([zeros], k=2)
        assert same_bits(zeros, torch.tensor([-0.0, 0.0, 0.0, 0.0], dtype=dtype))

    def test_infinity_is_largest(self, dtype: torch.dtype) -> None:
        tensor = torch.tensor([INF, torch.finfo(dtype).max, -INF, torch.finfo(dtype).min], dtype=dtype)
        assert kept(magnitude_masks([tensor], k=1)) == [[1, 1, 1, 0]]
        assert kept(magnitude_masks([tensor], k=3)) == [[1, 0, 0, 0]]
        assert magnitude_threshold([tensor], k=3) == INF

    @pytest.mark.parametrize("flush", [False, True])
    def test_denormals_are_numbers_also_when_flushed(self, dtype: torch.dtype, flush: bool) -> None:
        tensor = torch.tensor([2, 0, 3, 1], dtype=INTEGERS[dtype.itemsize]).view(dtype)
        torch.set_flush_denormal(flush)
        try:
            masks = [kept(magnitude_masks([tensor], k=k)) for k in (1, 2, 3)]
            prune_([tensor], k=2)
        finally:
            torch.set_flush_denormal(False)
        assert masks == [[[1, 0, 1, 1]], [[1, 0, 1, 0]], [[0, 0, 1, 0]]]
        assert bits(tensor).tolist() == [2, 0, 3, 0]

    def test_nan_is_an_error_that_names_the_tensor(self, dtype: torch.dtype) -> None:
        tensors = [normal(5, dtype=dtype), normal(3, dtype=dtype), normal(300, dtype=dtype)]
        tensors[2][-1] = -NAN
        before = [bits(tensor).clone() for tensor in tensors]
        for call, scope in itertools.product((magnitude_masks, prune_), ("global", "tensor")):
            with pytest.raises(ValueError, match=r"tensors\[2\]"):
                call(tensors, sparsity=0.5, scope=scope)  # type: ignore[operator]
        with pytest.raises(ValueError, match=r"tensors\[2\]"):
            magnitude_threshold(tensors, k=0)
        assert all(torch.equal(bits(t), b) for t, b in zip(tensors, before, strict=True))

    def test_nan_in_a_short_or_a_masked_block(self, dtype: torch.dtype) -> None:
        tensor = torch.tensor([NAN, *range(1, 150)], dtype=dtype)
        given = [BitMask.pack(torch.arange(150) % 7 != 1)]
        for call in (
            lambda: magnitude_masks([tensor[:2]], k=1),
            lambda: magnitude_masks([tensor], k=50, masks=given),
        ):
            with pytest.raises(ValueError, match=r"NaN in tensors\[0\]"):
                call()

    def test_nan_is_kept_when_asked(self, dtype: torch.dtype) -> None:
        tensor = torch.tensor([NAN, 1.0, INF, -NAN, 0.5], dtype=dtype)
        assert kept(magnitude_masks([tensor], k=2, nan="keep")) == [[1, 0, 1, 1, 0]]
        assert kept(magnitude_masks([tensor], k=3, nan="keep")) == [[1, 0, 0, 1, 0]]
        before = bits(tensor).clone()
        with pytest.raises(ValueError, match="4"):
            prune_([tensor], k=4, nan="keep")
        assert torch.equal(bits(tensor), before)

    def test_nan_that_is_pruned_already_is_no_candidate(self, dtype: torch.dtype) -> None:
        tensor = torch.tensor([NAN, 1.0, 2.0], dtype=dtype)
        given = [BitMask.pack(torch.tensor([False, True, True]))]
        assert kept(prune_([tensor], k=2, masks=given)) == [[0, 0, 1]]
        assert tensor.tolist() == [0.0, 0.0, 2.0]


class TestArguments:
    @pytest.mark.parametrize("sparsity", [0, 0.0, 0.3, 0.5, 0.7, 1, 1.0])
    def test_k_is_the_rounded_share(self, sparsity: float) -> None:
        for n in (1, 2, 3, 5, 10, 99):
            (mask,) = magnitude_masks([normal(n)], sparsity=sparsity)
            assert mask.numel - mask.count() == round(sparsity * n)

    @pytest.mark.parametrize("make", [np.float32, np.float64, np.array, torch.tensor, Fraction])
    def test_shares_of_any_kind(self, make: Callable[[float], Any]) -> None:
        tensors = [normal(3, 4), normal(8)]
        half = nn.Parameter(make(0.5)) if make is torch.tensor else make(0.5)
        expected = magnitude_masks(tensors, sparsity=0.5)
        assert magnitude_masks(tensors, sparsity=half) == expected
        assert magnitude_threshold(tensors, sparsity=half) == magnitude_threshold(tensors, sparsity=0.5)
        each = magnitude_masks(tensors, sparsity=[0.5, 0.25], scope="tensor")
        assert magnitude_masks(tensors, sparsity=[half, make(0.25)], scope="tensor") == each
        assert group_masks(tensors, half) == group_masks(tensors, 0.5)
        moved = tensors[0].clone()
        soft_threshold_([moved], half)
        assert torch.equal(moved, nn.functional.softshrink(tensors[0], 0.5))

    @pytest.mark.parametrize("make", [np.int64, np.uint8, np.array, torch.tensor])
    def test_counts_of_any_kind(self, make: Callable[[int], Any]) -> None:
        tensors = [normal(3, 4), normal(8)]
        assert magnitude_masks(tensors, k=make(7)) == magnitude_masks(tensors, k=7)
        each = magnitude_masks(tensors, k=[5, 2], scope="tensor")
        assert magnitude_masks(tensors, k=[make(5), make(2)], scope="tensor") == each
        assert group_masks(tensors, k=make(4)) == group_masks(tensors, k=4)

    def test_rows_of_numbers(self) -> None:
        tensors = [normal(3, 4), normal(8)]
        each = magnitude_masks(tensors, k=[6, 2], scope="tensor")
        for row in (np.array([6, 2]), torch.tensor([6, 2]), iter([6, 2])):
            assert magnitude_masks(tensors, k=row, scope="tensor") == each
        for row in (np.array([0.5, 0.25], dtype=np.float32), torch.tensor([0.5, 0.25])):
            assert magnitude_masks(tensors, sparsity=row, scope="tensor") == each

    def test_nothing_and_everything(self) -> None:
        tensors = [normal(3, 4), normal(5)]
        assert magnitude_threshold(tensors, k=0) == 0.0
        assert all(mask.count() == mask.numel for mask in magnitude_masks(tensors, k=0))
        prune_(tensors, sparsity=1.0)
        assert density(tensors) == 0.0

    def test_each_tensor_by_itself(self) -> None:
        tensors = [torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0, 30.0, 20.0, 40.0])]
        assert kept(magnitude_masks(tensors, sparsity=0.5)) == [[0, 0, 0, 0], [1, 1, 1, 1]]
        assert kept(magnitude_masks(tensors, sparsity=0.5, scope="tensor")) == [[0, 0, 1, 1], [0, 1, 0, 1]]
        assert kept(magnitude_masks(tensors, sparsity=[0.25, 1], scope="tensor")) == [[0, 1, 1, 1], [0, 0, 0, 0]]
        assert kept(magnitude_masks(tensors, k=[3, 0], scope="tensor")) == [[0, 0, 0, 1], [1, 1, 1, 1]]
        assert kept(prune_(tensors, k=1, scope="tensor")) == [[0, 1, 1, 1], [0, 1, 1, 1]]

    def test_one_tensor_may_have_one_amount(self) -> None:
        assert kept(magnitude_masks([torch.tensor([1.0, 2.0])], sparsity=[0.5], scope="tensor")) == [[0, 1]]
        assert kept(prune_([torch.tensor([1.0, 2.0])], k=[1], scope="tensor")) == [[0, 1]]

    def test_nothing_is_changed_when_a_later_tensor_has_too_few_numbers(self) -> None:
        tensors = [torch.tensor([1.0, 2.0]), torch.tensor([NAN, 3.0])]
        with pytest.raises(ValueError, match="2"):
            prune_(tensors, k=[1, 2], scope="tensor", nan="keep")
        assert tensors[0].tolist() == [1.0, 2.0] and tensors[1][1] == 3.0

    def test_scores_decide_instead_of_the_weights(self) -> None:
        weight, score = torch.tensor([1.0, 2.0, 3.0, -4.0]), torch.tensor([4.0, -3.0, 2.0, 1.0], dtype=torch.float64)
        assert kept(magnitude_masks([weight], k=2, scores=[score])) == [[1, 1, 0, 0]]
        assert magnitude_threshold([weight], k=2, scores=[score]) == 2.0
        prune_([weight], k=2, scores=[score])
        assert (weight.tolist(), score.tolist()) == ([1.0, 2.0, 0.0, 0.0], [4.0, -3.0, 2.0, 1.0])

    def test_nan_in_a_weight_does_not_matter_when_scores_decide(self) -> None:
        weight = torch.tensor([NAN, 1.0])
        prune_([weight], k=1, scores=[torch.tensor([1.0, 2.0])])
        assert weight.tolist() == [0.0, 1.0]

    def test_a_generator_of_parameters(self) -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        masks = prune_((p for p in net.parameters()), sparsity=0.5)
        apply_masks_(net.parameters(), (mask for mask in masks))
        assert [mask.shape for mask in masks] == [tuple(p.shape) for p in net.parameters()]
        assert sum(mask.count() for mask in masks) == 29

    @pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"k": 0}, {"sparsity": 0.5, "scope": "tensor"}], ids=str)
    def test_no_weights(self, options: dict[str, object]) -> None:
        assert prune_([], **options) == []  # type: ignore[arg-type]
        (mask,) = prune_([torch.empty(3, 0)], **options)  # type: ignore[arg-type]
        assert (mask.shape, mask.count()) == ((3, 0), 0)
        apply_masks_([torch.empty(3, 0)], [mask])
        apply_masks_([], [])
        assert magnitude_threshold([], sparsity=0.5) == 0.0 and density([]) == 1.0

    def test_scalars(self) -> None:
        tensors = [torch.tensor(2.0), torch.tensor(-1.0), torch.tensor(3.0)]
        assert kept(prune_(tensors, k=1)) == [1, 0, 1]
        assert [tensor.item() for tensor in tensors] == [2.0, 0.0, 3.0]


class TestGivenMasks:
    def test_what_is_pruned_goes_first(self) -> None:
        tensor = torch.tensor([9.0, 1.0, 0.0, 5.0])
        given = [BitMask.pack(torch.tensor([False, True, True, True]))]
        assert kept(magnitude_masks([tensor], k=1, masks=given)) == [[0, 1, 1, 1]]
        assert kept(magnitude_masks([tensor], k=2, masks=given)) == [[0, 1, 0, 1]]
        assert magnitude_threshold([tensor], k=1, masks=given) == 0.0
        prune_([tensor], k=2, masks=given)
        assert tensor.tolist() == [0.0, 1.0, 0.0, 5.0]

    def test_ties_at_zero_do_not_bring_back(self) -> None:
        tensor = torch.zeros(6)
        given = [BitMask.pack(torch.tensor([False, True, False, True, True, True]))]
        assert kept(magnitude_masks([tensor], k=4, masks=given)) == [[0, 1, 0, 1, 0, 0]]

    def test_step_by_step_is_as_at_once(self) -> None:
        for maker in (normal, few_values):
            tensors = [maker(50, 20), maker(333, seed=1)]
            at_once = magnitude_masks(tensors, sparsity=0.9)
            masks = None
            for sparsity in (0.2, 0.2, 0.5, 0.9):
                masks = prune_(tensors, sparsity=sparsity, masks=masks)
            assert masks == at_once

    def test_fewer_than_are_pruned(self) -> None:
        tensor, given = torch.ones(4), [BitMask.zeros((4,))]
        with pytest.raises(ValueError, match="regrow_masks"):
            prune_([tensor], k=3, masks=given)
        assert tensor.tolist() == [1.0] * 4

    def test_masks_are_not_written_to(self) -> None:
        given = [BitMask.ones((100,))]
        prune_([normal(100)], sparsity=0.5, masks=given)
        assert given[0].words.tolist() == BitMask.ones((100,)).words.tolist()


class TestRegrowth:
    def test_the_largest_come_back(self) -> None:
        scores = torch.tensor([1.0, -3.0, 9.0, 2.0, 3.0])
        given = [BitMask.pack(torch.tensor([False, False, True, False, False]))]
        expected = [[0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
        grown = [regrow_masks([scores], k=k, masks=given) for k in range(5)]
        assert [kept(masks)[0] for masks in grown] == expected

    def test_without_masks_none_is_set(self) -> None:
        assert kept(regrow_masks([torch.tensor([1.0, -3.0, 2.0])], k=2)) == [[0, 1, 1]]

    def test_sparsity_is_what_stays_pruned(self) -> None:
        given = [BitMask.zeros((10,))]
        (mask,) = regrow_masks([normal(10)], sparsity=0.3, masks=given)
        assert mask.count() == 7

    def test_prune_and_regrow_is_a_step_of_dynamic_sparse_training(self) -> None:
        weights, gradients = [few_values(40, 30)], [few_values(40, 30, seed=1)]
        masks = prune_(weights, sparsity=0.8)
        pruned = prune_(weights, sparsity=0.9, masks=masks)
        grown = regrow_masks(weights, sparsity=0.8, masks=pruned, scores=gradients)
        assert grown[0].count() == masks[0].count() == 240 and (pruned[0] & grown[0]) == pruned[0]

    @pytest.mark.parametrize("options", [{"k": 3}, {"sparsity": 0.9}], ids=str)
    def test_more_than_are_pruned_or_fewer_than_none(self, options: dict[str, object]) -> None:
        given = [BitMask.pack(torch.tensor([True, True, False, False]))]
        with pytest.raises(ValueError, match="regrow"):
            regrow_masks([torch.ones(4)], masks=given, **options)  # type: ignore[arg-type]

    def test_nan_among_what_is_kept_is_no_candidate(self) -> None:
        given = [BitMask.pack(torch.tensor([True, False, False]))]
        scores = torch.tensor([NAN, 1.0, 2.0])
        assert kept(regrow_masks([scores], k=1, masks=given)) == [[1, 0, 1]]
        with pytest.raises(ValueError, match="NaN"):
            regrow_masks([scores], k=1, masks=[~given[0]])


class TestApplier:
    """The same as `apply_masks_`, whatever happened to the tensors in between."""

    CHANGES: ClassVar[dict[str, Callable[[nn.Parameter], Any]]] = {
        "nothing": lambda weight: None,
        "values": lambda weight: weight.data.add_(1),
        "memory": lambda weight: setattr(weight, "data", weight.data + 1),
        "dtype": lambda weight: setattr(weight, "data", weight.data.double()),
        "layout": lambda weight: setattr(weight, "data", weight.data.to(memory_format=torch.channels_last)),
    }

    @pytest.mark.parametrize("change", CHANGES)
    def test_after_a_change(self, change: str) -> None:
        weights = [nn.Parameter(torch.randn(4, 3, 2, 2)) for _ in range(2)]
        masks = magnitude_masks(weights, sparsity=0.5)
        applier = MaskApplier(weights, masks)
        applier.apply_()
        for weight in weights:
            self.CHANGES[change](weight)
        expected = [weight.detach() * mask.unpack() for weight, mask in zip(weights, masks, strict=True)]
        applier.apply_()
        assert all(torch.equal(weight.detach(), e) for weight, e in zip(weights, expected, strict=True))

    def test_another_shape_is_an_error(self) -> None:
        weight = torch.ones(4)
        applier = MaskApplier([weight], [BitMask.zeros((4,))])
        applier.apply_()
        weight.data = torch.ones(5)
        with pytest.raises(PruneValueError, match="shape"):
            applier.apply_()
        assert weight.sum() == 5

    def test_memory_that_was_freed_is_an_error(self) -> None:
        weight = torch.ones(4)
        applier = MaskApplier([weight], [BitMask.zeros((4,))])
        applier.apply_()
        weight.untyped_storage().resize_(0)
        with pytest.raises(PruneValueError, match="freed"):
            applier.apply_()

    def test_autograd_hears_of_every_call(self) -> None:
        weight = torch.ones(4, requires_grad=True)
        applier = MaskApplier([weight], [BitMask.zeros((4,))])
        versions = [weight._version]
        for _ in range(2):
            applier.apply_()
            versions.append(weight._version)
        assert versions == sorted(set(versions))


class TestTied:
    def test_counted_once_with_one_mask(self) -> None:
        a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])
        masks = magnitude_masks([a, b, a], sparsity=0.5)
        assert masks[0] is masks[2] and kept(masks) == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
        assert density([a, a, torch.zeros(3)]) == 0.5

    def test_parameter_and_its_data_are_tied(self) -> None:
        parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
        masks = prune_([parameter, parameter.data, parameter.detach()], k=1)
        assert masks[0] is masks[1] is masks[2] and parameter.tolist() == [0.0, 2.0]

    def test_empty_tensors_are_not_tied(self) -> None:
        a, b = prune_([torch.empty(0, 2), torch.empty(2, 0)], sparsity=0.5)
        assert (a.shape, b.shape) == ((0, 2), (2, 0))

    def test_given_masks_may_not_differ(self) -> None:
        a = torch.ones(2)
        with pytest.raises(ValueError, match=r"Expected equal `masks` for tied tensors, got another for tensors\[1\]"):
            prune_([a, a], sparsity=0.5, masks=[BitMask.ones((2,)), BitMask.zeros((2,))])
        with pytest.raises(ValueError, match="Expected equal `sparsity` for tied tensors"):
            prune_([a, a], sparsity=[0.5, 0.0], scope="tensor")
        assert a.tolist() == [1.0, 1.0]

    def test_halves_of_one_memory_are_two(self) -> None:
        whole = torch.arange(1.0, 9.0)
        assert kept(prune_([whole[4:], whole[:4]], k=5)) == [[0, 1, 1, 1], [0, 0, 0, 0]]
        assert whole.tolist() == [0.0] * 5 + [6.0, 7.0, 8.0]


@pytest.mark.parametrize("dtype", DTYPES)
class TestOracle:
    @pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 4095, 4097, 100_000])
    @pytest.mark.parametrize("maker", [normal, few_values, random_bits])
    def test_sizes(self, dtype: torch.dtype, n: int, maker: Callable[..., Tensor]) -> None:
        tensor = maker(n, dtype=dtype)
        for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
            assert np.array_equal(row(magnitude_masks([tensor], k=k)), oracle([tensor], k))
            assert np.array_equal(oracle_large([tensor], k), oracle([tensor], k))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, dtype: torch.dtype, layout: str) -> None:
        for shape, k in [((5, 4, 3, 3), 90), ((64, 33, 5, 3), 20_000)]:
            for maker in (normal, few_values):
                tensor = maker(*shape, dtype=dtype)
                laid = LAYOUTS[layout](tensor)
                (mask,) = prune_([laid], k=k)
                (expected,) = prune_([tensor], k=k)
                assert mask == expected and same_bits(laid, tensor)

    def test_memory_between_the_elements_is_left_alone(self, dtype: torch.dtype) -> None:
        memory = normal(100, 7, dtype=dtype)
        before = memory.clone()
        view = memory[::2, 1:6:2]
        prune_([view], sparsity=1.0)
        before[::2, 1:6:2] = 0
        assert same_bits(memory, before)

    def test_a_list_is_as_one_tensor(self, dtype: torch.dtype) -> None:
        for maker in (normal, few_values):
            flat = maker(200_000, dtype=dtype)
            parts = [part.clone() for part in flat.split([1, 63, 64, 65, 0, 100_000, 7, 99_800])]
            check_pruning(parts, 120_000)
            prune_([flat], k=120_000)
            assert same_bits(torch.cat(parts), flat)

    def test_expanded_views_can_be_read(self, dtype: torch.dtype) -> None:
        view = normal(3, 1, 2, dtype=dtype).expand(3, 4, 2)
        assert magnitude_masks([view], k=11) == magnitude_masks([view.contiguous()], k=11)

    @pytest.mark.parametrize("shape", [(700, 16, 7, 5), (90, 64, 8, 8), (3, 128, 30, 30)], ids=str)
    def test_channels_last_on_threads(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        for maker, share in itertools.product((normal, few_values), (0.3, 0.5, 1.0)):
            plain = maker(*shape, dtype=dtype)
            laid = plain.to(memory_format=torch.channels_last)
            ours = with_threads(3, lambda laid=laid, share=share: prune_([laid], sparsity=share))
            assert ours == prune_([plain], sparsity=share)
            assert same_bits(laid.contiguous(), plain)

    def test_threads(self, dtype: torch.dtype) -> None:
        for maker, n in itertools.product((normal, few_values), (300_000, 700_001)):
            flat = maker(n, dtype=dtype)
            tensors = [list(flat.clone().split(n // 3)) for _ in range(3)]
            masks = []
            for each, threads in zip(tensors, (1, 2, 5), strict=True):
                masks.append(with_threads(threads, lambda each=each, k=n // 2: prune_(each, k=k)))
            assert masks[0] == masks[1] == masks[2]
            assert all(same_bits(a, b) for a, b in zip(tensors[0], tensors[1], strict=True))
            assert np.array_equal(row(masks[0]), oracle_large([flat], n // 2))


def with_threads(threads: int, call: Callable[[], list[BitMask]]) -> list[BitMask]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


def test_ten_thousand_small_tensors() -> None:
    flat = few_values(60_000)
    tensors = list(flat.clone().split([3, 0, 9] * 5000))
    assert len(tensors) == 15_000
    masks = prune_(tensors, sparsity=0.5)
    assert np.array_equal(row(masks), oracle_large([flat], 30_000))


# A bracket comes from a sample. Data of which a sample shows nothing, or too little, must not change an answer.


def sampled_places(n: int) -> Iterator[tuple[int, int]]:
    """Where csrc/cpu/select.cpp samples a contiguous tensor: (start, length). If that changes, the tests get milder."""
    blocks, mask = -(-n // 64), (1 << 64) - 1
    for smallest, largest, length in ((1 << 13, 1 << 15, 8), (1 << 16, 1 << 17, 2)):
        runs = min(max(n // 2048, smallest), largest)
        for i in range(runs):
            x = (i + 0x9E3779B97F4A7C15) & mask
            x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
            x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
            x ^= x >> 31
            place = (i + 0.5) / runs + 1 / runs * ((x >> 11) * 2.0**-53 - 0.5)
            yield min(blocks - 1, int(place * blocks)) * 64 + (x & 63) // length * length, length


def with_sample(n: int, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    data = outside.copy()
    for start, length in sampled_places(n):
        data[start : start + length] = inside[start : start + length]
    return data


def heavy_tailed(n: int, random: np.random.Generator) -> np.ndarray:
    return random.standard_cauchy(n) * np.exp(random.normal(0, 5, n))


def rows_of_their_own_scale(n: int, random: np.random.Generator) -> np.ndarray:
    return random.normal(size=n) * np.repeat(np.exp(random.normal(0, 3, -(-n // 4096))), 4096)[:n]


ADVERSARIES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "the sample sees only large ones": lambda n, r: with_sample(n, 1 + r.random(n), r.random(n)),
    "the sample sees only small ones": lambda n, r: with_sample(n, r.random(n), 1 + r.random(n)),
    "the sample sees two values": lambda n, r: with_sample(n, np.where(r.random(n) < 0.5, 0.0, 1.0), r.random(n)),
    "the sample sees one value": lambda n, r: with_sample(n, np.ones(n), 1 + r.normal(0, 1e-3, n)),
    "all in the bracket but the sample": lambda n, r: with_sample(n, 2 * r.random(n), 1 + 1e-6 * r.random(n)),
    "sorted": lambda n, r: np.sort(r.normal(size=n)),
    "sorted by magnitude": lambda n, r: np.sort(np.abs(r.normal(size=n))),
    "sorted backwards": lambda n, r: -np.sort(-np.abs(r.normal(size=n))),
    "all equal": lambda n, r: np.full(n, 0.25),
    "all zero": lambda n, r: np.where(r.random(n) < 0.5, 0.0, -0.0),
    "two values": lambda n, r: np.where(r.random(n) < 0.5, 1.0, -2.0),
    "two neighbouring values": lambda n, r: np.where(r.random(n) < 0.5, 1.0, 1 + 2.0**-23),
    "three values in blocks": lambda n, r: np.repeat(r.integers(0, 3, -(-n // 1000)), 1000)[:n],
    "nine tenths zeros": lambda n, r: r.normal(size=n) * (r.random(n) < 0.1),
    "half one value": lambda n, r: np.where(r.random(n) < 0.5, 0.5, r.normal(size=n)),
    "heavy-tailed": heavy_tailed,
    "rows of their own scale": rows_of_their_own_scale,
    "runs of eight alike": lambda n, r: np.repeat(r.normal(size=-(-n // 8)), 8)[:n],
    "period of a block": lambda n, r: np.tile(r.normal(size=64), -(-n // 64))[:n],
    "blocks of two scales": lambda n, r: r.normal(size=n) * np.where(np.arange(n) // 64 % 2, 1.0, 1e-3),
    "one in a thousand": lambda n, r: np.where(np.arange(n) % 1000 == 999, r.normal(size=n), 7.0),
    "random bits": lambda n, r: random_bits(n).double().numpy(),
    "large ones at the end": lambda n, r: np.arange(n) > 0.7 * n,
    "one large one": lambda n, r: np.eye(1, n, n // 2)[0] + 1e-30,
}  # fmt: skip


@pytest.mark.parametrize("name", ADVERSARIES)
def test_data_that_misleads_a_sample(name: str) -> None:
    n = 300_007
    data = torch.from_numpy(ADVERSARIES[name](n, np.random.default_rng(0)).astype(np.float32))
    for share, threads in [(0.5, 1), (0.9, 2), (0.001, 2), (0.99999, 1)]:
        k = round(share * n)
        tensors = list(data.clone().split([64 * 2000, n - 64 * 2000]))  # whole blocks: the same places are sampled
        masks = with_threads(threads, lambda tensors=tensors, k=k: prune_(tensors, k=k))
        expected = oracle_large([data], k)
        assert np.array_equal(row(masks), expected), (share, threads)
        assert same_bits(torch.cat(tensors), torch.where(torch.from_numpy(expected), data, torch.zeros_like(data)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["the sample sees only large ones", "all in the bracket but the sample", "sorted"])
def test_data_that_misleads_a_sample_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    n = 1_000_003
    data = torch.from_numpy(ADVERSARIES[name](n, np.random.default_rng(1))).to(dtype)
    check_pruning([data], round(0.6 * n))


def test_misled_with_masks() -> None:
    n = 400_000
    data = torch.from_numpy(ADVERSARIES["the sample sees only large ones"](n, np.random.default_rng(2))).float()
    allowed = torch.rand(n) < 0.5
    candidates = data[allowed]
    pruned = n - len(candidates)
    (mask,) = magnitude_masks([data], k=pruned + 70_000, masks=[BitMask.pack(allowed)])
    assert np.array_equal(mask.unpack()[allowed].numpy(), oracle_large([candidates], 70_000))
    assert not mask.unpack()[~allowed].any()
    (grown,) = regrow_masks([data], k=len(candidates) - 70_000, masks=[BitMask.pack(~allowed)])
    assert np.array_equal(grown.unpack()[allowed].numpy(), oracle_large([candidates], 70_000))
    assert grown.unpack()[~allowed].all()


@pytest.mark.parametrize("k", [1, 999_999, 1_000_000, 1_000_002])
def test_ranks_at_the_ends(k: int) -> None:
    for maker in (normal, few_values):
        check_pruning([maker(1_000_003)], k)


def test_a_nan_that_no_sample_sees() -> None:
    tensor = normal(2_000_000)
    tensor[1_234_567] = NAN
    with pytest.raises(ValueError, match=r"tensors\[1\]"):
        prune_([normal(10), tensor], sparsity=0.5)
    masks = prune_([tensor], sparsity=0.5, nan="keep")
    assert masks[0].count() == 1_000_000 and tensor[1_234_567].isnan()


def test_threads_of_python_prune_different_lists_at_once() -> None:
    lists = [[normal(150_000 + i, seed=i), few_values(999, seed=i)] for i in range(8)]
    expected = [magnitude_masks(tensors, sparsity=0.7) for tensors in lists]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda tensors: prune_(tensors, sparsity=0.7), lists)) == expected


def free_gibibytes() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    """All equal but the last ten, so that the 500 that go are just in front of these: behind index 2^31."""
    if free_gibibytes() < 12:
        pytest.skip(f"needs 12 GiB of free memory, there are {free_gibibytes():.1f}")
    n = 2**31 + 1024
    tensor = torch.ones(n, dtype=torch.bfloat16)
    tensor[-10:] = 2.0
    (mask,) = prune_([tensor], k=500)
    expected = [1.0] * 514 + [0.0] * 500 + [2.0] * 10
    assert tensor[-1024:].tolist() == expected
    assert BitMask((1024,), mask.words[-128:]).unpack().tolist() == [value > 0 for value in expected]
    assert mask.count() == n - 500 and density([tensor]) == (n - 500) / n
    tensor[-500:] = 1.0
    apply_masks_([tensor], [mask])
    assert tensor[-1024:].tolist() == [1.0] * 514 + [0.0] * 500 + [1.0] * 10
