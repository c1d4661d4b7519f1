"""Lists of weights for the tests of pruning: dtypes, views, ties, special values."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, levels: int = 0) -> Tensor:
    """Normal numbers; with `levels` rounded to so many steps a unit, so that many are equal."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((values * levels).round() / levels if levels else values).to(dtype)


def views(dtype: torch.dtype, levels: int = 0) -> dict[str, Tensor]:
    """Tensors whose memory is laid out in every way that differs."""
    base = normal(6, 5, 4, 8, dtype=dtype, seed=1, levels=levels)
    return {
        "contiguous": base,
        "transposed": base.transpose(0, 3),
        "channels_last": base.clone().contiguous(memory_format=torch.channels_last),
        "strided": base.clone()[::2, 1:, ::3],
        "offset by one": base.clone().flatten()[1:],
        "columns": base.clone().flatten(1)[:, 3:70],
        "scalar": normal(dtype=dtype, seed=2, levels=levels),
        "empty": normal(3, 0, dtype=dtype),
        "one": normal(1, 1, dtype=dtype, seed=3, levels=levels),
    }


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit: NaN equals itself, -0 differs from 0."""
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))


def patterns(dtype: torch.dtype, *bits: int) -> Tensor:
    """Numbers given by their bits."""
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    return torch.tensor(bits, dtype=integers).view(dtype)
