"""Proximal steps and structured masks: zeros by L1 and group lasso, and whole slices by their norms.

prox of a |w|_1:      sign(w) max(|w| - a, 0)                          (soft threshold)
prox of a |w_g|_2:    w_g max(1 - a / |w_g|_2, 0)   for each slice g   (Yuan & Lin, 2006, group lasso)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, SupportsFloat, SupportsIndex

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune import _ops, reference
from lightning_autoarch.prune.counts import as_int, as_number, count_of, non_negative, one_or_each
from lightning_autoarch.prune.magnitude import magnitude_masks
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.memory import readable
from lightning_autoarch.prune.nm import slices
from lightning_autoarch.prune.operation import announce, operation
from lightning_autoarch.prune.selection import Scope
from lightning_autoarch.prune.tensors import TensorList, collect


@operation
def soft_threshold_(tensors: Iterable[Tensor], amounts: SupportsFloat | Sequence[SupportsFloat]) -> None:
    """Move every weight towards zero by an amount, and to +0 if it is smaller than that; NaN is unchanged.

    One subtraction in float32 (float64 for float64), rounded to the dtype. On CUDA the call does not wait for the
    device, and can be captured in a CUDA graph.

    Args:
        tensors: as in `prune_`, not overlapping in memory; tied ones are moved once.
        amounts: >= 0, one number or one for each tensor.

    Raises:
        PruneTypeError, PruneValueError: the arguments are anything else. Nothing was changed.

    >>> import torch
    >>> weight = torch.tensor([1.0, -0.25, -2.0])
    >>> soft_threshold_([weight], 0.5)
    >>> weight
    tensor([ 0.5000,  0.0000, -1.5000])
    """
    weights = collect(tensors, writing=True)
    each = one_or_each(weights, amounts, "amounts", non_negative)
    if weights.unique and not _ops.compiled(weights.unique[0].device):
        for tensor, amount in zip(weights.unique, each, strict=True):
            reference.soft_threshold_(tensor, amount)
    else:
        _ops.soft_threshold(weights.unique, each)
    announce(weights.passed)


@operation
def group_norms(
    tensors: Iterable[Tensor], p: Literal[1, 2] = 2, dim: int = 0
) -> list[Tensor]:  # (tensor.shape[dim],) each; float64 for float64, else float32
    """The p-norm of each slice along `dim`, such as rows or output channels; added in float64, in one order everywhere.

    The sums are plain ones: if the squares of float64 weights overflow or underflow, the 2-norm is inf or 0.

    Args:
        tensors: as in `magnitude_masks`.
        p: 1 or 2.
        dim: the slices are `tensor.select(dim, 0)`, ...

    Raises:
        PruneTypeError, PruneValueError: the arguments are anything else.

    >>> import torch
    >>> group_norms([torch.tensor([[3.0, 4.0], [0.0, 1.0]])])
    [tensor([5., 1.])]
    """
    order = _norm_order(p)
    weights = collect(tensors)
    dim = _dimension(weights, dim)
    norms = [_norms(readable(t), order, dim).to(_norm_dtype(t)) for t in weights.unique]
    return weights.spread(norms)


@operation
def group_soft_threshold_(
    tensors: Iterable[Tensor], amounts: SupportsFloat | Sequence[SupportsFloat], dim: int = 0
) -> None:
    """Shrink the 2-norm of each slice along `dim` by an amount; slices of a smaller norm become +0 as a whole.

    A slice whose norm is not finite is unchanged. On CUDA the call does not wait for the device.

    Args:
        tensors, amounts: as in `soft_threshold_`.
        dim: as in `group_norms`.

    Raises:
        PruneTypeError, PruneValueError: the arguments are anything else. Nothing was changed.

    >>> import torch
    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    >>> group_soft_threshold_([weight], 2.5)
    >>> weight
    tensor([[1.5000, 2.0000],
            [0.0000, 0.0000]])
    """
    weights = collect(tensors, writing=True)
    dim = _dimension(weights, dim)
    each = one_or_each(weights, amounts, "amounts", non_negative)
    norms = [_norms(tensor, 2, dim) for tensor in weights.unique]  # all of them before the first is written
    for tensor, its, amount in zip(weights.unique, norms, each, strict=True):
        if _ops.compiled(tensor.device):
            _ops.group_soft_threshold(tensor, slices(tensor, dim), its, amount)
        else:
            reference.group_soft_threshold_(tensor, its, amount, dim)
    announce(weights.passed)


@operation
def group_masks(
    tensors: Iterable[Tensor],
    amount: SupportsFloat | Sequence[SupportsFloat] | None = None,
    p: Literal[1, 2] = 2,
    dim: int = 0,
    *,
    k: SupportsIndex | Sequence[SupportsIndex] | None = None,
    scope: Scope = "global",
) -> list[BitMask]:
    """Masks of whole slices along `dim`: the smallest norms are pruned; of equals, the lowest index is kept.

    Args:
        tensors: as in `magnitude_masks`.
        amount: share of the slices that is pruned, in [0, 1]: k = round(amount * slices). 1 is all of them.
        p, dim: as in `group_norms`.
        k: how many slices are pruned. Exactly one of `amount` and `k` is given.
        scope: "global" compares the slices of all tensors; "tensor" those of each, and `amount` or `k` may then be one
            number for each tensor.

    Raises:
        PruneTypeError, PruneValueError: the arguments are anything else, or a norm is NaN.

    On CUDA the call waits for the device.

    >>> import torch
    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    >>> group_masks([weight], 0.5)[0].unpack()
    tensor([[ True,  True],
            [False, False]])
    >>> group_masks([weight], k=1) == group_masks([weight], 0.5)
    True
    """
    weights = collect(tensors)
    order, dim = _norm_order(p), _dimension(weights, dim)
    count = _slices_of(weights, amount, k, dim, scope)
    norms = [_norms(readable(tensor), order, dim) for tensor in weights.unique]  # not rounded as those of group_norms
    kept = weights.distinct(magnitude_masks(weights.spread(norms), k=count, scope=scope), "masks")
    return weights.spread([_whole(mask, tensor, dim) for mask, tensor in zip(kept, weights.unique, strict=True)])


def _slices_of(weights: TensorList, amount: object, k: object, dim: int, scope: Scope) -> int | list[int]:
    """How many slices are pruned, of all tensors or of each."""
    sizes = [tensor.shape[dim] for tensor in weights.unique]
    if scope == "global":
        return count_of(sum(sizes), amount, k, "amount", "slices")
    nothing = [None] * len(sizes)
    amounts = nothing if amount is None else one_or_each(weights, amount, "amount", as_number)
    ks = nothing if k is None else one_or_each(weights, k, "k", as_int)
    each = zip(sizes, amounts, ks, strict=True)
    return weights.spread([count_of(size, one, its, "amount", "slices") for size, one, its in each])


def _whole(mask: BitMask, tensor: Tensor, dim: int) -> BitMask:
    shape = [-1 if d == dim % tensor.dim() else 1 for d in range(tensor.dim())]
    return BitMask.pack(mask.unpack().view(shape).expand(tensor.shape))


def _norms(tensor: Tensor, p: int, dim: int) -> Tensor:  # (shape[dim],) float64
    if not _ops.compiled(tensor.device):
        return reference.group_norms(tensor, p, dim)
    return _ops.group_norms(tensor, slices(tensor, dim), p)


def _norm_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _norm_order(p: object) -> int:
    order = as_number(p, "p")
    if order not in (1, 2):
        raise PruneValueError(f"Expected `p` to be 1 or 2, got {p}.")
    return int(order)


def _dimension(weights: TensorList, dim: object) -> int:
    """The dimension as an int; every tensor has to have it."""
    d = as_int(dim, "dim")
    for tensor, name in zip(weights.unique, weights.names, strict=True):
        if not -tensor.dim() <= d < tensor.dim():
            raise PruneValueError(f"Expected {name} to have a dimension {d}, got shape {tuple(tensor.shape)}.")
    return d
