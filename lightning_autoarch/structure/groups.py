"""`channel_groups`: which channels are coupled, and the position of each of them in every parameter.

A *unit* is what can only be removed together: one channel, all rows of an attention head, or the four gates of a hidden
unit of an LSTM. A *group* consists of the units in the same dimensions of the same tensors: the width of a layer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from torch import nn

from lightning_autoarch.structure.flow import CONSUMER, PRODUCER, RESCALED, SUMMED
from lightning_autoarch.structure.labels import Labels
from lightning_autoarch.structure.rules_products import KERNEL
from lightning_autoarch.structure.trace import Trace, trace

Role = Literal["producer", "consumer", "along", "tied"]


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer.

    Attributes:
        name: as in the state_dict; the first name of a tied parameter.
        dim: dimension of that tensor.
        role: "producer": this slice computes the channel; "consumer": it is multiplied with the channel and summed;
            "along": it scales, shifts or normalises the channel; "tied": both producer and consumer.
        index: for each unit, its indices in the dimension: H * W columns after a flatten, 4 rows of an LSTM.
    """

    name: str
    dim: int
    role: Role
    index: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that have to be removed or replicated together.

    Attributes:
        name: of the parameter that first produces them, such as "encoder.0.weight".
        width: number of units.
        members: every dimension that shrinks or grows with the group.
        fixed: why no unit can be removed; None if units can be.
        exact: whether removing a unit equals setting it to zero; False where a norm or mean is taken over the units.
        replicable: whether a unit can be replicated while its consumers share their weights; False where units are
            summed without a parameter.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    fixed: str | None = None
    exact: bool = True
    replicable: bool = True

    @property
    def unit(self) -> int:
        """Rows of one unit in the parameter that names the group: the head size, or 1 for a plain channel."""
        return len(self.members[0].index[0])


def channel_groups(module: nn.Module, example_inputs: object) -> list[ChannelGroup]:
    """All groups of coupled channels, including those that are fixed.

    Args:
        module: any; it is unchanged afterwards.
        example_inputs: as for `trace`.

    Raises:
        StructureError: the forward cannot be followed; the message names the operation.
    """
    return [group for group, _ in groups_of(trace(module, example_inputs))]


Place = tuple[str, int]  # name of a tensor, one of its dimensions


def groups_of(seen: Trace) -> list[tuple[ChannelGroup, tuple[int, ...]]]:
    """The groups of a trace, each with the roots of its units in order."""
    rows = {
        (name, dim): seen.sets.roots(row)
        for name, (_, dims) in seen.tensors.items()
        for dim, row in enumerate(dims)
        if len(row) > 1
    }
    taken: Counter[str] = Counter()
    return [(_group(seen, roots, places, rows, taken), roots) for roots, places in _kinds(seen, rows)]


def _kinds(seen: Trace, rows: Mapping[Place, Labels]) -> Iterator[tuple[tuple[int, ...], list[Place]]]:
    """Roots that are in the same rows, and those rows; those that have to stay apart from those that may go."""
    kind = np.zeros(seen.sets.size, dtype=np.int64)  # of each root; 0: in no row yet
    places: list[list[Place]] = [[]]
    for place, roots in rows.items():
        here = np.unique(roots)
        before, which = np.unique(kind[here], return_inverse=True)
        kind[here] = len(places) + which
        places += [[*places[old], place] for old in before.tolist()]
    found: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for root in np.flatnonzero(kind).tolist():
        reason = seen.sets.reason(root)
        if reason != KERNEL:
            found[int(kind[root]), reason is None].append(root)
    for (number, _), group in found.items():
        yield tuple(group), places[number]


def _group(
    seen: Trace, roots: tuple[int, ...], places: Sequence[Place], rows: Mapping[Place, Labels], taken: Counter[str]
) -> ChannelGroup:
    members = [Member(*place, _role(seen, *place), _index(rows[place], roots)) for place in places]
    members.sort(key=lambda m: m.role not in (PRODUCER, "tied"))  # stable: in the order of the parameters
    marks = seen.sets.marks(*roots)
    touched = any(m.name in flow.reached for flow in seen.flows for m in members)
    reason = seen.sets.reason(roots[0]) if touched else "no forward touches it"
    if reason is None and len(roots) == 1:
        reason = "it is a single unit"
    name = _name(members[0], taken)
    return ChannelGroup(name, len(roots), tuple(members), reason, RESCALED not in marks, SUMMED not in marks)


def _index(row: Labels, roots: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """For each of some roots, ascending: its places in a row."""
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    starts, stops = np.searchsorted(ordered, roots), np.searchsorted(ordered, roots, side="right")
    found = order.tolist()
    return tuple(tuple(found[a:b]) for a, b in zip(starts.tolist(), stops.tolist(), strict=True))


def _name(first: Member, taken: Counter[str]) -> str:
    name = first.name if first.role in (PRODUCER, "tied") else f"{first.name}:{first.dim}"
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"


def _role(seen: Trace, name: str, dim: int) -> Role:
    roles = set().union(*(flow.roles.get((name, dim), set()) for flow in seen.flows))
    if CONSUMER in roles:
        return "tied" if len(roles) > 1 else "consumer"
    return cast(Role, PRODUCER if PRODUCER in roles else "along")
