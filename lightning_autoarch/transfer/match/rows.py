"""How the channels of a module lie in each dimension of its tensors, in a form that other widths can be put into.

A dimension is a row of segments, one behind the other; in each the units of one channel group stand in order, `block`
neighbours for each unit:

    rows of a layer              [0 1 2 3]                one segment, block 1
    columns after a flatten      [0 0 0 1 1 1 ...]        one segment, block H * W
    rows of an LSTM              [0 1 2 | 0 1 2 | ...]    four segments
    columns after a cat          [0 1 2 | 0 1]            a segment of each group

Of another width the segments and blocks are the same. What does not read like this (a channel shuffle) has no row.
GroupNorm is taken to have as many groups in every width.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import nn

from lightning_autoarch.structure.groups import ChannelGroup

Place: TypeAlias = tuple[str, int]  # name of a tensor, dimension
Code: TypeAlias = tuple[int, int]  # group, unit


@dataclass(frozen=True)
class Segment:
    """All units of a group in order, each `block` times."""

    group: int
    block: int


Row: TypeAlias = tuple[Segment, ...]


@dataclass(frozen=True)
class Units:
    """Coupled channels: what of a `ChannelGroup` does not depend on its width."""

    name: str
    width: int
    roles: Mapping[Place, str]
    fixed: str | None
    exact: bool
    replicable: bool
    grain: int = 1  # channels in what was one unit of the `ChannelGroup`


@dataclass(frozen=True)
class Rows:
    """Of a module: its groups, the row of each dimension, and which groups are in a dimension without a row."""

    units: tuple[Units, ...]
    rows: Mapping[Place, Row]
    unordered: Mapping[Place, frozenset[int]]

    def channels_of_a_unit(self, place: Place, units: Units) -> int:
        """How many indices of a dimension belong to one unit."""
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
    """For each index of a dimension its group and unit; sizes of kernels are in none."""
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
    """For each group whose units are whole groups of a GroupNorm, how many channels these have."""
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
    """Units of a group cut into `inside` channels each, over which a norm is taken."""
    if any(segment.block % inside for row in rows.values() for segment in row if segment.group == group):
        return units, dict(rows)
    whole = units[group]
    finer = replace(whole, width=whole.width * inside, exact=False, grain=inside)
    cut = {
        place: tuple(replace(s, block=s.block // inside) if s.group == group else s for s in row)
        for place, row in rows.items()
    }
    return (*units[:group], finer, *units[group + 1 :]), cut
