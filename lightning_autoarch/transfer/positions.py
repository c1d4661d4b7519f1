"""Position embeddings for another length: interpolated along the positions, each feature by itself.

    (1, N, D)   tokens of an image, N = c + h^2 with c class tokens: these are copied, the h x h grid goes bicubically
    (N, D)      as that with one class token; any other N is a line, and goes linearly from first to last position
    (1, D, H, W) or (1, H, W, D)      a grid, bicubically
    (N, heads)  a relative position bias table, N = (2 h - 1)^2: a grid

Shrinking filters first (antialias), so that constants stay constants and no position is skipped.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor
from torch.nn import functional

NAME = re.compile(
    r"(^|\.)(pos(ition)?(al)?_?embed(ding)?s?|pos_emb|wpe|relative_position_bias_table)(\.weight)?$", re.IGNORECASE
)
CLASS_TOKENS = (1, 0, 2)


def is_position_embedding(name: str) -> bool:
    """Whether a tensor's name says that it is one."""
    return NAME.search(name) is not None


def interpolates(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether `interpolate` knows what to do: only positions differ."""
    if not is_position_embedding(name) or len(old) != len(new) or 0 in (*old, *new):
        return False
    differ = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    if len(old) == 4:
        return old[0] == 1 and (set(differ) <= {2, 3} or set(differ) <= {1, 2})
    return differ == [len(old) - 2] and (len(old) == 2 or (len(old) == 3 and old[0] == 1))


def interpolate(name: str, old: Tensor, shape: tuple[int, ...]) -> Tensor:  # (*shape)
    """A position embedding for other positions; see the module's docstring.

    Args:
        name: of the tensor.
        old: of a floating-point dtype, which is kept; computed in float32 or float64.
        shape: one for which `interpolates` holds.
    """
    work = old if old.dtype == torch.float64 else old.float()
    if old.dim() == 4:
        last = old.shape[1] != shape[1]  # features last
        grid = work.permute(0, 3, 1, 2) if last else work
        size = shape[1:3] if last else shape[2:]
        new = _grid(grid, (size[0], size[1]))
        return (new.permute(0, 2, 3, 1) if last else new).to(old.dtype)
    rows = work.reshape(old.shape[-2:])
    return _rows(name, rows, shape[-2], old.dim()).reshape(shape).to(old.dtype)


def _rows(name: str, rows: Tensor, count: int, dims: int) -> Tensor:  # (N, D) -> (count, D)
    tokens = _class_tokens(name, len(rows), count, dims)
    if tokens is None:
        line = functional.interpolate(rows.t()[None], size=count, mode="linear", align_corners=True)
        return line[0].t()
    side, new_side = math.isqrt(len(rows) - tokens), math.isqrt(count - tokens)
    grid = rows[tokens:].t().reshape(1, -1, side, side)
    new = _grid(grid, (new_side, new_side)).flatten(2)[0].t()
    return torch.cat([rows[:tokens], new])


def _class_tokens(name: str, old: int, new: int, dims: int) -> int | None:
    """How many positions are no part of a grid; None for a line."""
    if "relative_position_bias_table" in name:
        choices: tuple[int, ...] = (0,)
    else:
        choices = CLASS_TOKENS if dims == 3 else (1,)  # (N, D) is mostly text, of a length such as 256 = 16^2
    for tokens in choices:
        if _is_square(old - tokens) and _is_square(new - tokens):
            return tokens
    return None


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _grid(grid: Tensor, size: tuple[int, int]) -> Tensor:  # (1, D, H, W) -> (1, D, *size)
    return functional.interpolate(grid, size=size, mode="bicubic", align_corners=False, antialias=True)
