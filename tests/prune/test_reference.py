"""The reference itself, against loops over Python numbers: what it says is what csrc/prune.h says."""

from __future__ import annotations

import itertools
import math
import struct

import pytest
import torch
from torch import Tensor
from weight_lists import DTYPES, INF, NAN, few_values, normal, random_bits, same_bits

from lightning_autoarch.prune import reference

PAIRS = ["0011", "0101", "1001", "0110", "1010", "1100"]  # the order of the first row, as in csrc/patterns.h


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_are_ordered_as_magnitudes(dtype: torch.dtype) -> None:
    tiny = torch.ones(1, dtype=reference.INTEGERS[dtype.itemsize]).view(dtype).item()
    rising = [0.0, tiny, 3 * tiny, torch.finfo(dtype).smallest_normal, 1.0, 2.0, torch.finfo(dtype).max, INF, NAN]
    keys = reference.keys(torch.tensor(rising, dtype=dtype))
    assert (keys.diff() > 0).all() and keys[0] == 0
    assert torch.equal(keys, reference.keys(-torch.tensor(rising, dtype=dtype)))


def test_keys_of_float32_are_its_bits() -> None:
    values = [1.5, -1.5, 0.0, -0.0, 3e-45, INF]
    expected = [struct.unpack("<I", struct.pack("<f", abs(value)))[0] for value in values]
    assert reference.keys(torch.tensor(values)).tolist() == expected


@pytest.mark.parametrize("with_candidates", [False, True])
def test_removed_by_sorting_pairs(with_candidates: bool) -> None:
    tensors = [few_values(5, 7), few_values(11, seed=1), few_values(0), few_values()]
    values = torch.cat([tensor.flatten() for tensor in tensors]).abs().tolist()
    candidates = [normal(*tensor.shape, seed=2) > 0 for tensor in tensors] if with_candidates else None
    allowed = torch.cat([c.flatten() for c in candidates]).tolist() if candidates else [True] * len(values)
    order = sorted((i for i in range(len(values)) if allowed[i]), key=lambda i: (values[i], -i))
    for remove in range(len(order) + 1):
        gone, key = reference.removed(tensors, candidates, remove)
        assert torch.cat([g.flatten() for g in gone]).nonzero().flatten().tolist() == sorted(order[:remove])
        largest = torch.tensor(values[order[remove - 1]] if remove else 0.0)
        assert key == reference.keys(largest).item()


def test_zero_writes_positive_zero() -> None:
    tensor = torch.tensor([-1.0, -0.0, NAN, -0.0])
    reference.zero_(tensor, torch.tensor([False, False, False, True]))
    assert same_bits(tensor, torch.tensor([0.0, 0.0, 0.0, -0.0]))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 4), (3, 4), (4, 4), (4, 8), (1, 7)])
def test_nm_by_sorting(n: int, m: int) -> None:
    tensor = few_values(6, 3 * m)
    for row, kept in zip(tensor.abs().tolist(), reference.nm_keep(tensor, n, m, -1).tolist(), strict=True):
        for start in range(0, len(row), m):
            order = sorted(range(start, start + m), key=lambda i: (-row[i], i))
            assert [i for i in range(start, start + m) if kept[i]] == sorted(order[:n])
    assert torch.equal(reference.nm_keep(tensor.t(), n, m, 0), reference.nm_keep(tensor, n, m, 1).t())


def patterns() -> list[str]:
    rows = ("".join(reversed(pair)) for pair in PAIRS)  # bit 0 is the first element
    squares = map("".join, itertools.product(list(rows), repeat=4))
    return [square for square in squares if all(square[j::4].count("1") == 2 for j in range(4))]


def best_pattern(magnitudes: list[float]) -> str:
    huge = torch.finfo(torch.float64).max / 16
    weights = [x if x <= huge else huge for x in magnitudes]
    sums = [sum((w for w, bit in zip(weights, p, strict=True) if bit == "1"), 0.0) for p in patterns()]
    return patterns()[sums.index(max(sums))]


def test_there_are_ninety_patterns() -> None:
    assert len(patterns()) == len(set(patterns())) == 90


@pytest.mark.parametrize("maker", [normal, few_values, random_bits])
def test_transposable_by_trying_all(maker: object) -> None:
    tensor = maker(2, 8, 12, dtype=torch.float64)  # type: ignore[operator]
    tensor[0, 0, 0] = NAN
    keep = reference.transposable_keep(tensor)
    for b, i, j in itertools.product(range(2), range(0, 8, 4), range(0, 12, 4)):
        tile = (b, slice(i, i + 4), slice(j, j + 4))
        expected = [bit == "1" for bit in best_pattern(tensor[tile].abs().flatten().tolist())]
        assert keep[tile].flatten().tolist() == expected
    assert (keep.unflatten(-1, (-1, 4)).sum(-1) == 2).all() and (keep.unflatten(-2, (-1, 4)).sum(-2) == 2).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_threshold(dtype: torch.dtype) -> None:
    tensor = torch.tensor([2.0, -2.0, 0.5, -0.5, 0.25, -0.0, INF, -INF, NAN], dtype=dtype)
    reference.soft_threshold_(tensor, 0.5)
    expected = torch.tensor([1.5, -1.5, 0.0, 0.0, 0.0, 0.0, INF, -INF, NAN], dtype=dtype)
    assert same_bits(tensor[:-1], expected[:-1]) and tensor[-1].isnan()


def lanes(values: list[float]) -> float:
    sums = [0.0] * 32
    for i, value in enumerate(values):
        sums[i % 32] += value
    for width in (16, 8, 4, 2, 1):
        sums = [sums[i] + sums[i + width] for i in range(width)]
    return sums[0]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 100])
def test_group_norms_lane_by_lane(length: int) -> None:
    tensor = normal(3, length, dtype=torch.float64)
    rows: list[list[float]] = tensor.abs().tolist()
    assert reference.group_norms(tensor, 1, 0).tolist() == [lanes(row) for row in rows]
    assert reference.group_norms(tensor, 2, 0).tolist() == [math.sqrt(lanes([x * x for x in row])) for row in rows]


def test_group_norms_of_a_middle_dimension() -> None:
    tensor = normal(4, 3, 5)
    expected = torch.linalg.vector_norm(tensor.double(), dim=(0, 2))
    torch.testing.assert_close(reference.group_norms(tensor, 2, 1), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(reference.group_norms(tensor, 2, -2), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_group_soft_threshold(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[3.0, -4.0], [0.5, -1.0], [-0.0, 0.0], [INF, 1.0], [NAN, 1.0]], dtype=dtype)
    expected = torch.tensor([[1.5, -2.0], [0.0, 0.0], [0.0, 0.0], [INF, 1.0], [NAN, 1.0]], dtype=dtype)
    reference.group_soft_threshold_(tensor, norms_of(tensor), 2.5, 0)
    assert same_bits(tensor[:4], expected[:4]) and tensor[4].isnan().tolist() == [True, False]


def norms_of(tensor: Tensor) -> Tensor:
    return reference.group_norms(tensor, 2, 0)
