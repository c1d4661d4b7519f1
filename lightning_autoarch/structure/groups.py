"""`channel_groups`: channels that are of one kind, and where each of them is in which parameter.

A *unit* is what goes together: one channel, a head with all its rows, a hidden unit of an LSTM with its four gates.
A *group* is the units that are found in the same dimensions of the same tensors: the width of a layer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from lightning_autoarch.structure.flow import CONSUMER, PRODUCER, RESCALED, SUMMED
from lightning_autoarch.structure.rules_products import KERNEL
from lightning_autoarch.structure.trace import Trace, trace

Role = Literal["producer", "consumer", "along", "tied"]


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer.

    Attributes:
        name: as in the state_dict (of a tied parameter the first).
        dim: of it.
        role: "producer": a channel is computed from this slice; "consumer": it is multiplied by it and summed;
            "along": it is scaled, shifted or normalised by it; "tied": both producer and consumer.
        index: for each unit, its places in the dimension: H * W columns after a flatten, 4 rows of an LSTM.
    """

    name: str
    dim: int
    role: Role
    index: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Coupled channels.

    Attributes:
        name: the parameter that first produces them, "encoder.0.weight".
        width: how many units.
        members: every dimension that shrinks or grows with them.
        fixed: why they have to stay, None if they may go.
        exact: removing a unit is the same as never reading it. False where a norm or mean is taken over the units.
        replicable: a unit can be replicated, its consumers sharing what they had: False where units are summed without
            a parameter.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    fixed: str | None = None
    exact: bool = True
    replicable: bool = True

    @property
    def unit(self) -> int:
        """Rows of a unit in the parameter that the group is named after: the size of a head, 1 of a plain channel."""
        return len(self.members[0].index[0])


def channel_groups(module: nn.Module, example_inputs: Any) -> list[ChannelGroup]:
    """Every group of coupled channels, those that are fixed too.

    Args:
        module: any; it is left as it is.
        example_inputs: as for `trace`.

    Raises:
        StructureError: the forward cannot be followed, naming the place.
    """
    return [group for group, _ in groups_of(trace(module, example_inputs))]


Places = dict[tuple[str, int], list[int]]


def groups_of(seen: Trace) -> list[tuple[ChannelGroup, tuple[int, ...]]]:
    """The groups of a trace, each with the roots of its units in order."""
    places: dict[int, Places] = defaultdict(lambda: defaultdict(list))
    for name, (_, rows) in seen.tensors.items():
        for dim, row in enumerate(rows):
            for i, root in enumerate(seen.sets.roots(row).tolist() if len(row) > 1 else []):
                places[root][name, dim].append(i)
    kinds: dict[object, list[int]] = defaultdict(list)
    for root, where in places.items():
        if seen.sets.reason(root) != KERNEL:
            kinds[tuple(where), seen.sets.reason(root) is None].append(root)
    taken: Counter[str] = Counter()
    return [(_group(seen, roots, places, taken), tuple(roots)) for roots in map(sorted, kinds.values())]


def _group(seen: Trace, roots: list[int], places: dict[int, Places], taken: Counter[str]) -> ChannelGroup:
    members = [
        Member(name, dim, _role(seen, name, dim), tuple(tuple(places[root][name, dim]) for root in roots))
        for name, dim in places[roots[0]]
    ]
    members.sort(key=lambda m: m.role not in (PRODUCER, "tied"))  # stable: in the order of the parameters
    marks = frozenset().union(*(seen.sets.marks(root) for root in roots))
    touched = any(m.name in flow.reached for flow in seen.flows for m in members)
    reason = seen.sets.reason(roots[0]) if touched else "no forward touches it"
    if reason is None and len(roots) == 1:
        reason = "it is a single unit"
    name = _name(members[0], taken)
    return ChannelGroup(name, len(roots), tuple(members), reason, RESCALED not in marks, SUMMED not in marks)


def _name(first: Member, taken: Counter[str]) -> str:
    name = first.name if first.role in (PRODUCER, "tied") else f"{first.name}:{first.dim}"
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"


def _role(seen: Trace, name: str, dim: int) -> Role:
    roles = set().union(*(flow.roles.get((name, dim), set()) for flow in seen.flows))
    if CONSUMER in roles:
        return "tied" if len(roles) > 1 else "consumer"
    return cast(Role, PRODUCER if PRODUCER in roles else "along")
