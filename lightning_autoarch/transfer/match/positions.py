"""What happens to position embeddings of another size: resampled, skipped with a reason, or treated like any tensor.

    a grid is given              resampled, also the positions of a sequence
    a table of relative positions, or a grid (1, D, H, W)              its shape tells the grid
    patches of an image          resampled if both grids are squares, or the module's is known from its `grid_size`;
                                 otherwise skipped: 196 rows may be 14 x 14 or 7 x 28
    a sequence                   like any tensor: "slice" copies the leading rows, the others keep their values
    a buffer                     skipped: the module has computed it for its own size

Nothing is ever resampled in one dimension unless `grid` asks for it. The shapes that are understood:

    (1, N, D), (N, D)                 rows: tokens, then a grid in row-major order, then tokens
    (1, D, H, W), (1, H, W, D)        a grid
    (R, heads)                        a table of relative positions in a window h x w: R = (2 h - 1) (2 w - 1)

Rows are resampled like an image of their features, and tokens are copied. In two dimensions interpolation is bicubic,
with antialiasing where the grid shrinks, so that constants stay constant and no position is ignored; in one and three
dimensions it is linear.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.core.patterns import compile_patterns, plain_name
from lightning_autoarch.transfer.match.module_tensors import ModuleTensor
from lightning_autoarch.transfer.match.position_evidence import Evidence, evidence_of, is_position_embedding, window_of
from lightning_autoarch.transfer.match.shapes import ShapeFit
from lightning_autoarch.transfer.read.state_dicts import Shape

GridPair: TypeAlias = tuple[Sequence[int], Sequence[int]]  # in the source, in the module
Grid: TypeAlias = GridPair | Mapping[str, GridPair]  # the keys are patterns of names

TABLE = re.compile(r"(^|\.)relative_position_bias_table$")
AXIS = re.compile(r"(^|\.)rel_pos_[hw]$")  # relative positions along one axis
CLASS_ROWS = 3  # of a table: to the class token, from it, and of it to itself
TOKENS = (1, 0, 2)  # numbers of tokens in front of a grid, tried in this order
MOST_TOKENS = 16
EXPECTED = "`grid` as ((height, width) in the source, (height, width) in the module), or {pattern: such a pair}"
MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


@dataclass(frozen=True)
class RowLayout:
    """The meaning of the rows of a position embedding.

    Attributes:
        grid: Sizes of the grid, in row-major order.
        before: Number of tokens in front of the grid: class, distillation, registers.
        behind: Number of tokens behind the grid.
    """

    grid: Shape
    before: int = 0
    behind: int = 0

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return self.before + math.prod(self.grid) + self.behind

    def __str__(self) -> str:
        tokens = self.before + self.behind
        return "x".join(map(str, self.grid)) + (f" and {tokens} token{'s' if tokens > 1 else ''}" if tokens else "")


def resample_rows(rows: Tensor, old: RowLayout, new: RowLayout, kept: Tensor) -> Tensor:  # (N, D) -> (M, D)
    """Resample rows to another grid.

    Args:
        rows: Of a floating-point dtype, which is kept. The computation is in float32 or float64.
        old: Layout of the rows.
        new: Layout of the result.
        kept: (M, D), the source of tokens that `rows` does not have.
    """
    work = rows if rows.dtype == torch.float64 else rows.float()
    start, end = old.before, old.before + math.prod(old.grid)
    grid = work[start:end].t().reshape(1, -1, *old.grid)
    made = resample_grid(grid, new.grid).flatten(2)[0].t()
    before = _tokens(work[:start], kept[: new.before])
    behind = _tokens(work[end:], kept[new.before + len(made) :])
    return torch.cat([before, made, behind]).to(rows.dtype)


def resample_grid(grid: Tensor, size: Shape) -> Tensor:  # (1, D, *old) -> (1, D, *size)
    """Resample the features of a grid to another one."""
    if len(size) == 2:
        return functional.interpolate(grid, size=list(size), mode="bicubic", align_corners=False, antialias=True)
    return functional.interpolate(grid, size=list(size), mode=MODES[len(size)], align_corners=True)


def _tokens(old: Tensor, kept: Tensor) -> Tensor:
    """As many tokens as `kept` has, the first ones from `old`."""
    return torch.cat([old[: len(kept)], kept[len(old) :].to(old)])


@dataclass(frozen=True)
class PositionEmbeddings:
    """The position embeddings of a module.

    Attributes:
        module: The module, whose layers tell what the positions belong to.
        given: Pattern -> grids of source and module; the pattern "" stands for any position embedding that they fit.
        used: The patterns by which a tensor was resampled.
    """

    module: nn.Module
    given: Mapping[str, tuple[Shape, Shape]]
    used: set[str] = field(default_factory=set)

    def fit(self, target: ModuleTensor, old: Shape, new: Shape | None = None) -> ShapeFit | None:
        """How a tensor of the source is adapted; None if it is treated like any tensor.

        Args:
            target: The tensor of the module.
            old: Its shape in the source.
            new: The shape to make of it; by default the shape of the target.

        Raises:
            TransferError: A pattern of `grid` matches this tensor, but the grid does not fit it.
        """
        new = target.shape if new is None else new
        layouts = self._given_for(target, old, new)
        if layouts is not None:
            return None if old == new and layouts[0] == layouts[1] else _rows_fit(target, new, *layouts)
        if old == new or len(old) != len(new) or 0 in (*old, *new):
            return None
        if not target.is_parameter:
            own = is_position_embedding(target.name)
            return ShapeFit("initialised", "positions that the module computes for its own size") if own else None
        differ = {dim for dim, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}
        if is_position_embedding(target.name) and len(old) == 4:
            return _grid_fit(old, new, differ)
        if differ != {len(old) - 2} or not (len(old) == 2 or (len(old) == 3 and old[0] == 1)):
            return None
        return self._inferred(target, old, new)

    def check_used(self) -> None:
        """Raise TransferError for a grid that no tensor has."""
        unused = [pattern for pattern in self.given if pattern not in self.used]
        if unused:
            old, new = self.given[unused[0]]
            of = f" of {unused[0]!r}" if unused[0] else ""
            raise TransferError(
                f"Expected `grid`{of} to be that of a position embedding, got {_text(old)} in the source and "
                f"{_text(new)} in the module, but no tensor has these rows in both."
            )

    def _given_for(self, target: ModuleTensor, old: Shape, new: Shape) -> tuple[RowLayout, RowLayout] | None:
        for pattern, (there, here) in self.given.items():
            meant = _matches(target.name, pattern) if pattern else _is_positions(target.name)
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
                    f"the source and {_text(here)} for {new[-2]} in the module."
                )
        return None

    def _inferred(self, target: ModuleTensor, old: Shape, new: Shape) -> ShapeFit | None:
        rows = (old[-2], new[-2])
        if AXIS.search(target.name):
            return _rows_fit(target, new, RowLayout((rows[0],)), RowLayout((rows[1],)))
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


def checked_grid(grid: Grid | None) -> dict[str, tuple[Shape, Shape]]:
    """`grid` of `Matching` as a mapping.

    Raises:
        TransferError: Something else.
    """
    if grid is None:
        return {}
    pairs = dict(grid) if isinstance(grid, Mapping) else {"": grid}
    if isinstance(grid, Mapping):
        compile_patterns(list(pairs), "grid", TransferError)
    return {pattern: _pair(pair, grid) for pattern, pair in pairs.items()}


def _pair(pair: object, grid: object) -> tuple[Shape, Shape]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise TransferError(f"Expected {EXPECTED}, got {grid!r:.80}.")
    old, new = (_sizes(each, grid) for each in pair)
    if len(old) != len(new):
        raise TransferError(f"Expected {EXPECTED}, both of the same number of dimensions, got {grid!r:.80}.")
    return old, new


def _sizes(sizes: object, grid: object) -> Shape:
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or not 1 <= len(sizes) <= 3:
        raise TransferError(f"Expected {EXPECTED}, got {grid!r:.80}.")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise TransferError(f"Expected {EXPECTED}, got {grid!r:.80}.")
    return tuple(sizes)


def _is_positions(name: str) -> bool:
    return is_position_embedding(name) or TABLE.search(name) is not None


def _laid(rows: int, grid: Shape, *, is_table: bool) -> RowLayout | None:
    """The layout of rows as this grid with tokens; None if it does not fit."""
    if is_table:
        return _table(rows, grid)
    tokens = rows - math.prod(grid)
    return RowLayout(grid, before=tokens) if 0 <= tokens <= MOST_TOKENS else None


def _table(rows: int, window: Shape | None) -> RowLayout | None:
    """The layout of a table of relative positions in a window, which is assumed to be a square if it is unknown."""
    for behind in (0, CLASS_ROWS):
        side = math.isqrt(max(rows - behind, 0))
        sizes = (side, side) if window is None else tuple(2 * size - 1 for size in window)
        if math.prod(sizes) == rows - behind and all(size % 2 for size in sizes):
            return RowLayout(sizes, behind=behind)
    return None


def _patches(rows: tuple[int, int], evidence: Evidence) -> tuple[RowLayout, RowLayout] | None:
    """The layouts of source and module; None unless both can be inferred."""
    declared = [RowLayout(grid, rows[1] - math.prod(grid)) for grid in evidence.grids]
    known = [layout for layout in declared if 0 <= layout.before <= MOST_TOKENS]
    tokens = [evidence.tokens] if evidence.tokens else []
    if known:
        found = next((old for t in (known[0].before, *tokens, *TOKENS) if (old := _square(rows[0], t))), None)
        return None if found is None else (found, known[0])
    usual = TOKENS if evidence.kind == "image" else (1,)  # a square number of rows alone may mean anything
    for each in (*tokens, *usual):
        old, new = _square(rows[0], each), _square(rows[1], each)
        if old is not None and new is not None:
            return old, new
    return None


def _square(rows: int, tokens: int) -> RowLayout | None:
    side = math.isqrt(max(rows - tokens, 0))
    return RowLayout((side, side), tokens) if side and side * side == rows - tokens else None


def _unknown(old: Shape, new: Shape) -> ShapeFit:
    sizes = f"positions {_text(old)} in the source, {_text(new)} in the module"
    return ShapeFit("skipped", f"{sizes}: pass their grids as `grid`")


def _rows_fit(target: ModuleTensor, new: Shape, old_layout: RowLayout, new_layout: RowLayout) -> ShapeFit:
    def make(tensor: Tensor) -> Tensor:
        kept = target.tensor.detach().reshape(-1, target.shape[-1])
        width = tensor.shape[-1]
        same = kept.shape == (new_layout.rows, width)
        rows = tensor.reshape(-1, width)
        fill = kept.to(rows.device) if same else rows.new_zeros(new_layout.rows, width)
        return resample_rows(rows, old_layout, new_layout, fill).reshape(new)

    reason = f"positions {old_layout} to {new_layout}"
    return ShapeFit("interpolated", reason, make, taken=math.prod(new))


def _grid_fit(old: Shape, new: Shape, differ: set[int]) -> ShapeFit | None:
    """For (1, D, H, W) and (1, H, W, D)."""
    if old[0] != 1 or not (differ <= {2, 3} or differ <= {1, 2}):
        return None
    last = 1 in differ  # features last

    def make(tensor: Tensor) -> Tensor:
        work = tensor.float() if tensor.dtype.itemsize < 4 else tensor
        grid = work.permute(0, 3, 1, 2) if last else work
        made = resample_grid(grid, new[1:3] if last else new[2:])
        return (made.permute(0, 2, 3, 1) if last else made).to(tensor.dtype)

    return ShapeFit("interpolated", f"positions {_text(old)} to {_text(new)}", make, taken=math.prod(new))


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _matches(name: str, pattern: str) -> bool:
    return any(each.covers(plain_name(name)) for each in compile_patterns(pattern, "grid", TransferError))
