"""An array in six numbers and words, by which two starts of a search see whether their data are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

MOST_NUMBERS = 1_000_000  # of an array that enter its sketch


def sketch(value: torch.Tensor | np.ndarray) -> list[Any]:
    """An array as its type, shape, norm, and its products with two fixed vectors."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return ["array", str(value.dtype), list(value.shape), 0.0, 0.0, 0.0]
        numbers = torch.from_numpy(np.ascontiguousarray(_spread(value.reshape(-1)), dtype=np.float64))
    elif value.is_meta or value.layout != torch.strided or value.is_complex() or value.is_quantized:
        return ["array", str(value.dtype), list(value.shape), 0.0, 0.0, 0.0]
    else:
        numbers = _spread(value.detach().reshape(-1)).to(device="cpu", dtype=torch.float64)
    numbers = torch.nan_to_num(numbers, 0.5, 1e30, -1e30)
    index = torch.arange(len(numbers), dtype=torch.float64)
    products = [float(numbers @ torch.cos(a * index + b)) for a, b in ((1.7, 0.3), (2.9, 1.1))]
    kind = str(value.dtype).removeprefix("torch.")
    return ["array", kind, list(value.shape), float(numbers.norm()), *products]


def _spread(flat: Any) -> Any:
    return flat[:: -(-len(flat) // MOST_NUMBERS)] if len(flat) else flat
