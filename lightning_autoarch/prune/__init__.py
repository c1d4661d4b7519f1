"""What to remove: exact magnitude selection and the masks of it, n-of-m patterns, proximal steps.

    magnitude_threshold   magnitude_masks   prune_   apply_masks_       the k smallest |w| of a list of tensors
    nm_masks                                                            n of each m neighbours stay
    soft_threshold_   group_soft_threshold_   group_norms   group_masks   L1, group lasso, whole slices
    BitMask   density   count_nonzero

Compiled for the CPU and CUDA; it needs neither Lightning nor a search. `reference` is all of it in plain torch.
"""

from lightning_autoarch.prune._ops import count_nonzero
from lightning_autoarch.prune.magnitude import apply_masks_, density, magnitude_masks, magnitude_threshold, prune_
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.nm import nm_masks
from lightning_autoarch.prune.regularize import group_masks, group_norms, group_soft_threshold_, soft_threshold_

__all__ = [
    "BitMask",
    "apply_masks_",
    "count_nonzero",
    "density",
    "group_masks",
    "group_norms",
    "group_soft_threshold_",
    "magnitude_masks",
    "magnitude_threshold",
    "nm_masks",
    "prune_",
    "soft_threshold_",
]
