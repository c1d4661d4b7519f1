"""Lists of tensors that pruning operations are tested with: dtypes, memory layouts, ties, and comparison by bits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
INF, NAN = float("inf"), float("nan")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed)).to(dtype)


def few_values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Ties everywhere: both zeros, both ones, the smallest denormal, infinity."""
    denormal = torch.ones(1, dtype=INTEGERS[dtype.itemsize]).view(dtype)
    values = torch.cat([torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, INF], dtype=dtype), denormal, -denormal])
    return values[torch.randint(len(values), shape, generator=generator(seed))]


def random_bits(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Any number of the dtype, all exponents alike, but no NaN: those become an infinity."""
    integer = INTEGERS[dtype.itemsize]
    low, high = torch.iinfo(integer).min, torch.iinfo(integer).max
    tensor = torch.randint(low, high, shape, generator=generator(seed), dtype=integer).view(dtype)
    return torch.where(tensor.isnan(), torch.full_like(tensor, INF), tensor)


def bits(tensor: Tensor) -> Tensor:
    """The numbers as integers, in logical order: equal bits say that signs of zeros and NaN are equal too."""
    return tensor.detach().cpu().contiguous().view(INTEGERS[tensor.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(bits(a), bits(b))


def twin(tensor: Tensor) -> Tensor:
    """A copy with the same strides, in memory of its own."""
    if tensor.numel() == 0:
        return tensor.detach().clone()
    size = 1 + sum(stride * (n - 1) for stride, n in zip(tensor.stride(), tensor.shape, strict=True))
    memory = tensor.detach().as_strided((size,), (1,)).clone()
    return memory.as_strided(tensor.shape, tensor.stride())


# What a 4-dimensional tensor may lie like in memory. The logical content is the tensor's.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t.clone(),
    "channels_last": lambda t: t.clone(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "reversed": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "with gaps": lambda t: torch.stack([t, torch.full_like(t, 7.0)], dim=-1)[..., 0],
    "sliced": lambda t: torch.nn.functional.pad(t, (1, 2, 0, 1))[..., : t.shape[2], 1 : 1 + t.shape[3]],
    "offset by one element": lambda t: torch.cat([t.new_ones(1), t.flatten()])[1:].view(t.shape),
}


@st.composite
def tensor_lists(draw: st.DrawFn, *, min_size: int = 0, numbers: bool = False, dim: int | None = None) -> list[Tensor]:
    """Lists of one dtype: any shapes and strides, many or no ties, some tensors tied to one another."""
    dtype = draw(st.sampled_from(DTYPES))
    makers = [normal, few_values] if numbers else [normal, few_values, random_bits]
    tensors: list[Tensor] = []
    for _ in range(draw(st.integers(min_size, 4))):
        if tensors and draw(st.integers(0, 5)) == 0:
            tensors.append(draw(st.sampled_from(tensors)))
            continue
        least = 0 if dim is None else dim
        shape = draw(st.lists(st.integers(0, 9), min_size=least, max_size=4))
        if draw(st.booleans()) and shape:
            shape[0] *= 40  # beyond a block and beyond a word
        tensor = draw(st.sampled_from(makers))(*shape, dtype=dtype, seed=draw(st.integers(0, 2**31)))
        order = draw(st.permutations(range(len(shape))))
        steps = draw(st.lists(st.integers(1, 2), min_size=len(shape), max_size=len(shape)))
        tensors.append(tensor.permute(order)[tuple(slice(None, None, step) for step in steps)])
    return tensors


def twins(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of a list, tied where it is."""
    made = {id(tensor): twin(tensor) for tensor in tensors}
    return [made[id(tensor)] for tensor in tensors]


def distinct(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
