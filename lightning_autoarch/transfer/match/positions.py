"""Position embeddings on another grid: resampled as the image of its features, with the tokens beside it kept apart.

    (1, N, D), (N, D)                 rows: tokens, then a grid in row-major order, then tokens
    (1, D, H, W), (1, H, W, D)        a grid
    (R, heads)                        a table of relative positions in a window h x w: R = (2 h - 1) (2 w - 1)

Two dimensions go bicubically, and filtered where they shrink (antialias), so that constants stay constants and no
position is skipped; one and three dimensions go linearly. Positions of a sequence are no grid: see grids.py for what is
which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]
MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


@dataclass(frozen=True)
class Layout:
    """What the rows of a position embedding are."""

    grid: Shape  # sizes, row-major
    before: int = 0  # tokens in front of it: class, distillation, registers
    behind: int = 0

    @property
    def rows(self) -> int:
        """Of all."""
        return self.before + math.prod(self.grid) + self.behind

    def __str__(self) -> str:
        tokens = self.before + self.behind
        return "x".join(map(str, self.grid)) + (f" and {tokens} token{'s' if tokens > 1 else ''}" if tokens else "")


def resample_rows(rows: Tensor, old: Layout, new: Layout, kept: Tensor) -> Tensor:  # (N, D) -> (M, D)
    """Rows on another grid.

    Args:
        rows: of a floating-point dtype, which is kept; computed in float32 or float64.
        old: of the rows.
        new: of the result.
        kept: (M, D), of which tokens are taken that `rows` has none for.
    """
    work = rows if rows.dtype == torch.float64 else rows.float()
    start, end = old.before, old.before + math.prod(old.grid)
    grid = work[start:end].t().reshape(1, -1, *old.grid)
    made = resample_grid(grid, new.grid).flatten(2)[0].t()
    before = _tokens(work[:start], kept[: new.before])
    behind = _tokens(work[end:], kept[new.before + len(made) :])
    return torch.cat([before, made, behind]).to(rows.dtype)


def resample_grid(grid: Tensor, size: Shape) -> Tensor:  # (1, D, *old) -> (1, D, *size)
    """Features of a grid on another one."""
    if len(size) == 2:
        return functional.interpolate(grid, size=list(size), mode="bicubic", align_corners=False, antialias=True)
    return functional.interpolate(grid, size=list(size), mode=MODES[len(size)], align_corners=True)


def _tokens(old: Tensor, kept: Tensor) -> Tensor:
    """As many as `kept` has, the first of them from `old`."""
    return torch.cat([old[: len(kept)], kept[len(old) :].to(old)])
