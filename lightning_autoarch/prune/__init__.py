"""The mathematics of pruning: exact selection by magnitude and its masks, n-of-m patterns, proximal steps.

    magnitude_threshold   magnitude_masks   regrow_masks   prune_   apply_masks_     the k smallest |w| of some tensors
    nm_masks                                                                         n of each m neighbours are kept
    soft_threshold_   group_soft_threshold_   group_norms   group_masks              L1, group lasso, whole slices
    BitMask   density   count_nonzero

Compiled for the CPU and CUDA; it needs neither Lightning nor a search. `reference` is all of it in plain torch. Each
name is imported from its module when it is first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_autoarch.prune._ops import count_nonzero
    from lightning_autoarch.prune.magnitude import (
        apply_masks_,
        density,
        magnitude_masks,
        magnitude_threshold,
        prune_,
        regrow_masks,
    )
    from lightning_autoarch.prune.mask import BitMask
    from lightning_autoarch.prune.nm import nm_masks
    from lightning_autoarch.prune.regularize import group_masks, group_norms, group_soft_threshold_, soft_threshold_

_PUBLIC = {
    "_ops": "count_nonzero",
    "magnitude": "apply_masks_ density magnitude_masks magnitude_threshold prune_ regrow_masks",
    "mask": "BitMask",
    "nm": "nm_masks",
    "regularize": "group_masks group_norms group_soft_threshold_ soft_threshold_",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names.split()}

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
    "regrow_masks",
    "soft_threshold_",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
