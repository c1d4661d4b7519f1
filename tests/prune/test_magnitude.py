"""Magnitude selection: analytic cases, `reference.removed` as the oracle, adversaries of the sample, the contract."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from weights import DTYPES, normal, patterns, same_bits, views

from lightning_autoarch.prune import (
    BitMask,
    apply_masks_,
    density,
    magnitude_masks,
    magnitude_threshold,
    prune_,
    reference,
)

COLLECT_ALL = 1 << 17  # csrc/tuning.h: beyond, a sample is taken


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def kept(mask: BitMask) -> list[bool]:
    return mask.unpack().flatten().tolist()


def oracle(tensors: list[Tensor], k: int, masks: list[Tensor] | None = None) -> list[Tensor]:
    """Keep masks with exactly k removed, what `masks` prunes first."""
    pruned = sum(int((~mask).sum()) for mask in masks or [])
    gone, _ = reference.removed(tensors, masks, k - pruned)
    return [~g if masks is None else masks[i] & ~g for i, g in enumerate(gone)]


class TestAnalytic:
    def test_the_smallest_go_over_all_tensors(self) -> None:
        a, b = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([[0.5], [-4.0]])
        masks = magnitude_masks([a, b], k=2)
        assert [kept(mask) for mask in masks] == [[True, False, True], [False, True]]
        assert magnitude_threshold([a, b], k=2) == 1.0
        assert magnitude_threshold([a, b], k=0) == 0.0

    def test_of_equals_the_lowest_index_is_kept(self) -> None:
        a, b = torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0])
        for k in range(6):
            assert sum([kept(m) for m in magnitude_masks([a, b], k=k)], []) == [True] * (5 - k) + [False] * k

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_zeros_denormals_infinity(self, dtype: torch.dtype) -> None:
        inf, tiny = float("inf"), torch.finfo(dtype).smallest_normal
        weight = torch.cat([torch.tensor([0.0, -0.0, tiny, -inf, 1.0], dtype=dtype), patterns(dtype, 1, 2)])
        assert kept(magnitude_masks([weight], k=3)[0]) == [False, False, True, True, True, False, True]
        assert kept(magnitude_masks([weight], k=1)[0]) == [True, False, True, True, True, True, True]
        assert magnitude_threshold([weight], k=7) == inf

    def test_denormals_are_told_apart_where_they_are_flushed(self) -> None:
        torch.set_flush_denormal(True)
        try:
            assert kept(magnitude_masks([patterns(torch.float32, 3, 1, 2, 0)], k=2)[0]) == [True, False, True, False]
        finally:
            torch.set_flush_denormal(False)

    def test_what_is_pruned_goes_first_whatever_it_weighs(self) -> None:
        weight = torch.tensor([9.0, 0.0, 0.0, 1.0])
        given = BitMask.pack(torch.tensor([False, True, True, True]))
        assert kept(magnitude_masks([weight], k=2, masks=[given])[0]) == [False, True, False, True]
        with pytest.raises(
            ValueError, match="at least the 1 weights that `masks` prunes already, got 0: pass `largest"
        ):
            magnitude_masks([weight], k=0, masks=[given])

    def test_regrowth(self) -> None:
        scores = torch.tensor([5.0, 1.0, -3.0, 2.0])
        given = BitMask.pack(torch.tensor([True, False, False, False]))
        assert kept(magnitude_masks([scores], k=1, masks=[given], largest=True)[0]) == [True, False, True, False]
        assert kept(magnitude_masks([scores], sparsity=0.25, masks=[given], largest=True)[0]) == [
            True,
            False,
            True,
            True,
        ]
        assert kept(magnitude_masks([scores], k=2, largest=True)[0]) == [True, False, True, False]
        with pytest.raises(ValueError, match="between 0 and the 3 weights that are pruned, got 4"):
            magnitude_masks([scores], k=4, masks=[given], largest=True)

    def test_scope(self) -> None:
        a, b = torch.arange(1.0, 5.0), torch.arange(10.0, 14.0)
        assert [mask.count() for mask in magnitude_masks([a, b], sparsity=0.5)] == [0, 4]
        assert [mask.count() for mask in magnitude_masks([a, b], sparsity=0.5, scope="tensor")] == [2, 2]
        assert [mask.count() for mask in magnitude_masks([a, b], sparsity=[0.25, 1.0], scope="tensor")] == [3, 0]
        assert [mask.count() for mask in prune_([a, b], k=[1, 0], scope="tensor")] == [3, 4]
        assert a.tolist() == [0, 2, 3, 4]

    def test_scores_decide_and_tensors_are_pruned(self) -> None:
        weight, score = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.1, -0.3, 0.2], dtype=torch.float64)
        masks = prune_([weight], k=2, scores=[score])
        assert weight.tolist() == [0, 2, 0]
        assert kept(masks[0]) == [False, True, False]

    def test_nothing_to_do(self) -> None:
        assert magnitude_masks([], sparsity=0.5) == []
        assert prune_([], k=0) == []
        assert apply_masks_([], []) is None
        assert magnitude_threshold([], k=0) == 0.0
        assert density([]) == 1.0
        assert [mask.shape for mask in prune_([torch.empty(0), torch.empty(2, 0)], sparsity=0.5)] == [(0,), (2, 0)]

    def test_tied_weights_count_once_and_share_a_mask(self) -> None:
        weight = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
        other = torch.tensor([0.5])
        masks = prune_([weight, other, weight], k=2)
        assert masks[0] is masks[2]
        assert weight.tolist() == [[3, 0], [2, 4]]
        assert density([weight, weight, other]) == 0.6

    def test_a_generator_of_parameters(self) -> None:
        net = torch.nn.Linear(4, 4)
        assert sum(mask.count() for mask in prune_(net.parameters(), sparsity=0.5)) == 10


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [0, 2])
class TestOracle:
    def test_every_view_with_and_without_masks(self, dtype: torch.dtype, levels: int, threads: None) -> None:
        tensors = list(views(dtype, levels).values())
        n = sum(tensor.numel() for tensor in tensors)
        some = [torch.rand(tensor.shape) < 0.7 for tensor in tensors]
        pruned = sum(int((~mask).sum()) for mask in some)
        for masks, share in itertools.product([None, some], [0.0, 0.1, 0.5, 0.99, 1.0]):
            k = max(round(share * n), pruned if masks else 0)
            expected = oracle(tensors, k, masks)
            given = None if masks is None else [BitMask.pack(mask) for mask in masks]
            for count in (1, 2):
                torch.set_num_threads(count)
                copies = [tensor.clone(memory_format=torch.preserve_format) for tensor in tensors]
                found = prune_(copies, k=k, masks=given)
                assert sum(mask.numel - mask.count() for mask in found) == k
                assert found == magnitude_masks(tensors, k=k, masks=given)
                for mask, keep, copy, tensor in zip(found, expected, copies, tensors, strict=True):
                    assert torch.equal(mask.unpack(), keep)
                    assert same_bits(copy, torch.where(keep, tensor, torch.zeros_like(tensor)))

    @pytest.mark.parametrize("n", [COLLECT_ALL, COLLECT_ALL + 1, 300_007])
    def test_around_the_size_where_a_sample_is_taken(
        self, dtype: torch.dtype, levels: int, n: int, threads: None
    ) -> None:
        weight = normal(n, dtype=dtype, levels=levels)
        torch.set_num_threads(3)
        for k in (1, n // 3, n - 1):
            assert torch.equal(magnitude_masks([weight], k=k)[0].unpack(), oracle([weight], k)[0])


def adversaries() -> dict[str, Tensor]:
    n = 600_000
    some = normal(n)
    rows = normal(600, 1000) * torch.logspace(-6, 6, 600)[:, None]
    bits = torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, n).astype(np.int32)).view(torch.float32)
    blocks = torch.where(torch.arange(n) // 64 % 2 == 0, some.abs(), some.abs() * 1e-3)
    return {
        "sorted": some.sort().values,
        "sorted by magnitude, falling": some.abs().sort(descending=True).values,
        "all equal": torch.full((n,), 0.5),
        "all zero": torch.zeros(n),
        "two values": (some > 0).float() + 1,
        "half are one value": torch.where(some > 0, 0.25, some),
        "90 % zero": some * (torch.arange(n) % 10 == 0),
        "heavy-tailed": some / normal(n, seed=1),
        "rows of many scales": rows.flatten(),
        "blocks of two scales": blocks,
        "random bits": torch.where(bits.isfinite(), bits, 1.0),
        "one in a thousand": torch.where(torch.arange(n) % 1000 == 999, some, 7.0),
        "few large": torch.where(torch.arange(n) < 5, 1e30, some * 1e-20),
    }


@pytest.mark.parametrize("name", adversaries())
def test_hard_inputs(name: str, threads: None) -> None:
    weight = adversaries()[name]
    torch.set_num_threads(2)
    for k in (1, 1000, weight.numel() // 2, weight.numel() * 9 // 10, weight.numel() - 3):
        assert torch.equal(magnitude_masks([weight], k=k)[0].unpack(), oracle([weight], k)[0]), k


def test_what_the_sample_never_sees() -> None:
    """Values at the sampled places are far from all others, so each bracket misses and histograms decide."""
    n = 400_000
    weight = normal(n)
    picked = magnitude_masks([torch.arange(1.0, n + 1)], k=n // 2)  # same places in every call of this size
    assert picked[0].count() == n - n // 2
    for run in (8, 2):
        weight.view(-1, run)[::2] = 1e-6 * weight.view(-1, run)[::2]
    for k in (n // 4, n // 2, 3 * n // 4):
        assert torch.equal(magnitude_masks([weight], k=k)[0].unpack(), oracle([weight], k)[0])


@given(
    shapes=st.lists(st.lists(st.integers(0, 7), max_size=4), max_size=4),
    dtype=st.sampled_from(DTYPES),
    levels=st.sampled_from([0, 1, 4]),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_anything_against_the_oracle(
    shapes: list[list[int]], dtype: torch.dtype, levels: int, share: float, seed: int, data: st.DataObject
) -> None:
    tensors = []
    for i, shape in enumerate(shapes):
        base = normal(*shape, dtype=dtype, seed=seed + i, levels=levels)
        order = data.draw(st.permutations(range(len(shape))))
        steps = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
        tensors.append(base.permute(order)[tuple(slice(None, None, step) for step in steps)])
    masks = [torch.rand(t.shape, generator=torch.Generator().manual_seed(seed)) < 0.5 for t in tensors]
    pruned = sum(int((~mask).sum()) for mask in masks)
    n = sum(tensor.numel() for tensor in tensors)
    k = pruned + round(share * (n - pruned))
    given_masks = [BitMask.pack(mask) for mask in masks]
    expected = oracle(tensors, k, masks) if tensors else []
    assert [m.unpack().tolist() for m in magnitude_masks(tensors, k=k, masks=given_masks)] == [
        e.tolist() for e in expected
    ]
    regrown = round(share * pruned)
    grown = magnitude_masks(tensors, k=regrown, masks=given_masks, largest=True)
    if tensors:
        gone, _ = reference.removed(tensors, [~mask for mask in masks], pruned - regrown)
        assert [m.unpack().tolist() for m in grown] == [(~g).tolist() for g in gone]
    assert sum(m.count() for m in grown) == n - pruned + regrown


def test_ten_thousand_small_tensors() -> None:
    tensors = list(normal(10_000, 37).unbind())
    masks = prune_(tensors, sparsity=0.3)
    assert sum(mask.numel - mask.count() for mask in masks) == 111_000 == sum(int((t == 0).sum()) for t in tensors)


@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    if free < 12 * 2**20:
        pytest.skip("needs 12 GiB of free memory")
    n = 2**31 + 77
    weight = torch.ones(n, dtype=torch.bfloat16)
    weight[:3] = 2.0
    weight[-5:] = 0.5
    (mask,) = prune_([weight], k=7)
    assert weight[-7:].tolist() == [0.0] * 7 and weight[:4].tolist() == [2.0, 2.0, 2.0, 1.0]
    assert mask.count() == n - 7 and int(torch.count_nonzero(weight[-100:])) == 93


class TestNan:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("n", [100, 200_000])
    def test_is_named_and_nothing_is_changed(self, dtype: torch.dtype, n: int) -> None:
        tensors = [normal(n, dtype=dtype), normal(n, dtype=dtype, seed=1), normal(7, dtype=dtype)]
        tensors[1][n - 3] = float("nan")
        before = [tensor.clone() for tensor in tensors]
        for scope in ("global", "tensor"):
            with pytest.raises(ValueError, match=r"got NaN in tensors\[1\]: mend the training, or pass nan='keep'"):
                prune_(tensors, sparsity=0.5, scope=scope)
        with pytest.raises(ValueError, match=r"tensors\[1\]"):
            magnitude_threshold(tensors, k=0)
        assert all(same_bits(a, b) for a, b in zip(tensors, before, strict=True))

    @pytest.mark.parametrize("n", [100, 200_000])
    def test_is_kept_where_asked(self, n: int) -> None:
        weight = normal(n)
        weight[5], weight[6] = float("nan"), -float("nan")
        mask = prune_([weight], k=n - 2, nan="keep")[0]
        assert mask.count() == 2 and weight[5:7].isnan().all() and int((weight != 0).sum()) == 2
        with pytest.raises(ValueError, match=f"at most the {n - 2} weights that are not NaN, got {n - 1}"):
            magnitude_masks([weight], k=n - 1, nan="keep")

    def test_of_what_is_pruned_does_not_matter(self) -> None:
        weight = torch.tensor([float("nan"), 1.0])
        prune_([weight], k=1, masks=[BitMask.pack(torch.tensor([False, True]))])
        assert weight.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_masks(dtype: torch.dtype) -> None:
    tensors = list(views(dtype).values())
    keeps = [torch.rand(tensor.shape) < 0.5 for tensor in tensors]
    copies = [tensor.clone(memory_format=torch.preserve_format) for tensor in tensors]
    apply_masks_(copies, map(BitMask.pack, keeps))
    for copy, keep, tensor in zip(copies, keeps, tensors, strict=True):
        assert same_bits(copy, torch.where(keep, tensor, torch.zeros_like(tensor)))


def test_a_view_with_gaps_leaves_the_gaps() -> None:
    base = normal(100, 100)
    before = base.clone()
    prune_([base[10:60:2, 5:50:3]], sparsity=1.0)
    assert (base[10:60:2, 5:50:3] == 0).all()
    base[10:60:2, 5:50:3] = before[10:60:2, 5:50:3]
    assert torch.equal(base, before)


def test_python_threads_at_once() -> None:
    tensors = [normal(300_000 + i, seed=i) for i in range(6)]
    expected = [magnitude_masks([tensor], sparsity=0.4) for tensor in tensors]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda tensor: prune_([tensor], sparsity=0.4), tensors)) == expected


def test_other_devices_run_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_autoarch.prune import _ops

    tensors = [normal(300, seed=1), normal(20, 7, seed=2)]
    masks = [BitMask.pack(torch.rand(tensor.shape) < 0.8) for tensor in tensors]
    expected = [
        magnitude_masks(tensors, k=200, masks=masks),
        magnitude_masks(tensors, k=20, masks=masks, largest=True),
        magnitude_threshold(tensors, k=33),
    ]
    monkeypatch.setattr(_ops, "compiled", lambda device: False)
    monkeypatch.setattr(_ops, "select", None)
    assert expected == [
        magnitude_masks(tensors, k=200, masks=masks),
        magnitude_masks(tensors, k=20, masks=masks, largest=True),
        magnitude_threshold(tensors, k=33),
    ]
    assert prune_(tensors, k=200, masks=masks) == expected[0]
    assert all(torch.equal(t != 0, m.unpack()) for t, m in zip(tensors, expected[0], strict=True))
    tensors[0][0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN in tensors\[0\]"):
        prune_(tensors, k=3)
