"""Proximal steps and norms of slices: analytic cases, then the reference to the bit, then what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from weight_lists import DTYPES, INF, INTEGERS, LAYOUTS, NAN, few_values, normal, random_bits, same_bits, twin

from lightning_autoarch.prune import group_norms, group_soft_threshold_, reference, soft_threshold_

MAKERS = [normal, few_values, random_bits]
AMOUNTS = [0.0, 1e-30, 0.1, 0.5, 1.0, 1 / 3, 1e30]
SHAPES = [
    ((), None),
    ((1,), 0),
    ((33,), 0),
    ((7, 100), 0),
    ((100, 7), 1),
    ((5, 3, 65), 1),
    ((4, 3, 3, 3), -1),
    ((3, 0), 0),
]


@pytest.mark.parametrize("dtype", DTYPES)
class TestSoftThreshold:
    def test_analytic(self, dtype: torch.dtype) -> None:
        tensor = torch.tensor([2.0, -2.0, 0.5, -0.5, 0.25, -0.0, INF, -INF], dtype=dtype)
        soft_threshold_([tensor], 0.5)
        assert same_bits(tensor, torch.tensor([1.5, -1.5, 0.0, 0.0, 0.0, 0.0, INF, -INF], dtype=dtype))

    def test_nan_stays_to_the_bit(self, dtype: torch.dtype) -> None:
        integer = INTEGERS[dtype.itemsize]
        tensor = torch.tensor([-1, torch.iinfo(integer).max], dtype=integer).view(dtype)  # with their payloads
        before = tensor.clone()
        soft_threshold_([tensor], 1.0)
        assert tensor.isnan().all() and same_bits(tensor, before)

    @pytest.mark.parametrize("flush", [False, True])
    def test_denormals(self, dtype: torch.dtype, flush: bool) -> None:
        smallest = torch.finfo(dtype).smallest_normal
        tensor = torch.tensor([3, 0, 1], dtype=INTEGERS[dtype.itemsize]).view(dtype)
        before = tensor.clone()
        torch.set_flush_denormal(flush)
        try:
            soft_threshold_([tensor], 0.0)
            after_nothing = tensor.clone()
            soft_threshold_([tensor], smallest)
        finally:
            torch.set_flush_denormal(False)
        if not flush:  # the subtraction is the processor's
            assert same_bits(after_nothing, before)
        assert same_bits(tensor, torch.zeros_like(tensor))

    @pytest.mark.parametrize("maker", MAKERS)
    def test_reference(self, dtype: torch.dtype, maker: object) -> None:
        for amount, n in itertools.product(AMOUNTS, (1, 63, 1000, 70_001)):
            tensor = maker(n, dtype=dtype)  # type: ignore[operator]
            expected = tensor.clone()
            reference.soft_threshold_(expected, amount)
            soft_threshold_([tensor], amount)
            assert same_bits(tensor, expected), (amount, n)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, dtype: torch.dtype, layout: str) -> None:
        tensor = normal(6, 5, 4, 3, dtype=dtype)
        laid = LAYOUTS[layout](tensor)
        soft_threshold_([laid], 0.3)
        soft_threshold_([tensor], 0.3)
        assert same_bits(laid, tensor)

    def test_amounts_and_tied_tensors(self, dtype: torch.dtype) -> None:
        a, b = torch.ones(3, dtype=dtype), torch.ones(2, dtype=dtype)
        soft_threshold_((t for t in [a, b, a]), [0.25, 0.5, 0.25])
        assert a.tolist() == [0.75] * 3 and b.tolist() == [0.5] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_soft_threshold_of_every_16_bit_pattern(dtype: torch.dtype) -> None:
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for amount in AMOUNTS:
        tensor, expected = patterns.clone(), patterns.clone()
        soft_threshold_([tensor], amount)
        reference.soft_threshold_(expected, amount)
        nan = patterns.isnan()
        assert same_bits(tensor[~nan], expected[~nan]), amount
        assert same_bits(tensor[nan], patterns[nan])


@pytest.mark.parametrize("dtype", DTYPES)
class TestGroups:
    def test_norms(self, dtype: torch.dtype) -> None:
        tensor = torch.tensor([[3.0, -4.0], [0.0, -0.0], [INF, 1.0], [NAN, INF]], dtype=dtype)
        (l1,), (l2,) = group_norms([tensor], 1), group_norms([tensor])
        assert l1.dtype == l2.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert l1[:3].tolist() == [7.0, 0.0, INF] and l2[:3].tolist() == [5.0, 0.0, INF]
        assert math.isnan(l1[3]) and math.isnan(l2[3])

    def test_soft_threshold(self, dtype: torch.dtype) -> None:
        tensor = torch.tensor([[3.0, -4.0], [0.5, -1.0], [-0.0, 0.0], [-INF, 1.0], [NAN, 1.0]], dtype=dtype)
        before = tensor.clone()
        group_soft_threshold_([tensor], 2.5)
        assert same_bits(tensor[:3], torch.tensor([[1.5, -2.0], [0.0, 0.0], [0.0, 0.0]], dtype=dtype))
        assert same_bits(tensor[3:], before[3:])

    @pytest.mark.parametrize(("shape", "dim"), SHAPES[1:], ids=str)
    @pytest.mark.parametrize("maker", MAKERS)
    def test_reference(self, dtype: torch.dtype, maker: object, shape: tuple[int, ...], dim: int) -> None:
        tensor = maker(*shape, dtype=dtype)  # type: ignore[operator]
        for p in (1, 2):
            expected = reference.group_norms(tensor, p, dim)
            (norms,) = group_norms([tensor], p, dim)
            assert norms.shape == (tensor.shape[dim],)
            assert same_bits(norms, expected.to(norms.dtype))
        for amount in AMOUNTS:
            ours, expected = tensor.clone(), tensor.clone()
            group_soft_threshold_([ours], amount, dim)
            reference.group_soft_threshold_(expected, reference.group_norms(tensor, 2, dim), amount, dim)
            assert same_bits(ours, expected), amount

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, dtype: torch.dtype, layout: str) -> None:
        tensor = normal(6, 5, 40, 3, dtype=dtype)
        for dim in range(4):
            laid, plain = LAYOUTS[layout](tensor), tensor.clone()
            assert same_bits(group_norms([laid], dim=dim)[0], group_norms([plain], dim=dim)[0])
            group_soft_threshold_([laid], 0.7, dim)
            group_soft_threshold_([plain], 0.7, dim)
            assert same_bits(laid, plain)

    def test_threads(self, dtype: torch.dtype) -> None:
        tensor, results = normal(300, 1001, dtype=dtype), []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            ours = tensor.clone()
            soft_threshold_([ours], 0.01)
            group_soft_threshold_([ours], 0.5)
            results.append((ours, *group_norms([tensor, tensor.t()], 1), *group_norms([tensor], 2, 1)))
        torch.set_num_threads(1)
        for other in results[1:]:
            assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


def test_norms_of_a_sum_that_rounding_would_show() -> None:
    tensor = torch.tensor([[2.0**60, *[1.0] * 64]], dtype=torch.float64)
    (norm,) = group_norms([tensor], 1)
    assert norm.item() == 2.0**60 + 64 - 2  # lane 0 holds 2^60 and two ones, which it rounds away


def test_lists_generators_and_expanded_views() -> None:
    tensors = [normal(3, 4), normal(5, 2), normal(1, 6).expand(3, 6)]
    expected = [reference.group_norms(tensor, 2, 0).float() for tensor in tensors]
    assert all(same_bits(a, b) for a, b in zip(group_norms(t for t in tensors), expected, strict=True))
    assert group_norms([]) == []
    soft_threshold_([], 1.0)
    group_soft_threshold_([], 1.0)


def test_tied_tensors_are_moved_once() -> None:
    tensor = torch.tensor([[3.0, 4.0]])
    group_soft_threshold_([tensor, tensor], 2.5)
    assert tensor.tolist() == [[1.5, 2.0]]
    norms = group_norms([tensor, tensor])
    assert norms[0] is norms[1]


def test_parameters_need_no_no_grad() -> None:
    layer = nn.Linear(3, 2)
    group_soft_threshold_([layer.weight], 0.01)
    soft_threshold_(layer.parameters(), 100.0)
    assert not any(p.any() for p in layer.parameters()) and all(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize("step", [soft_threshold_, group_soft_threshold_])
@pytest.mark.parametrize(
    ("amounts", "error", "message"),
    [
        (-1.0, ValueError, "Expected `amounts` >= 0 and finite, got -1.0"),
        (NAN, ValueError, "Expected `amounts` >= 0 and finite, got nan"),
        (INF, ValueError, "Expected `amounts` >= 0 and finite, got inf"),
        (True, TypeError, "Expected `amounts` a number, got True"),
        (["1", "2"], TypeError, r"Expected `amounts\[0\]` a number, got '1'"),
        ([1.0], ValueError, "Expected one of `amounts` for each of 2 tensors, got 1"),
        ([1.0, -2.0], ValueError, r"Expected `amounts\[1\]` >= 0 and finite, got -2.0"),
    ],
    ids=str,
)
def test_bad_amounts(step: object, amounts: object, error: type[Exception], message: str) -> None:
    tensors = [normal(3, 4), normal(2, 2)]
    before = [twin(tensor) for tensor in tensors]
    with pytest.raises(error, match=message):
        step(tensors, amounts)  # type: ignore[operator]
    assert all(same_bits(a, b) for a, b in zip(tensors, before, strict=True))


def test_bad_slices() -> None:
    for call in (lambda: group_norms([torch.ones(3)], dim=1), lambda: group_soft_threshold_([torch.ones(())], 1.0)):
        with pytest.raises(ValueError, match=r"Expected tensors\[0\] to have a dimension"):
            call()
    with pytest.raises(ValueError, match="Expected `p` to be 1 or 2, got 3"):
        group_norms([torch.ones(3)], 3)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cuda_against_the_cpu(dtype: torch.dtype, layout: str) -> None:
    for maker, amount in itertools.product(MAKERS, AMOUNTS):
        tensor = LAYOUTS[layout](maker(16, 33, 5, 7, dtype=dtype))
        check_cuda(tensor, lambda t, a=amount: soft_threshold_([t], a))
        for dim in range(4):
            check_cuda(tensor, lambda t, a=amount, d=dim: group_soft_threshold_([t], a, d))
            for p in (1, 2):
                assert same_bits(group_norms([tensor.cuda()], p, dim)[0], group_norms([tensor], p, dim)[0])


def check_cuda(tensor: Tensor, step: object) -> None:
    here, there = twin(tensor), twin(tensor.cuda())
    step(here)  # type: ignore[operator]
    step(there)  # type: ignore[operator]
    assert same_bits(there, here)


@pytest.mark.gpu
def test_cuda_graph() -> None:
    tensors = [torch.full((100 + i,), 8.0, device="cuda") for i in range(600)]  # more than one launch takes
    soft_threshold_(tensors, 1.0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        soft_threshold_(tensors, 1.0)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert all((tensor == 4.0).all() for tensor in tensors)
