"""n-of-m sparsity: the n largest of each m neighbours are kept (Zhou et al., 2021, "Learning N:M fine-grained
structured sparse neural networks from scratch").

The transposable kind is 2:4 along rows and along columns (Hubara et al., 2021, "Accelerated sparse neural training"),
so that the backward pass is sparse too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune import _ops, reference
from lightning_autoarch.prune.counts import as_int
from lightning_autoarch.prune.mask import BitMask, unwritten
from lightning_autoarch.prune.memory import readable
from lightning_autoarch.prune.operation import operation
from lightning_autoarch.prune.tensors import collect


@operation
def nm_masks(
    tensors: Iterable[Tensor], n: int = 2, m: int = 4, dim: int = -1, *, transposable: bool = False
) -> list[BitMask]:
    """Masks that keep the n largest of each m neighbours along `dim` by magnitude, among equals the first.

    Args:
        tensors: as in `magnitude_masks`; the size along `dim` is a multiple of m.
        n, m: 1 <= n <= m <= 64.
        dim: the dimension along which neighbours are taken.
        transposable: 2:4 along both of the last two dimensions, with the defaults of n, m and `dim`: of the 90 patterns
            of a 4 x 4 tile, the one with the largest sum of magnitudes.

    Raises:
        PruneTypeError, PruneValueError: the arguments are anything else.

    NaN is larger than infinity. On the CPU, scratch memory grows with m times the sizes after `dim`, up to a few bytes
    for each element; `dim=-1` needs almost none. On CUDA the call does not wait for the device, and can be captured in
    a CUDA graph.

    >>> import torch
    >>> nm_masks([torch.tensor([[1.0, -4.0, 2.0, 3.0]])])[0].unpack()
    tensor([[False,  True, False,  True]])
    """
    n, m, dim = as_int(n, "n"), as_int(m, "m"), as_int(dim, "dim")
    if not 1 <= n <= m <= 64:
        raise PruneValueError(f"Expected 1 <= n <= m <= 64, got n={n}, m={m}.")
    if transposable and (n, m, dim) != (2, 4, -1):
        raise PruneValueError("Expected n=2, m=4, dim=-1 with `transposable`: it is 2:4 along the last two dimensions.")
    weights = collect(tensors)
    for tensor, name in zip(weights.unique, weights.names, strict=True):
        _check_shape(tensor, name, m, dim, transposable)
    return weights.spread([_mask(readable(tensor), n, m, dim, transposable) for tensor in weights.unique])


def _check_shape(tensor: Tensor, name: str, m: int, dim: int, transposable: bool) -> None:
    needed = (-1, -2) if transposable else (dim,)
    for d in needed:
        if not -tensor.dim() <= d < tensor.dim():
            raise PruneValueError(f"Expected {name} to have a dimension {d}, got shape {tuple(tensor.shape)}.")
        if tensor.shape[d] % m:
            raise PruneValueError(
                f"Expected a multiple of {m} along dimension {d} of {name}, got {tensor.shape[d]}: "
                "leave it out, or pass another `dim` (1 is the input channels of a convolution)."
            )


def _mask(tensor: Tensor, n: int, m: int, dim: int, transposable: bool) -> BitMask:
    if not _ops.compiled(tensor.device):
        return BitMask.pack(
            reference.transposable_keep(tensor) if transposable else reference.nm_keep(tensor, n, m, dim)
        )
    mask = unwritten(tensor)
    if transposable:
        _ops.transposable_mask(tensor, (math.prod(tensor.shape[:-2]), *tensor.shape[-2:]), mask.words)
    else:
        _ops.nm_mask(tensor, slices(tensor, dim), n, m, mask.words)
    return mask


def slices(tensor: Tensor, dim: int) -> tuple[int, int, int]:
    """The tensor as (outer, length, inner) around `dim`."""
    d = dim % tensor.dim()
    return math.prod(tensor.shape[:d]), tensor.shape[d], math.prod(tensor.shape[d + 1 :])
