"""How many units of each group stay, and what is learned where a forward does not follow.

Some groups depend on one another by sizes alone, which no tensor shows: attention that makes its head size as
`channels // heads` needs the same share of both. So where a plan fails, in this order:

    groups of as many rows as those at fault lose the same share from now on        (linked)
    a group of which a single unit was left keeps two
    the groups at fault stay as they are, by name and reason                        (left)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from lightning_autoarch.prune.units import Scores, UnitScope, kept_units
from lightning_autoarch.structure import ChannelGroup, PlanError

Keep = dict[str, list[int]]


@dataclass
class Cut:
    """The choice of units for any share, under what is known so far.

    Attributes:
        groups: those that may lose units.
        scores: of `unit_scores`.
        scope, round_to: as in `kept_units`.
        left: name of a group that stays as it is, against the wish -> why.
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
        """Units that stay, of each group that loses some."""
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

    def learn(self, error: PlanError, tried: Keep) -> None:
        """Ask for something else next time.

        Raises:
            PlanError: the same, where nothing is left to ask for.
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
        """Groups that have as many rows somewhere as one at fault, if they were not linked before."""
        sizes = set().union(*(_rows(group) for group in at_fault if group.width > 1))
        kin = frozenset(group.name for group in self.groups if _rows(group) & sizes)
        named = any(group.name in kin for group in at_fault)
        return kin if named and len(kin) > 1 and kin not in self._tried else None

    def _linked(self, link: Iterable[str], kept: Keep) -> Keep:
        """The same share of each: the nearest that is a whole number of units everywhere."""
        widths = {group.name: group.width for group in self.groups if group.name in link}
        parts = math.gcd(*widths.values())
        staying = sum(len(kept.get(name, range(width))) for name, width in widths.items())
        part = min(parts, max(1, round(parts * staying / sum(widths.values()))))
        return {name: _best(self.scores[name], width * part // parts) for name, width in widths.items()}


def _rows(group: ChannelGroup) -> set[int]:
    """Over how many rows it goes in each of its dimensions, but 1."""
    return {sum(map(len, member.index)) for member in group.members} - {1}


def _best(score: torch.Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(score, descending=True, stable=True)[:count].tolist())
