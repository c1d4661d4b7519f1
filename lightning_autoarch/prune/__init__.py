"""What to remove: operations on weights, compiled for the CPU and CUDA.

Only :func:`count_nonzero` so far. It needs the compiled extension and neither Lightning nor a search.
"""

from lightning_autoarch.prune._ops import count_nonzero

__all__ = ["count_nonzero"]
