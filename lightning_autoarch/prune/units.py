"""The importance of whole neurons, channels and heads ("units"), and how many of each group of them stay.

    g      a group of coupled channels (`structure.channel_groups`), of w_g units
    I_u    sqrt(sum over the members of g of ||the slices of unit u||_2^2): Fang et al. 2023, *DepGraph*, section 3.3
    s      the share of units that is removed

Some groups depend on one another by sizes alone, which no tensor shows: attention that computes its head size as
`channels // heads` needs the same share of both. So if a forward does not follow a choice, in this order:

    groups with as many rows as those at fault lose the same share from now on         (linked)
    a group that was left with a single unit keeps two
    the groups at fault keep all their units, and are reported by name and reason      (left)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneValueError, ResizeError
from lightning_autoarch.prune.regularize import group_norms
from lightning_autoarch.structure.groups import ChannelGroup

UnitScope = Literal["global", "layer"]
Norm = Literal[1, 2]
Scores = dict[str, Tensor]  # name of a group -> (w_g,) float64
Keep = dict[str, list[int]]  # name of a group -> units that stay, ascending


def unit_scores(module: nn.Module, groups: Sequence[ChannelGroup], p: Norm = 2) -> Scores:
    """The importance of every unit: norms of all weights that are removed with it, which produce or consume it.

    Args:
        module: the module of the groups.
        groups: from `channel_groups`.
        p: norm of a slice, 1 or 2; the norms of the slices of a unit are added in their p-th power.

    Returns:
        Name of a group -> (w_g,) float64, one number for each unit, on the CPU.

    Raises:
        PruneValueError: a norm is not finite; the parameter is named.
    """
    tensors = dict(module.named_parameters(remove_duplicate=False))
    return {group.name: _scores(group, tensors, p) for group in groups}


def _scores(group: ChannelGroup, tensors: Mapping[str, Tensor], p: Norm) -> Tensor:
    total = torch.zeros(group.width, dtype=torch.float64)
    for member in group.members:
        tensor = tensors.get(member.name)
        if tensor is None or tensor.dim() < 2:
            continue  # a buffer, a bias or the scale of a norm
        (norms,) = group_norms([tensor.detach()], p, member.dim)
        powers = norms.to("cpu", torch.float64) ** p
        if not bool(torch.isfinite(powers).all()):
            raise PruneValueError(f"Expected finite weights, got a NaN or infinity in `{member.name}`.")
        places = torch.tensor([place for unit in member.index for place in unit])
        unit_of = torch.repeat_interleave(torch.tensor([len(unit) for unit in member.index]))
        total.index_add_(0, unit_of, powers[places])
    return total ** (1 / p)


def kept_units(
    groups: Sequence[ChannelGroup], scores: Scores, share: float, scope: UnitScope = "global", round_to: int = 8
) -> dict[str, list[int]]:
    """The units that stay, for each group that loses some of them.

    Args:
        groups: those that may lose units.
        scores: from `unit_scores`.
        share: s, of the units of all groups, in [0, 1).
        scope: "layer" removes s of each group; "global" removes the least important units anywhere, with each score
            divided by the mean of its group so that layers of different scales compare.
        round_to: the rows of a group are rounded to the nearest multiple of it, and at least to one multiple, because
            kernels for odd sizes are slow. A group with fewer rows stays whole.

    Returns:
        Ascending numbers of units. Every group keeps at least one.
    """
    relative = {name: score / score.mean().clamp_min(torch.finfo(torch.float64).tiny) for name, score in scores.items()}
    least = _threshold([relative[group.name] for group in groups], share) if scope == "global" else None
    kept = {}
    for group in groups:
        score = relative[group.name]
        wanted = int((score > least).sum()) if least is not None else round((1 - share) * group.width)
        count = rounded(wanted, group.width, group.unit, round_to)
        if count < group.width:
            kept[group.name] = sorted(torch.argsort(score, descending=True, stable=True)[:count].tolist())
    return kept


def rounded(count: int, width: int, unit: int, round_to: int) -> int:
    """The number of units nearest to `count` whose rows are a multiple of `round_to`; in [1, width].

    >>> rounded(23, 64, 1, 8), rounded(3, 64, 1, 8), rounded(5, 8, 96, 8), rounded(3, 6, 1, 8)
    (24, 8, 5, 6)
    """
    step = round_to // math.gcd(round_to, unit)
    if step > width:
        return width
    return min(width, max(step, round(count / step) * step))


def _threshold(scores: Sequence[Tensor], share: float) -> float:
    """The score of the last unit that is removed."""
    everything = np.sort(torch.cat(list(scores)).numpy())
    gone = round(share * len(everything))
    return float(everything[gone - 1]) if gone else -math.inf


@dataclass
class Cut:
    """The choice of units for any share, given what was learned so far.

    Attributes:
        groups: those that may lose units.
        scores: from `unit_scores`.
        scope, round_to: as in `kept_units`.
        left: name of a group that keeps all its units although it was selected -> why.
    """

    groups: list[ChannelGroup]
    scores: Scores
    scope: UnitScope
    round_to: int
    left: dict[str, str] = field(default_factory=dict)
    _links: list[frozenset[str]] = field(default_factory=list)
    _tried: set[frozenset[str]] = field(default_factory=set)
    _least: dict[str, int] = field(default_factory=dict)  # name of a group -> fewest units
    _last: Keep = field(default_factory=dict)

    def keep(self, share: float) -> Keep:
        """The units that stay, of each group that loses some."""
        scores = {group.name: self.scores[group.name] for group in self.groups}
        if not self.groups:
            return {}
        kept = kept_units(self.groups, scores, share, self.scope, self.round_to)
        for link in self._links:
            kept |= self._linked(link, kept)
        for group in self.groups:
            least = self._least.get(group.name, 1)
            if len(kept.get(group.name, range(group.width))) < least:
                kept[group.name] = _best(self.scores[group.name], least)
        self._last = {name: units for name, units in kept.items() if len(units) < len(self.scores[name])}
        return self._last

    def learn(self, error: ResizeError, tried: Keep) -> None:
        """Learn from a choice that the forward did not follow, so that the next one differs.

        Raises:
            ResizeError: the same error, if no other choice is left.
        """
        at_fault = [group for group in self.groups if group.name in (error.groups or tried)]
        link = self._kin(at_fault)
        if link is not None:
            self._tried.add(link)
            self._links = [other for other in self._links if not other & link] + [link]
            return
        broken = {group.name for group in at_fault}
        single = [name for name in broken if len(tried.get(name, ())) == 1 and len(self.scores[name]) > 2]
        if single and not any(name in self._least for name in single):
            self._least |= dict.fromkeys(single, 2)
            return
        self._links = [other for other in self._links if not other & broken]
        self.left |= dict.fromkeys(sorted(broken), str(error))
        self.groups = [group for group in self.groups if group.name not in broken]
        if not self.groups:
            raise error

    def _kin(self, at_fault: Sequence[ChannelGroup]) -> frozenset[str] | None:
        """Groups that have as many rows somewhere as one at fault, unless they were linked before."""
        sizes = set().union(*(_rows(group) for group in at_fault if group.width > 1))
        kin = frozenset(group.name for group in self.groups if _rows(group) & sizes)
        named = any(group.name in kin for group in at_fault)
        return kin if named and len(kin) > 1 and kin not in self._tried else None

    def _linked(self, link: Iterable[str], kept: Keep) -> Keep:
        """The same share of each group, the nearest for which all their numbers of units are whole."""
        widths = {group.name: group.width for group in self.groups if group.name in link}
        parts = math.gcd(*widths.values())
        staying = sum(len(kept.get(name, range(width))) for name, width in widths.items())
        part = min(parts, max(1, round(parts * staying / sum(widths.values()))))
        return {name: _best(self.scores[name], width * part // parts) for name, width in widths.items()}


def _rows(group: ChannelGroup) -> set[int]:
    """The numbers of rows that it has in the tensors of its members, except 1."""
    return {sum(map(len, member.index)) for member in group.members} - {1}


def _best(score: torch.Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(score, descending=True, stable=True)[:count].tolist())
