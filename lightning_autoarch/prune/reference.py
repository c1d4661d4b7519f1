"""Each operation in a few lines of plain torch: the specification that the kernels are tested against, and the
implementation for devices other than CPU and CUDA (slower, and with temporaries many times the size of the weights).

Numbers are compared as integers, so a device needs int64. What adds or scales needs float64: on one that has none (mps)
torch raises its error from `transposable_keep`, `group_norms` and `group_soft_threshold_`; pass tensors on the CPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
LANES = 32


def keys(tensor: Tensor) -> Tensor:  # the same shape, int64
    """Magnitudes as integers in their order: the bits with the sign cleared."""
    bits = tensor.detach().contiguous().view(INTEGERS[tensor.element_size()])
    return (bits & torch.iinfo(bits.dtype).max).to(torch.int64)


def removed(
    tensors: Sequence[Tensor], candidates: Sequence[Tensor] | None, remove: int
) -> tuple[list[Tensor], int]:  # boolean, True where removed; the largest key removed
    """The `remove` smallest of the candidates: by key, among equals the highest flat index first."""
    flat = torch.cat([keys(tensor).flatten() for tensor in tensors])
    chosen = torch.ones_like(flat, dtype=torch.bool)
    if candidates is not None:
        chosen = torch.cat([mask.flatten() for mask in candidates])
    places = chosen.nonzero().flatten().flip(0)  # highest index first; the stable sort keeps that among equals
    order = places[flat[places].sort(stable=True).indices][:remove]
    result = torch.zeros_like(chosen)
    result[order] = True
    parts = torch.split(result, [tensor.numel() for tensor in tensors])
    key = int(flat[order[-1]]) if remove else 0
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)], key


def zero_(tensor: Tensor, keep: Tensor) -> None:
    """Write +0 where `keep` is False."""
    tensor.detach().masked_fill_(~keep, 0.0)


def nm_keep(tensor: Tensor, n: int, m: int, dim: int) -> Tensor:  # boolean
    """The n largest of each m neighbours along `dim`, among equals the first."""
    groups = torch.unflatten(keys(tensor).movedim(dim, -1), -1, (-1, m))
    order = groups.sort(dim=-1, descending=True, stable=True).indices
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return keep.flatten(-2).movedim(-1, dim)


def transposable_keep(tensor: Tensor) -> Tensor:  # boolean, of the last two dimensions
    """For each 4 x 4 tile the pattern, two a row and two a column, with the largest sum of magnitudes: patterns.h."""
    pairs = [(1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 1, 0, 1), (0, 0, 1, 1)]
    rows = [torch.tensor(r, dtype=torch.bool) for r in itertools.product(pairs, repeat=4)]
    patterns = torch.stack([r for r in rows if (r.sum(0) == 2).all()]).to(tensor.device)  # (90, 4, 4)
    magnitudes = keys(tensor).to(INTEGERS[tensor.element_size()]).view(tensor.dtype).double().nan_to_num(nan=torch.inf)
    magnitudes = magnitudes.clamp(max=torch.finfo(torch.float64).max / 16)
    tiles = torch.unflatten(torch.unflatten(magnitudes, -1, (-1, 4)), -3, (-1, 4)).transpose(-3, -2)  # (..., 4, 4)
    sums = torch.zeros(*tiles.shape[:-2], len(patterns), dtype=torch.float64, device=tensor.device)
    for i, j in itertools.product(range(4), repeat=2):
        sums = torch.where(patterns[:, i, j], sums + tiles[..., i, j, None], sums)
    best = (sums == sums.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)  # the first of equals
    return patterns[best].transpose(-3, -2).flatten(-4, -3).flatten(-2)


def soft_threshold_(tensor: Tensor, amount: float) -> None:
    """sign(x) max(|x| - amount, 0), in float32 (float64 for float64)."""
    work = tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    left = work.abs() - torch.tensor(amount, dtype=work.dtype, device=work.device)
    result = torch.where(left > 0, left.copysign(work), torch.zeros_like(work))
    tensor.detach().copy_(torch.where(work.isnan(), work, result))


def group_norms(tensor: Tensor, p: int, dim: int) -> Tensor:  # (shape[dim],) float64
    """Norms of the slices along `dim`: 32 lanes, each in order, then added in a tree, as csrc/prune.h gives it."""
    slices = tensor.detach().movedim(dim, 0).unsqueeze(-1).flatten(1).double().abs()
    slices = slices if p == 1 else slices * slices
    padding = -slices.shape[1] % LANES
    rounds = torch.unflatten(torch.nn.functional.pad(slices, (0, padding)), 1, (-1, LANES))
    sums = torch.zeros(len(slices), LANES, dtype=torch.float64, device=tensor.device)
    for i in range(rounds.shape[1]):
        sums = sums + rounds[:, i]
    while sums.shape[1] > 1:
        sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
    if p == 1:
        return sums[:, 0]
    return sums[:, 0].cpu().apply_(math.sqrt).to(tensor.device)  # torch's own may be off by the last bit


def group_soft_threshold_(tensor: Tensor, norms: Tensor, amount: float, dim: int) -> None:
    """Slices times max(1 - amount / norm, 0); a slice whose norm is not finite stays."""
    factors = torch.where(norms > amount, 1 - torch.full_like(norms, amount) / norms, torch.zeros_like(norms))
    factors = torch.where(norms.isfinite() & (amount > 0), factors, torch.ones_like(norms))
    shape = [-1 if d == dim % tensor.dim() else 1 for d in range(tensor.dim())]
    scale = factors.view(shape)
    work = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    scaled = (tensor.detach().double() * scale).to(work).to(tensor.dtype)
    zeros = torch.zeros_like(scaled)
    scaled = torch.where(scale == 0, zeros, torch.where(scale == 1, tensor.detach(), scaled))
    tensor.detach().copy_(scaled)
