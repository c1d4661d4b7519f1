"""What becomes of position embeddings of another size: resampled, left alone with a reason, or treated as any tensor.

    the grid is given            resampled, sequences too
    a table of relative positions, (1, D, H, W)                        its shape says the grid
    patches of an image          both grids squares, or that of the module known from its `grid_size`: resampled
                                 otherwise skipped: 196 may be 14 x 14 or 7 x 28
    a sequence                   any tensor: "slice" takes the first rows, what is longer keeps what it was made with
    a buffer                     the module has computed it for its own size

Nothing is ever resampled as a line unless `grid` says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.evidence import Evidence, evidence_of, is_position_embedding, window_of
from lightning_autoarch.transfer.match.names import compiled
from lightning_autoarch.transfer.match.positions import Layout, Shape, resample_grid, resample_rows
from lightning_autoarch.transfer.match.shapes import Fit
from lightning_autoarch.transfer.match.targets import Target

GridPair: TypeAlias = tuple[Sequence[int], Sequence[int]]  # of the source, of the module
Grid: TypeAlias = GridPair | Mapping[str, GridPair]

TABLE = re.compile(r"(^|\.)relative_position_bias_table$")
AXIS = re.compile(r"(^|\.)rel_pos_[hw]$")  # relative positions along one axis
CLASS_ROWS = 3  # of a table: from and to the class token, and of it to itself
TOKENS = (1, 0, 2)  # in front of a grid, where the module does not say
MOST_TOKENS = 16
EXPECTED = "`grid` as ((height, width) in the source, (height, width) here), or {pattern: that}"


@dataclass(frozen=True)
class Grids:
    """The position embeddings of a module.

    Args:
        module: whose layers tell what stands where.
        given: `grid` of `transfer_weights`, checked.
    """

    module: nn.Module
    given: Mapping[str, tuple[Shape, Shape]]  # pattern -> grids of source and module; "": any that they fit
    used: set[str] = field(default_factory=set)  # patterns that a tensor was resampled by

    def fit(self, target: Target, old: Shape, new: Shape | None = None) -> Fit | None:
        """What becomes of a tensor of the source; None where nothing about it is special.

        Args:
            target: the tensor of the module.
            old: shape in the source.
            new: shape that it shall have; by default that of the target.

        Raises:
            TransferError: a grid was given for this tensor by a pattern, and is not its.
        """
        new = target.shape if new is None else new
        layouts = self._given_for(target, old, new)
        if layouts is not None:
            return None if old == new and layouts[0] == layouts[1] else _rows_fit(target, new, *layouts)
        if old == new or len(old) != len(new) or 0 in (*old, *new):
            return None
        if not target.is_parameter:
            own = is_position_embedding(target.name)
            return Fit("initialised", "positions that the module computes for its own size") if own else None
        differ = {dim for dim, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}
        if is_position_embedding(target.name) and len(old) == 4:
            return _grid_fit(old, new, differ)
        if differ != {len(old) - 2} or not (len(old) == 2 or (len(old) == 3 and old[0] == 1)):
            return None
        return self._inferred(target, old, new)

    def check_used(self) -> None:
        """Raises TransferError for a grid that no tensor has."""
        unused = [pattern for pattern in self.given if pattern not in self.used]
        if unused:
            old, new = self.given[unused[0]]
            of = f" of {unused[0]!r}" if unused[0] else ""
            raise TransferError(
                f"Expected `grid`{of} to be that of a position embedding, got {_text(old)} in the source and "
                f"{_text(new)} here, which no tensor of both has rows for."
            )

    def _given_for(self, target: Target, old: Shape, new: Shape) -> tuple[Layout, Layout] | None:
        for pattern, (there, here) in self.given.items():
            meant = re.search(pattern, target.name) is not None if pattern else _is_positions(target.name)
            if not meant or len(old) not in (2, 3) or len(new) != len(old) or (len(old) == 3 and old[0] != 1):
                continue
            is_table = TABLE.search(target.name) is not None
            first, second = _laid(old[-2], there, is_table=is_table), _laid(new[-2], here, is_table=is_table)
            if first is not None and second is not None:
                self.used.add(pattern)
                return first, second
            if pattern and _is_positions(target.name):
                raise TransferError(
                    f"Expected `grid` of {pattern!r} to fit `{target.name}`, got {_text(there)} for {old[-2]} rows in "
                    f"the source and {_text(here)} for {new[-2]} here."
                )
        return None

    def _inferred(self, target: Target, old: Shape, new: Shape) -> Fit | None:
        rows = (old[-2], new[-2])
        if AXIS.search(target.name):
            return _rows_fit(target, new, Layout((rows[0],)), Layout((rows[1],)))
        if TABLE.search(target.name):
            there, here = _table(rows[0], None), _table(rows[1], window_of(self.module, target.name))
            return _unknown(old, new) if there is None or here is None else _rows_fit(target, new, there, here)
        if not is_position_embedding(target.name):
            return None
        evidence = evidence_of(self.module, target.name, len(old))
        if evidence.kind == "sequence" or (evidence.kind == "unknown" and len(old) == 2):
            return None
        layouts = _patches(rows, evidence)
        return _unknown(old, new) if layouts is None else _rows_fit(target, new, *layouts)


def checked_grid(grid: Any) -> dict[str, tuple[Shape, Shape]]:
    """`grid` of `transfer_weights` as a mapping.

    Raises:
        TransferError: something else, or a pattern that is none.
    """
    if grid is None:
        return {}
    pairs = dict(grid) if isinstance(grid, Mapping) else {"": grid}
    if isinstance(grid, Mapping):
        compiled(list(pairs), "grid")
    return {pattern: _pair(pair, grid) for pattern, pair in pairs.items()}


def _pair(pair: Any, grid: Any) -> tuple[Shape, Shape]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise TransferError(f"Expected {EXPECTED}, got {grid!r:.80}.")
    old, new = (_sizes(each, grid) for each in pair)
    if len(old) != len(new):
        raise TransferError(f"Expected {EXPECTED}, of as many dimensions, got {grid!r:.80}.")
    return old, new


def _sizes(sizes: Any, grid: Any) -> Shape:
    listed = isinstance(sizes, Sequence) and not isinstance(sizes, str) and 1 <= len(sizes) <= 3
    if not listed or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise TransferError(f"Expected {EXPECTED}, got {grid!r:.80}.")
    return tuple(sizes)


def _is_positions(name: str) -> bool:
    return is_position_embedding(name) or TABLE.search(name) is not None


def _laid(rows: int, grid: Shape, *, is_table: bool) -> Layout | None:
    """Rows as a grid with tokens, None where they are not."""
    if is_table:
        return _table(rows, grid)
    tokens = rows - math.prod(grid)
    return Layout(grid, before=tokens) if 0 <= tokens <= MOST_TOKENS else None


def _table(rows: int, window: Shape | None) -> Layout | None:
    """A table of relative positions in a window, a square one where it is not known."""
    for behind in (0, CLASS_ROWS):
        side = math.isqrt(max(rows - behind, 0))
        sizes = (side, side) if window is None else tuple(2 * size - 1 for size in window)
        if math.prod(sizes) == rows - behind and all(size % 2 for size in sizes):
            return Layout(sizes, behind=behind)
    return None


def _patches(rows: tuple[int, int], evidence: Evidence) -> tuple[Layout, Layout] | None:
    """The layouts of source and module, where both can be known."""
    declared = [Layout(grid, rows[1] - math.prod(grid)) for grid in evidence.grids]
    known = [layout for layout in declared if 0 <= layout.before <= MOST_TOKENS]
    tokens = [evidence.tokens] if evidence.tokens else []
    if known:
        found = next((old for t in (known[0].before, *tokens, *TOKENS) if (old := _square(rows[0], t))), None)
        return None if found is None else (found, known[0])
    usual = TOKENS if evidence.kind == "image" else (1,)  # rows that are a square alone may be of anything
    for each in (*tokens, *usual):
        old, new = _square(rows[0], each), _square(rows[1], each)
        if old is not None and new is not None:
            return old, new
    return None


def _square(rows: int, tokens: int) -> Layout | None:
    side = math.isqrt(max(rows - tokens, 0))
    return Layout((side, side), tokens) if side and side * side == rows - tokens else None


def _unknown(old: Shape, new: Shape) -> Fit:
    sizes = f"positions {_text(old)} in the source, {_text(new)} here"
    return Fit("skipped", f"{sizes}: say by `grid` which grids they are")


def _rows_fit(target: Target, new: Shape, old_layout: Layout, new_layout: Layout) -> Fit:
    def make(tensor: Tensor) -> Tensor:
        kept = target.tensor.detach().reshape(-1, target.shape[-1])
        width = tensor.shape[-1]
        same = kept.shape == (new_layout.rows, width)
        rows = tensor.reshape(-1, width)
        fill = kept.to(rows.device) if same else rows.new_zeros(new_layout.rows, width)
        return resample_rows(rows, old_layout, new_layout, fill).reshape(new)

    reason = f"positions {old_layout} to {new_layout}"
    return Fit("interpolated", reason, make, taken=math.prod(new))


def _grid_fit(old: Shape, new: Shape, differ: set[int]) -> Fit | None:
    """(1, D, H, W), or (1, H, W, D)."""
    if old[0] != 1 or not (differ <= {2, 3} or differ <= {1, 2}):
        return None
    last = 1 in differ  # features last

    def make(tensor: Tensor) -> Tensor:
        work = tensor.float() if tensor.dtype.itemsize < 4 else tensor
        grid = work.permute(0, 3, 1, 2) if last else work
        made = resample_grid(grid, new[1:3] if last else new[2:])
        return (made.permute(0, 2, 3, 1) if last else made).to(tensor.dtype)

    return Fit("interpolated", f"positions {_text(old)} to {_text(new)}", make, taken=math.prod(new))


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
