"""Dynamic sparse training: some weights are dropped, as many are grown elsewhere, and the sparsity stays.

Evci et al. 2020, *Rigging the Lottery* (growth by gradient); Mocanu et al. 2018, *SET* (growth at random).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from lightning_autoarch.prune.magnitude import magnitude_masks
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.masked import MaskedWeights


def drop_fraction(step: int, end: int, alpha: float) -> float:
    """alpha / 2 (1 + cos(pi step / end)), and 0 from `end` on: the share of the kept weights that is exchanged.

    >>> [round(drop_fraction(step, 100, 0.3), 3) for step in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """
    return alpha / 2 * (1 + math.cos(math.pi * step / end)) if step < end else 0.0


def exchange(weights: MaskedWeights, fraction: float, growth: Sequence[Tensor]) -> list[BitMask]:
    """Masks with a share of the kept weights of each tensor dropped, and as many others grown.

    Args:
        weights: targets; of what is kept the smallest |w| are dropped.
        fraction: of what is kept, in [0, 1].
        growth: for each target numbers of its shape: the largest magnitudes among what was pruned are grown. What is
            dropped now is not grown again.

    Each tensor keeps one of its weights at least, and each slice that a norm is taken of one.
    """
    kept = [n - k for n, k in zip(weights.sizes, weights.pruned, strict=True)]
    spare = [n - max(1, c) for n, c in zip(kept, weights.slices, strict=True)]
    moved = [max(0, min(round(fraction * n), k, s)) for n, k, s in zip(kept, weights.pruned, spare, strict=True)]
    dropped = magnitude_masks(
        weights.parameters,
        k=[k + n for k, n in zip(weights.pruned, moved, strict=True)],
        scope="tensor",
        masks=weights.masks,
        scores=weights.scores(),
    )
    grown = magnitude_masks(growth, k=moved, scope="tensor", masks=weights.masks, largest=True)
    return [g & ~(m & ~d) for g, m, d in zip(grown, weights.masks, dropped, strict=True)]
