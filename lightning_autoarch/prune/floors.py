"""What every target keeps, so that no layer is emptied and no norm of zeros alone is divided by.

A comparison of all weights with one another may take all of a layer whose weights are small, and the net is then
constant (*layer collapse*: Tanaka et al. 2020, *Pruning neural networks without any data*, section 3). Therefore

    n_l    numbers of target l        s    sparsity of all targets        phi    `floor`
    c_l    slices of target l over which a norm is taken; 0 where there is no norm

    target l keeps at least  max(c_l, 1, round(phi (1 - s) n_l)):

phi = 0.1 is a tenth of what it would keep if all targets had the same sparsity. Where a target would fall below that,
it keeps exactly that many, its largest, and the others are compared anew for what is still to be pruned: the total is
exact. Where no target would, the result is that of the plain comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_autoarch.prune.magnitude import magnitude_masks
from lightning_autoarch.prune.mask import BitMask


def floors(sizes: Sequence[int], slices: Sequence[int], sparsity: float, share: float) -> list[int]:
    """How many each target keeps at least.

    Args:
        sizes: numbers of each target.
        slices: of each target those that must keep one number each.
        sparsity: of all targets, in [0, 1].
        share: phi; 0 turns off all but `slices`.

    Returns:
        The floors. Where the sparsity leaves too few weights for them, one for each target; where it leaves too few for
        those, `slices`.

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


def smallest_above_floors(
    tensors: Sequence[Tensor],
    k: int,
    masks: Sequence[BitMask],  # what is pruned already
    scores: Sequence[Tensor] | None,
    least: Sequence[int],  # how many of each are kept at least
) -> list[BitMask]:
    """`magnitude_masks` of scope "global" that prunes k, and of each tensor keeps at least so many.

    What is pruned already stays pruned, also where fewer are left than `least`. Expects that k leaves at least that
    many of all. Exact selections: at most one more than there are tensors, and one where no floor is reached.

    Raises:
        PruneValueError: a NaN.
    """
    sizes = [tensor.numel() for tensor in tensors]
    least = [min(low, mask.count()) for low, mask in zip(least, masks, strict=True)]
    held: dict[int, int] = {}  # target -> how many of it are pruned

    def choose(which: Sequence[int], count: int) -> dict[int, BitMask]:
        chosen = magnitude_masks(
            [tensors[i] for i in which],
            k=count,
            masks=[masks[i] for i in which],
            scores=None if scores is None else [scores[i] for i in which],
        )
        return dict(zip(which, chosen, strict=True))

    while True:
        free = [i for i in range(len(sizes)) if i not in held]
        found = choose(free, k - sum(held.values()))
        short = [i for i in free if found[i].count() < least[i]]
        if not short:
            break
        held.update({i: sizes[i] - least[i] for i in short})
    for i, count in held.items():
        found.update(choose([i], count))
    return [found[i] for i in range(len(sizes))]


def protecting_slices(
    tensors: Sequence[Tensor],
    masks: Sequence[BitMask],
    scores: Sequence[Tensor] | None,
    normed: Sequence[tuple[int, ...]],  # for each tensor the dimensions that a norm is taken over
) -> Sequence[Tensor] | None:
    """The scores, infinite where a slice has its largest that is still kept; None where no norm is taken."""
    if not any(normed):
        return scores
    compared = [tensor.detach() for tensor in (tensors if scores is None else scores)]
    return [
        _protected(score, mask, dims) if dims else score
        for score, mask, dims in zip(compared, masks, normed, strict=True)
    ]


def _protected(score: Tensor, mask: BitMask, dims: tuple[int, ...]) -> Tensor:
    others = [d for d in range(score.dim()) if d not in dims]
    order = [*others, *dims]
    magnitudes = torch.where(mask.unpack(), score.abs(), torch.full_like(score, -1.0))
    rows = magnitudes.permute(order).reshape(-1, magnitudes.numel() // max(1, _slices(score, others)))
    best = rows.argmax(1, keepdim=True)
    there = rows.gather(1, best) >= 0  # what has nothing left has nothing to protect
    chosen = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, there)
    shape = [score.shape[d] for d in order]
    places = chosen.view(shape).permute([order.index(d) for d in range(score.dim())])
    return score.masked_fill(places, torch.inf)


def _slices(score: Tensor, others: Sequence[int]) -> int:
    return torch.Size([score.shape[d] for d in others]).numel()
