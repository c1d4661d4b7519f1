"""The compiled operations: analytic cases, then torch as the oracle, then hostile inputs."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_autoarch.prune import _ops, count_nonzero

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
BLOCK = 32768  # csrc/tuning.h, count_block


def sparse_normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return (values * (torch.rand(shape, generator=generator) < 0.6)).to(dtype)


def oracle(tensor: Tensor) -> int:
    return int(torch.count_nonzero(tensor))


@pytest.mark.parametrize("dtype", DTYPES)
class TestCount:
    def test_signed_zeros_are_zero_and_the_rest_is_not(self, dtype: torch.dtype) -> None:
        smallest = torch.finfo(dtype).smallest_normal
        special = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), smallest, -smallest, 1.0]
        assert count_nonzero(torch.tensor(special, dtype=dtype)) == 6

    def test_empty_and_scalar(self, dtype: torch.dtype) -> None:
        assert count_nonzero(torch.empty(0, dtype=dtype)) == 0
        assert count_nonzero(torch.empty(3, 0, 2, dtype=dtype)) == 0
        assert count_nonzero(torch.tensor(2.0, dtype=dtype)) == 1
        assert count_nonzero(torch.tensor(-0.0, dtype=dtype)) == 0

    @pytest.mark.parametrize("n", [1, 7, 63, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 5])
    def test_sizes_around_a_block(self, dtype: torch.dtype, n: int) -> None:
        assert count_nonzero(torch.ones(n, dtype=dtype)) == n
        assert count_nonzero(torch.zeros(n, dtype=dtype)) == 0
        tensor = sparse_normal(n, dtype=dtype)
        assert count_nonzero(tensor) == oracle(tensor)

    def test_views(self, dtype: torch.dtype) -> None:
        tensor = sparse_normal(6, 5, 4, 3, dtype=dtype)
        views = {
            "transposed": tensor.transpose(0, 2),
            "channels_last": tensor.contiguous(memory_format=torch.channels_last),
            "strided": tensor[::2, 1:, ::3],
            "offset by one element": tensor.flatten()[1:],
            "expanded": tensor[:, :1].expand(6, 7, 4, 3),
            "one of each": tensor[:1, :, 2:3].permute(3, 1, 0, 2),
        }
        assert {k: count_nonzero(v) for k, v in views.items()} == {k: oracle(v) for k, v in views.items()}

    def test_denormals_count_although_they_are_flushed(self, dtype: torch.dtype) -> None:
        bits = {torch.float32: torch.int32, torch.float64: torch.int64}.get(dtype, torch.int16)
        denormals = torch.tensor([1, 2, 3], dtype=bits).view(dtype)
        torch.set_flush_denormal(True)
        try:
            assert count_nonzero(denormals) == 3
        finally:
            torch.set_flush_denormal(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_pattern(dtype: torch.dtype) -> None:
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    assert count_nonzero(patterns) == 2**16 - 2  # all but the two zeros


@given(
    shape=st.lists(st.integers(0, 6), max_size=4),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_any_view_against_torch(shape: list[int], seed: int, dtype: torch.dtype, data: st.DataObject) -> None:
    tensor = sparse_normal(*shape, dtype=dtype, seed=seed)
    order = data.draw(st.permutations(range(len(shape))))
    steps = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    view = tensor.permute(order)[tuple(slice(None, None, step) for step in steps)]
    assert count_nonzero(view) == oracle(view)


def test_parameter_with_gradient_stays_as_it_is() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    version = parameter._version
    assert count_nonzero(parameter) == 1
    assert (parameter._version, parameter.requires_grad) == (version, True)


def test_threads_at_once() -> None:
    tensors = [sparse_normal(100_000 + i, dtype=torch.float32, seed=i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count_nonzero, tensors)) == list(map(oracle, tensors))


class Subclass(Tensor):
    pass


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        ([1.0], TypeError, "Expected `tensor` to be a torch.Tensor or Parameter, got list"),
        (torch.ones(2).as_subclass(Subclass), TypeError, "Expected `tensor` to be .* got Subclass"),
        (torch.eye(2).to_sparse(), TypeError, "Expected `tensor` to be dense, got torch.sparse_coo"),
        (
            torch.ones(2, dtype=torch.int64),
            TypeError,
            "Expected `tensor` of dtype float32, .* got torch.int64",
        ),
        (
            torch.ones(2, dtype=torch.complex64),
            TypeError,
            "Expected `tensor` of dtype .* got torch.complex64",
        ),
        (torch.ones(2, device="meta"), ValueError, "Expected `tensor` with values, got one on the meta device"),
    ],
    ids=["list", "subclass", "sparse", "integer", "complex", "meta"],
)
def test_bad_input(tensor: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        count_nonzero(tensor)


def test_the_extension_checks_what_it_is_given() -> None:
    dtype = _ops._C.Dtype.float32
    with pytest.raises(ValueError, match="Expected `n` >= 0, got -1"):
        _ops._C.count_nonzero(0, -1, dtype)
    with pytest.raises(ValueError, match="Expected `data` to point at n elements, got null"):
        _ops._C.count_nonzero(0, 1, dtype)
    with pytest.raises(TypeError):
        _ops._C.count_nonzero(0, 0, 0)


def test_cuda_call_without_cuda_says_so() -> None:
    if _ops.cuda_state()["available"]:
        pytest.skip("there is a CUDA device")
    with pytest.raises(RuntimeError, match=r"built without CUDA|CUDA error \d+"):
        _ops._C.cuda.count_nonzero(0, 0, _ops._C.Dtype.float32, 8, (0, 0))


def test_missing_extension_is_an_error_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ops, "LOAD_ERROR", ImportError("file too short"))
    with pytest.raises(ImportError, match=r"_C cannot be used: file too short\. Install the package"):
        count_nonzero(torch.ones(1))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_against_the_cpu(dtype: torch.dtype) -> None:
    for n, offset in itertools.product([0, 1, 31, 32, 257, 1_000_003], [0, 1, 3]):
        tensor = sparse_normal(n + offset, dtype=dtype)[offset:]
        assert count_nonzero(tensor.cuda()) == oracle(tensor), (n, offset)


@pytest.mark.gpu
def test_cuda_follows_the_current_stream() -> None:
    tensor = torch.zeros(1 << 24, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10_000_000)  # on another stream the count would be taken before the fill
        tensor.fill_(1)
        assert count_nonzero(tensor) == tensor.numel()
