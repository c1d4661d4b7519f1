"""Whether two computations of the same values agree to half of the digits of their dtype.

    |a - b| <= sqrt(eps) max(1, max |b|)        float64 1.5e-8   float32 3.5e-4   float16 3.1e-2   bfloat16 8.8e-2

Another runtime adds in another order and fuses other steps, which changes a few of the last digits; a wrong weight or a
missing layer changes the first. Integers and booleans must be equal, NaN and infinities in the same positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest |got - expected|; infinity if only one of them is NaN somewhere, or if the shapes differ.

    >>> nan = float("nan")
    >>> difference(torch.tensor([1.0, nan]), torch.tensor([1.5, nan])), difference(torch.ones(1), torch.ones(2))
    (0.5, inf)
    """
    if got.shape != expected.shape:
        return math.inf
    if not got.numel():
        return 0.0
    a, b = _wide(got), _wide(expected)
    same = (a == b) | (a.isnan() & b.isnan())
    far = (a - b).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    return float(torch.where(same, 0.0, far).max())


def allowed(
    expected: Tensor,
    tolerance: float | None = None,  # instead of sqrt(eps)
) -> float:
    """The largest `difference` from these values that is accepted.

    >>> allowed(torch.tensor([3])), round(allowed(torch.tensor([-4.0])), 6)
    (0.0, 0.001381)
    """
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0
    finite = _wide(expected).abs()
    finite = finite[finite.isfinite()]
    largest = float(finite.max()) if finite.numel() else 0.0
    relative = math.sqrt(torch.finfo(expected.dtype).eps) if tolerance is None else tolerance
    return relative * max(1.0, largest)


def _wide(values: Tensor) -> Tensor:
    """On the CPU, in the widest dtype of its kind."""
    values = values.detach().cpu()
    return values.to(torch.complex128 if values.is_complex() else torch.float64)
