"""The channels in each dimension of a module's tensors, for any width, and where they come from in a source.

A dimension is a row of segments, one behind the other. In each segment the units of one channel group are in order,
with `block` neighbouring indices for each unit:

    rows of a layer              [0 1 2 3]                one segment, block 1
    columns after a flatten      [0 0 0 1 1 1 ...]        one segment, block H * W
    rows of an LSTM              [0 1 2 | 0 1 2 | ...]    four segments
    columns after a cat          [0 1 2 | 0 1]            a segment of each group

Segments and blocks are the same for every width. A dimension that cannot be described like this (after a channel
shuffle) has no row. GroupNorm is assumed to have the same number of groups in every width.

If the source has w units in a group and the module W, each unit of the module is made from

    W = w    the same unit
    W < w    one of the most important units, by the squared norm of everything that produces them; the first of equals
    W > w    "widen": unit j from unit floor(j w / W), the consumers sharing what they had (`structure.replicate`)
             otherwise: the first w from the source, the others keep their values
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_autoarch.structure.groups import ChannelGroup
from lightning_autoarch.structure.replicate import keeps_norms, shares, spaced_weights, why_not
from lightning_autoarch.transfer.match.axes import squared_norms
from lightning_autoarch.transfer.read.state_dicts import StateDict

PRODUCERS = ("producer", "tied")
Place: TypeAlias = tuple[str, int]  # name of a tensor, dimension
Code: TypeAlias = tuple[int, int]  # group, unit


@dataclass(frozen=True)
class Segment:
    """All units of a group in order, with `block` indices each."""

    group: int
    block: int


Row: TypeAlias = tuple[Segment, ...]


@dataclass(frozen=True)
class Units:
    """The channels of a group. The attributes that are not listed are those of `ChannelGroup`.

    Attributes:
        width: Number of units.
        roles: Where the units are -> whether they are produced or consumed there.
        grain: Number of units that were one unit of the `ChannelGroup`, if a norm is taken over each.
    """

    name: str
    width: int
    roles: Mapping[Place, str]
    fixed: str | None
    exact: bool
    replicable: bool
    grain: int = 1


@dataclass(frozen=True)
class Rows:
    """The groups of a module, the row of each dimension, and the groups in each dimension without a row."""

    units: tuple[Units, ...]
    rows: Mapping[Place, Row]
    unordered: Mapping[Place, frozenset[int]]

    def channels_of_a_unit(self, place: Place, units: Units) -> int:
        """The number of indices of a dimension that belong to one unit."""
        return sum(segment.block for segment in self.rows[place] if self.units[segment.group] is units)


def rows_of(module: nn.Module, groups: Sequence[ChannelGroup]) -> Rows:
    """The rows of `channel_groups(module, ...)`."""
    rows: dict[Place, Row] = {}
    unordered: dict[Place, frozenset[int]] = {}
    for place, codes in _codes(groups).items():
        row = _row(codes, groups)
        if row is None:
            unordered[place] = frozenset(group for group, _ in codes)
        else:
            rows[place] = row
    units = tuple(map(_units, groups))
    for group, inside in _grains(module, rows).items():
        units, rows = _split(units, rows, group, inside)
    return Rows(units, rows, unordered)


def _units(group: ChannelGroup) -> Units:
    roles = {(member.name, member.dim): member.role for member in group.members}
    return Units(group.name, group.width, roles, group.fixed, group.exact, group.replicable)


def _codes(groups: Sequence[ChannelGroup]) -> dict[Place, list[Code]]:
    """Group and unit of each index of each dimension that counts channels."""
    found: dict[Place, dict[int, Code]] = {}
    for number, group in enumerate(groups):
        for member in group.members:
            codes = found.setdefault((member.name, member.dim), {})
            for unit, places in enumerate(member.index):
                codes |= dict.fromkeys(places, (number, unit))
    return {place: [code for _, code in sorted(codes.items())] for place, codes in found.items()}


def _row(codes: Sequence[Code], groups: Sequence[ChannelGroup]) -> Row | None:
    runs = [(code, len(list(same))) for code, same in itertools.groupby(codes)]
    row: list[Segment] = []
    start = 0
    while start < len(runs):
        (group, _), block = runs[start]
        width = groups[group].width
        if runs[start : start + width] != [((group, unit), block) for unit in range(width)]:
            return None
        row.append(Segment(group, block))
        start += width
    return tuple(row)


def _grains(module: nn.Module, rows: Mapping[Place, Row]) -> dict[int, int]:
    """The number of channels in a unit, for each group whose units are whole groups of a GroupNorm."""
    grains: dict[int, int] = {}
    for path, norm in module.named_modules():
        if isinstance(norm, nn.GroupNorm) and norm.affine:
            row = rows.get((f"{path}.weight" if path else "weight", 0), ())
            inside = norm.num_channels // norm.num_groups
            if len(row) == 1 and row[0].block == inside > 1:
                grains[row[0].group] = inside
    return grains


def _split(
    units: tuple[Units, ...], rows: Mapping[Place, Row], group: int, inside: int
) -> tuple[tuple[Units, ...], dict[Place, Row]]:
    """Split each unit of a group into the `inside` channels over which a norm is taken."""
    if any(segment.block % inside for row in rows.values() for segment in row if segment.group == group):
        return units, dict(rows)
    whole = units[group]
    finer = replace(whole, width=whole.width * inside, exact=False, grain=inside)
    cut = {
        place: tuple(replace(s, block=s.block // inside) if s.group == group else s for s in row)
        for place, row in rows.items()
    }
    return (*units[:group], finer, *units[group + 1 :]), cut


@dataclass(frozen=True)
class Assignment:
    """Where the units of a group come from.

    Attributes:
        origin: (W,) Units of the source; -1 for none.
        status: "loaded", "widened" or "sliced".
        problem: Why the module will not compute the source's function; empty if it will.
    """

    origin: Tensor
    status: str = "loaded"
    problem: str = ""

    @property
    def shares(self) -> Tensor:  # (W,)
        """The share that each unit keeps of what the consumers had."""
        if self.status != "widened":
            return torch.ones(len(self.origin), dtype=torch.float64)
        return shares(self.origin, spaced_weights(self.origin))


def assign(units: Units, width: int, importance: Tensor | None, missing: str, *, widen: bool) -> Assignment:
    """Assign units of the source to those of the module.

    Args:
        units: Of the module.
        width: Number of units in the source.
        importance: (width,) Importance of each unit of the source; None if unknown.
        missing: Name of a tensor of the group that no source can have; empty if there is none.
        widen: Replicate units if the module has more of them.
    """
    here = torch.arange(units.width)
    if width == units.width:
        return Assignment(here)
    words = f"the {width} channels of `{units.name}` in the source become {units.width} in the module"
    if width > units.width:
        if units.fixed is not None:
            return Assignment(here, "sliced", f"{words}, but their number is fixed: {units.fixed}")
        return Assignment(here if importance is None else _most(importance, units.width), "sliced")
    impossible = _impossible(units)
    if impossible or not widen:
        return Assignment(torch.where(here < width, here, -1), "sliced", f"{words}, but {impossible}")
    problem = _inexact(units, width, missing)
    return Assignment(here * width // units.width, "widened", f"{words}, but {problem}" if problem else "")


def _most(importance: Tensor, count: int) -> Tensor:  # (count,) ascending
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _impossible(units: Units) -> str:
    if units.fixed is not None:
        return f"their number is fixed: {units.fixed}"
    return why_not(units.replicable, (name for (name, _), role in units.roles.items() if role == "tied"))


def _inexact(units: Units, width: int, missing: str) -> str:
    if not keeps_norms(units.exact, width, units.width):
        return "a norm or mean is taken over them, which only multiples keep"
    return f"`{missing}` is not a weight that the source could have" if missing else ""


def importance(
    group: int, found: Rows, widths: Mapping[int, int], sources: Mapping[str, str], state: StateDict
) -> Tensor | None:  # (w,)
    """Squared norm of everything that produces each unit of the source; None if the source has none of it."""
    total = torch.zeros(widths[group], dtype=torch.float64)
    places = [p for p, role in found.units[group].roles.items() if role in PRODUCERS and p in found.rows]
    places = [place for place in places if place[0] in sources]
    for place in places:
        squares = squared_norms(state[sources[place[0]]], place[1]).cpu()
        numbers = unit_numbers(found.rows[place], widths, group)
        if len(numbers) != len(squares):
            return None
        total.index_add_(0, numbers[numbers >= 0], squares[numbers >= 0])
    return total if places else None


def unit_numbers(row: Row, widths: Mapping[int, int], group: int) -> Tensor:
    """The unit of one group for each index of a dimension; -1 for units of other groups."""
    parts = [torch.arange(widths[s.group]).repeat_interleave(s.block) for s in row]
    return torch.cat(
        [part if s.group == group else torch.full_like(part, -1) for s, part in zip(row, parts, strict=True)]
    )


def origins(row: Row, widths: Mapping[int, int], assigned: Mapping[int, Assignment]) -> Tensor:
    """The index in the source for each index of a dimension of the module; -1 for none."""
    parts, start = [], 0
    for segment in row:
        origin = assigned[segment.group].origin
        inside = torch.arange(segment.block)
        index = (origin[:, None] * segment.block + inside + start).reshape(-1)
        parts.append(torch.where((origin >= 0).repeat_interleave(segment.block), index, -1))
        start += widths[segment.group] * segment.block
    return torch.cat(parts)


def place_shares(place: Place, found: Rows, assigned: Mapping[int, Assignment]) -> Tensor | None:
    """The factor of each index of a dimension in which channels are read; None if there is none."""
    row = found.rows[place]
    reads = [found.units[s.group].roles[place] == "consumer" and assigned[s.group].status == "widened" for s in row]
    if not any(reads):
        return None
    parts = [
        (assigned[s.group].shares if read else torch.ones(len(assigned[s.group].origin), dtype=torch.float64))
        .repeat_interleave(s.block)
        for s, read in zip(row, reads, strict=True)
    ]  # fmt: skip
    return torch.cat(parts)
