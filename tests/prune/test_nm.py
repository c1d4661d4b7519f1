"""n-of-m and transposable masks: analytic cases, then the reference, then what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from weight_lists import DTYPES, INF, INTEGERS, LAYOUTS, NAN, few_values, normal, random_bits

from lightning_autoarch.prune import BitMask, nm_masks, reference

MAKERS = [normal, few_values, random_bits]


def kept(tensor: Tensor, n: int = 2, m: int = 4, dim: int = -1) -> list[int]:
    return nm_masks([tensor], n, m, dim)[0].unpack().int().tolist()


@pytest.mark.parametrize("dtype", DTYPES)
class TestOrder:
    def test_the_largest_stay(self, dtype: torch.dtype) -> None:
        tensor = torch.tensor([1.0, -4.0, 2.0, 3.0, 0.5, 0.25, -1.0, 0.0], dtype=dtype)
        assert kept(tensor) == [0, 1, 0, 1, 1, 0, 1, 0]
        assert kept(tensor, 1, 8) == [0, 1, 0, 0, 0, 0, 0, 0]
        assert kept(tensor, 1, 1) == [1] * 8
        assert kept(tensor, 1, 2) == [0, 1, 0, 1, 1, 0, 1, 0]

    def test_among_equals_the_first(self, dtype: torch.dtype) -> None:
        assert kept(torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=dtype)) == [1, 1, 0, 0]
        assert kept(torch.tensor([-0.0, 0.0, 1.0, -0.0], dtype=dtype)) == [1, 0, 1, 0]

    def test_infinity_nan_and_denormals(self, dtype: torch.dtype) -> None:
        assert kept(torch.tensor([1.0, -INF, NAN, 2.0], dtype=dtype), 1) == [0, 0, 1, 0]
        assert kept(torch.tensor([1.0, -INF, NAN, 2.0], dtype=dtype)) == [0, 1, 1, 0]
        tiny = torch.tensor([1, 0, 2, 0], dtype=INTEGERS[dtype.itemsize]).view(dtype)
        assert kept(tiny) == [1, 0, 1, 0] and kept(tiny, 1) == [0, 0, 1, 0]

    def test_transposable_keeps_the_largest_sum(self, dtype: torch.dtype) -> None:
        tile = torch.eye(4, dtype=dtype) * 4 + torch.eye(4, dtype=dtype).roll(1, 1) * 2 + 0.5
        (mask,) = nm_masks([tile], transposable=True)
        assert torch.equal(mask.unpack(), tile > 0.5)

    def test_transposable_of_equals_is_the_first_pattern(self, dtype: torch.dtype) -> None:
        (mask,) = nm_masks([torch.zeros(4, 4, dtype=dtype)], transposable=True)
        assert mask.unpack().int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("maker", MAKERS)
class TestReference:
    def test_any_pattern_along_any_dimension(self, dtype: torch.dtype, maker: object) -> None:
        for n, m in [(1, 2), (2, 4), (1, 4), (4, 8), (3, 5), (16, 64), (64, 64), (7, 16)]:
            for shape, dim in [((3 * m,), 0), ((7, 2 * m), 1), ((2 * m, 7), 0), ((3, 2 * m, 3), 1), ((2, 3, m, 1), -2)]:
                tensor = maker(*shape, dtype=dtype)  # type: ignore[operator]
                (mask,) = nm_masks([tensor], n, m, dim)
                assert torch.equal(mask.unpack(), reference.nm_keep(tensor, n, m, dim)), (n, m, shape)

    @pytest.mark.parametrize("shape", [(4, 4), (8, 12), (3, 4, 20), (2, 2, 64, 8), (0, 4, 4), (4, 0)], ids=str)
    def test_transposable(self, dtype: torch.dtype, maker: object, shape: tuple[int, ...]) -> None:
        tensor = maker(*shape, dtype=dtype)  # type: ignore[operator]
        (mask,) = nm_masks([tensor], transposable=True)
        assert torch.equal(mask.unpack(), reference.transposable_keep(tensor))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, dtype: torch.dtype, maker: object, layout: str) -> None:
        tensor = maker(8, 4, 12, 4, dtype=dtype)  # type: ignore[operator]
        laid = LAYOUTS[layout](tensor)
        for dim in range(4):
            assert nm_masks([laid], dim=dim) == nm_masks([tensor], dim=dim)
        assert nm_masks([laid], transposable=True) == nm_masks([tensor], transposable=True)


def test_sums_beyond_the_largest_number_are_compared() -> None:
    tile = torch.full((4, 4), torch.finfo(torch.float64).max / 4, dtype=torch.float64)
    tile[3, :2] *= 4  # every sum is beyond float64; those are weighed as its largest over 16
    (mask,) = nm_masks([tile], transposable=True)
    assert torch.equal(mask.unpack(), reference.transposable_keep(tile))


@pytest.mark.parametrize("shape", [(4, 70_001), (12, 40_003), (2, 8, 33_333)], ids=str)
def test_rows_too_long_for_a_buffer(shape: tuple[int, ...]) -> None:
    tensor = few_values(*shape)
    (mask,) = nm_masks([tensor], dim=-2)
    assert torch.equal(mask.unpack(), reference.nm_keep(tensor, 2, 4, -2))
    tiles = tensor[..., : shape[-1] // 4 * 4].repeat_interleave(3, -1)
    (wide,) = nm_masks([tiles], transposable=True)
    assert torch.equal(wide.unpack(), reference.transposable_keep(tiles))


def test_threads_and_lists() -> None:
    tensors = [few_values(600, 500), normal(40, 64), few_values(4, 4)]
    masks = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        masks.append((nm_masks(tensors), nm_masks(tensors, dim=0), nm_masks(tensors, transposable=True)))
    torch.set_num_threads(1)
    assert masks[0] == masks[1] == masks[2]
    assert nm_masks([]) == [] and nm_masks([torch.empty(0)])[0].numel == 0
    assert nm_masks(t for t in tensors) == nm_masks(tensors)


def test_tied_and_expanded() -> None:
    tensor = normal(4, 1, 4)
    masks = nm_masks([tensor, tensor])
    assert masks[0] is masks[1]
    assert nm_masks([tensor.expand(4, 3, 4)]) == nm_masks([tensor.expand(4, 3, 4).contiguous()])


def test_tensors_stay_as_they_are() -> None:
    parameter = torch.nn.Parameter(few_values(8, 8))
    before, version = parameter.detach().clone(), parameter._version
    nm_masks([parameter])
    nm_masks([parameter], transposable=True)
    assert torch.equal(parameter, before) and parameter._version == version


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((6,), {}, r"Expected a multiple of 4 along dimension -1 of tensors\[0\], got 6: leave it out"),
        ((8, 6), {"transposable": True}, "Expected a multiple of 4"),
        ((6, 8), {"transposable": True}, "Expected a multiple of 4"),
        ((8,), {"transposable": True}, "Expected .* to have a dimension -2"),
        ((8,), {"dim": 1}, "Expected .* to have a dimension 1"),
        ((), {}, "Expected .* to have a dimension -1"),
        ((8,), {"n": 0}, "Expected 1 <= n <= m <= 64, got n=0, m=4"),
        ((8,), {"n": 5}, "Expected 1 <= n <= m <= 64"),
        ((128,), {"m": 128}, "Expected 1 <= n <= m <= 64"),
        ((8, 8), {"n": 1, "transposable": True}, "Expected n=2, m=4, dim=-1 with `transposable`"),
    ],
    ids=str,
)
def test_bad_input(shape: tuple[int, ...], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nm_masks([torch.ones(shape)], **options)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_against_the_cpu(dtype: torch.dtype) -> None:
    for maker, layout in itertools.product(MAKERS, LAYOUTS):
        tensor = LAYOUTS[layout](maker(64, 8, 12, 4, dtype=dtype))
        for n, m, dim in [(2, 4, -1), (2, 4, 0), (1, 4, 1), (16, 64, 0), (3, 6, 2)]:
            assert on_cpu(nm_masks([tensor.cuda()], n, m, dim)) == nm_masks([tensor], n, m, dim)
        assert on_cpu(nm_masks([tensor.cuda()], transposable=True)) == nm_masks([tensor], transposable=True)


def on_cpu(masks: list[BitMask]) -> list[BitMask]:
    return [mask.to("cpu") for mask in masks]


@pytest.mark.gpu
def test_cuda_graph() -> None:
    tensor = normal(64, 64).cuda()
    nm_masks([tensor])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (mask,) = nm_masks([tensor])
    tensor.copy_(normal(64, 64, seed=1))
    graph.replay()
    torch.cuda.synchronize()
    assert mask.to("cpu") == nm_masks([normal(64, 64, seed=1)])[0]
