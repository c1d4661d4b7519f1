"""How the sparsity of all targets is divided among them, and how many weights each of them keeps at least.

    n_l    number of weights of target l        s_l    its sparsity        s    sparsity of all: sum(s_l n_l) = s n
    c_l    slices of target l of which a norm is taken; 0 if there is no norm       phi    `floor`

A comparison of all weights with one another can take all of a layer whose weights are small, and the output is then
constant (*layer collapse*: Tanaka et al. 2020, *Pruning neural networks without any data*, section 3). Therefore target
l keeps at least max(c_l, 1, round(phi (1 - s) n_l)) weights: phi = 0.1 is a tenth of what it would keep if all targets
had the same sparsity. A target that would fall below its floor keeps exactly that many, its largest, and the others are
compared anew for the rest, so that the total is exact. Where no target would, the result is that of the plain
comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError


def erdos_renyi_kernel(shapes: Sequence[Sequence[int]], sparsity: float) -> list[float]:
    """ERK: 1 - s_l = e (sum of dimensions of l) / n_l, with e such that the total sparsity is s; no density exceeds 1.

    Evci et al. 2020, *Rigging the Lottery*, section 3, for kernels; Mocanu et al. 2018 for matrices. Wide layers become
    sparser than narrow ones. A tensor whose density would exceed 1 stays dense, and the others make up for it.

    Returns:
        s_l for each shape, in [0, 1].

    >>> [round(s, 3) for s in erdos_renyi_kernel([(64, 64), (64, 3, 3, 3)], 0.5)]
    [0.547, 0.388]
    """
    sizes = [max(1, _numel(shape)) for shape in shapes]
    raw = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    dense = [not shape for shape in shapes]
    while True:
        kept = (1 - sparsity) * sum(sizes) - sum(n for n, d in zip(sizes, dense, strict=True) if d)
        spread = sum(r * n for r, n, d in zip(raw, sizes, dense, strict=True) if not d)
        epsilon = max(0.0, kept) / spread if spread else 0.0
        over = [not d and epsilon * r > 1 for r, d in zip(raw, dense, strict=True)]
        if not any(over):
            return [0.0 if d else 1 - epsilon * r for r, d in zip(raw, dense, strict=True)]
        dense = [d or o for d, o in zip(dense, over, strict=True)]


def lamp_scores(weight: Tensor) -> Tensor:
    """w_u^2 / sum of w_v^2 over all v with |w_v| >= |w_u|: comparable between layers, and no layer is emptied.

    Lee et al. 2021, *Layer-adaptive sparsity for the magnitude-based pruning*, equation 5. Sorts the tensor: O(n log
    n).

    Returns:
        float32 or float64, of the shape of `weight`, in the same order as the magnitudes.

    >>> lamp_scores(torch.tensor([1.0, -2.0, 2.0]))
    tensor([0.1111, 0.5000, 1.0000])
    """
    squares = weight.detach().flatten().to(torch.float64 if weight.dtype == torch.float64 else torch.float32) ** 2
    ascending, order = squares.sort(stable=True)
    left = ascending.flip(0).cumsum(0, dtype=torch.float64).flip(0)
    scores = torch.where(left > 0, ascending / left, torch.zeros_like(left)).to(squares.dtype)
    return torch.empty_like(squares).scatter_(0, order, scores).view(weight.shape)


def counts(
    sizes: Sequence[int], sparsities: Sequence[float], at_least: Sequence[int], slices: Sequence[int]
) -> list[int]:
    """How many weights of each tensor are pruned.

    Args:
        sizes: number of weights of each tensor.
        sparsities: of each tensor.
        at_least: how many are pruned already: the result is never less.
        slices: how many are kept at least. At least one weight of each tensor is kept, whatever rounding says.

    >>> counts([10, 4, 8], [0.9, 0.9, 0.9], [0, 0, 0], [0, 0, 4])
    [9, 3, 4]
    """
    wanted = [min(round(s * n), n - max(c, min(1, n))) for n, s, c in zip(sizes, sparsities, slices, strict=True)]
    return [max(k, low) for k, low in zip(wanted, at_least, strict=True)]


def check_not_emptied(names: Sequence[str], sparsities: Sequence[float]) -> None:
    """Raises PruneValueError if a tensor would have no weight left."""
    for name, sparsity in zip(names, sparsities, strict=True):
        if not 0 <= sparsity < 1:
            raise PruneValueError(f"Expected a sparsity in [0, 1) for `{name}`, got {sparsity}.")


def floors(sizes: Sequence[int], slices: Sequence[int], sparsity: float, share: float) -> list[int]:
    """How many weights each target keeps at least.

    Args:
        sizes: number of weights of each target.
        slices: of each target, the number of slices that must keep one weight each.
        sparsity: of all targets, in [0, 1].
        share: phi; with 0, only `slices` are kept.

    Returns:
        The floors. If the sparsity leaves too few weights for them: one for each target, or else `slices`.

    >>> floors([1000, 10], [0, 0], 0.8, 0.1)
    [20, 1]
    >>> floors([1000, 10], [0, 0], 1.0, 0.1)
    [0, 0]
    """
    if share == 0:
        return list(slices)
    kept = sum(sizes) - round(sparsity * sum(sizes))
    one = [max(c, min(1, n)) for n, c in zip(sizes, slices, strict=True)]
    wanted = [max(low, round(share * (1 - sparsity) * n)) for n, low in zip(sizes, one, strict=True)]
    return next((each for each in (wanted, one) if sum(each) <= kept), list(slices))


def _numel(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()
