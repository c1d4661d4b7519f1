"""`prune_channels_`: whole neurons, channels and heads are removed; the module stays dense, smaller and faster.

groups of coupled channels ─► importance of units ─► how many stay (a share, or the share that meets a reduction)
─► remove, run the forward, compare ─► the module changed in place, or exactly as it was
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError, ResizeError
from lightning_autoarch.core.patterns import NamePattern, Patterns, compile_patterns, plain_name
from lightning_autoarch.core.rest import detached_copy
from lightning_autoarch.prune.counts import as_number
from lightning_autoarch.prune.units import Cut, Keep, Norm, UnitScope, unit_scores
from lightning_autoarch.structure.calls import rehearse
from lightning_autoarch.structure.cost import Cost, cheap_copy, cost_of
from lightning_autoarch.structure.graph import ChannelGraph, remove_channels_
from lightning_autoarch.structure.groups import ChannelGroup
from lightning_autoarch.structure.recipe import recipe_of
from lightning_autoarch.structure.resize import Resized

PROBES = 12  # bisections of the share of units: its resolution is 1/4096
ALL = 1.0 - 1e-9  # the share of units with which every group keeps as few as it may

Quantity = Literal["channels", "parameters", "flops", "latency"]
QUANTITIES = get_args(Quantity)


@dataclass(frozen=True)
class Reduction:
    """By how much a module is to become smaller.

    Attributes:
        ratio: the share that is removed, in (0, 1).
        of: what it is a share of: "channels", "parameters", "flops" (of one forward), or "latency" (seconds of one
            forward, measured).

    Raises:
        PruneTypeError, PruneValueError: `ratio` is not a number in (0, 1), or `of` is not one of the four.
    """

    ratio: float
    of: Quantity = "channels"

    def __post_init__(self) -> None:
        if not 0 < as_number(self.ratio, "ratio") < 1:
            raise PruneValueError(f"Expected `ratio`, the share that is removed, in (0, 1), got {self.ratio}.")
        if self.of not in QUANTITIES:
            raise PruneValueError(f"Expected `of` to be one of {', '.join(QUANTITIES)}, got {self.of!r}.")

    def __str__(self) -> str:
        return f"`ratio={self.ratio:.6g}` of the {self.of}"

    @property
    def is_countable(self) -> bool:
        """Whether it can be checked before the weights are final, and without measuring time."""
        return self.of in ("parameters", "flops")

    def is_met(self, dense: Cost, now: Cost) -> bool:
        """Whether a module with the cost `now` is small enough; not for `of="channels"`."""
        before, after = (_quantity(cost, self.of) for cost in (dense, now))
        return after <= (1 - self.ratio) * before


def _quantity(cost: Cost, of: Quantity) -> float:
    return {"parameters": cost.parameters, "flops": cost.flops, "latency": cost.seconds or 0.0}[of]


UTMOST = Reduction(ALL)


@dataclass(frozen=True)
class Selection:
    """Which channels may be removed, and how they are compared.

    Attributes:
        scope: "global" compares the channels of all groups; "layer" removes the same share of each.
        round_to: counts of channels become multiples of it: kernels for odd sizes are slow.
        p: norm of the weights of a channel, 1 or 2.
        targets: patterns of groups (the parameter that first makes the channels, or a module around it). None: every
            group that may lose channels. Those of the module's inputs and outputs are never removed.
        exclude: patterns of groups that keep their channels.

    Raises:
        PruneValueError: `scope` is not one of the two, or `round_to` is not an int >= 1.
    """

    scope: UnitScope = "global"
    round_to: int = 8
    p: Norm = 2
    targets: Patterns | None = None
    exclude: Patterns = ()

    def __post_init__(self) -> None:
        if self.scope not in ("global", "layer"):
            raise PruneValueError(f'Expected `scope` to be "global" or "layer", got {self.scope!r}.')
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int) or self.round_to < 1:
            raise PruneValueError(f"Expected `round_to` to be an int >= 1, got {self.round_to!r}.")


EVERYTHING = Selection()


@dataclass(frozen=True)
class Removed:
    """What `prune_channels_` removed.

    Attributes:
        resized: the changes of parameters and attributes.
        recipe: plain data for `apply_recipe_` and `load_pruned`.
        kept: name of a group -> units that stayed.
        widths: name of a group -> numbers of units before and after.
        before: cost of the dense module.
        after: cost of the pruned module.
        left: name of a group that kept its units because the forward would not follow -> why.
    """

    resized: Resized
    recipe: dict[str, Any]
    kept: Keep
    widths: dict[str, tuple[int, int]]
    before: Cost
    after: Cost
    left: dict[str, str] = field(default_factory=dict)


def prune_channels_(
    module: nn.Module,
    example_inputs: Any,
    ratio: float,
    *,
    of: Quantity = "channels",
    selection: Selection = EVERYTHING,
    optimizers: Iterable[Optimizer] = (),
) -> Removed:
    """Remove the channels with the smallest weights, in place, until `ratio` of what `of` names is gone.

    Args:
        module: becomes smaller in place; its parameters remain the same objects. Compiled code of it is stale.
        example_inputs: a tuple holds the arguments of `forward`, a dict its keyword arguments, anything else is its
            only argument. A latency is measured with this batch size.
        ratio: the share that is removed, in (0, 1): 0.4 leaves 60 %.
        of: what `ratio` is a share of: "channels", "parameters", "flops" or "latency".
        selection: which channels may be removed, and how they are compared.
        optimizers: their states are cut along.

    Returns:
        What was removed, with the costs before and after.

    Raises:
        StructureError: the forward cannot be followed, or does not run afterwards (a size written into the code).
        PruneValueError: nothing may be or was removed, a pattern matches nothing, or the ratio is out of reach. The
            module, its gradients and the optimizers are then unchanged.
    """
    return prune_by_(module, example_inputs, Reduction(ratio, of), selection, optimizers)


def prune_by_(
    module: nn.Module,
    example_inputs: Any,
    reduction: Reduction,
    selection: Selection = EVERYTHING,
    optimizers: Iterable[Optimizer] = (),
) -> Removed:
    """`prune_channels_` by a `Reduction`."""
    graph = ChannelGraph.of(module, example_inputs)
    groups = _chosen(graph.groups, selection)
    cut = Cut(list(groups), unit_scores(module, groups, selection.p), selection.scope, selection.round_to)
    timed = reduction.of == "latency"
    before = cost_of(module, example_inputs, latency=timed)
    keep, resized = _removed(graph, cut, reduction, before, optimizers)
    after = cost_of(module, example_inputs, latency=timed)
    widths = {group.name: (group.width, len(keep.get(group.name, range(group.width)))) for group in groups}
    if cut.left:
        warnings.warn(_left_words(cut.left), stacklevel=3)
    return Removed(resized, recipe_of(module, resized), keep, widths, before, after, cut.left)


def _removed(
    graph: ChannelGraph, cut: Cut, reduction: Reduction, before: Cost, optimizers: Iterable[Optimizer]
) -> tuple[Keep, Resized]:
    """Remove units until the reduction is met; if the forward does not follow a choice, another one."""
    search = _Search(graph, cut, reduction, before)
    while True:
        share = reduction.ratio if reduction.of == "channels" else search.share()
        keep = cut.keep(share)
        if not keep:
            names = ", ".join(group.name for group in cut.groups[:3])
            raise PruneValueError(
                f"Nothing would be removed: no group of {names} loses a unit at a share of {share:.3g} with "
                f"`round_to={cut.round_to}`. Use a larger `ratio`, or a smaller `round_to`."
            )
        try:
            return keep, graph.remove_(keep, optimizers)
        except ResizeError as error:
            cut.learn(error, keep)


def _left_words(left: Mapping[str, str]) -> str:
    names = ", ".join(f"`{name}`" for name in left)
    return (
        f"Channels of {names} stay as they are, the others were pruned. {next(iter(left.values()))} "
        "(Leave these groups out with `exclude` to avoid this warning.)"
    )


def check_prunable(
    module: nn.Module,
    example_inputs: Any,
    reduction: Reduction,
    selection: Selection = EVERYTHING,
    *,
    also_runs: Any = None,
) -> None:
    """Raise now what `prune_by_` would raise later, whatever the weights are by then: it is tried on a copy.

    Args:
        module, example_inputs, selection: as in `prune_channels_`.
        reduction: must be in reach. A latency is not measured.
        also_runs: inputs with which the smaller module has to run too, without being followed.
    """
    copied = detached_copy(module)
    prune_by_(copied, example_inputs, reduction if reduction.is_countable else UTMOST, selection)
    if also_runs is not None:
        rehearse(copied, also_runs)


class _Search:
    """The smallest share of units with which a reduction is met."""

    def __init__(self, graph: ChannelGraph, cut: Cut, reduction: Reduction, dense: Cost) -> None:
        self._graph, self._cut, self._reduction, self._dense = graph, cut, reduction, dense
        counts_flops = reduction.of == "flops" and graph.flops({}) == dense.flops
        self._counted = reduction.of == "parameters" or counts_flops

    def share(self) -> float:
        """Raises PruneValueError where the reduction is out of reach."""
        tried: dict[str, bool] = {}

        def met(share: float) -> bool:
            keep = self._cut.keep(share)
            key = repr(keep)
            if key not in tried:
                tried[key] = bool(keep) and self._met(keep)
            return tried[key]

        low, high = 0.0, ALL
        if not met(high):
            raise PruneValueError(
                f"{self._reduction} is out of reach, even with the fewest units in every group that may lose "
                "some. Some channels are fixed by the module's inputs and outputs, or by `targets`, `exclude` and "
                f"`round_to`{_and_left(self._cut.left)}."
            )
        for _ in range(PROBES):
            middle = (low + high) / 2
            low, high = (low, middle) if met(middle) else (middle, high)
        return high

    def _met(self, keep: Keep) -> bool:
        if not self._counted:
            return self._met_by_copy(keep)
        parameters = self._graph.parameters(keep)
        flops = self._graph.flops(keep) if self._reduction.of == "flops" else 0
        return self._reduction.is_met(self._dense, Cost(parameters, flops))

    def _met_by_copy(self, keep: Keep) -> bool:
        """Measures what cannot be counted: seconds, and FLOPs of operations that were not followed."""
        module, inputs = self._graph.module, self._graph.example_inputs
        latency = self._reduction.of == "latency"
        copied, inputs = (detached_copy(module), inputs) if latency else cheap_copy(module, inputs)
        try:
            remove_channels_(copied, inputs, keep)
        except ResizeError:  # these units cannot be removed together; a smaller share may
            return False
        return self._reduction.is_met(self._dense, cost_of(copied, inputs, latency=latency))


def _and_left(left: Mapping[str, str]) -> str:
    return "" if not left else f"; the forward does not follow for {', '.join(f'`{name}`' for name in left)}"


def _chosen(groups: Sequence[ChannelGroup], selection: Selection) -> list[ChannelGroup]:
    free = [group for group in groups if group.fixed is None]
    targets = selection.targets
    wanted = free if targets is None else _matching(free, groups, targets, "targets")
    unwanted = {group.name for group in _matching(free, groups, selection.exclude, "exclude")}
    chosen = [group for group in wanted if group.name not in unwanted]
    if not chosen:
        reasons = "; ".join(f"`{group.name}`: {group.fixed}" for group in groups if group.fixed)[:300]
        raise PruneValueError(f"Nothing may be removed: no group of channels is free and selected. {reasons}")
    return chosen


def _matching(
    free: Sequence[ChannelGroup], groups: Sequence[ChannelGroup], patterns: Patterns, argument: str
) -> list[ChannelGroup]:
    found: dict[str, ChannelGroup] = {}
    for pattern in compile_patterns(patterns, argument, PruneTypeError):
        matching = [group for group in groups if _matches(group, pattern)]
        if not matching:
            hint = pattern.near([group.name for group in groups])
            raise PruneValueError(f"The pattern `{pattern}` of `{argument}` matches no group of channels.{hint}")
        fixed = [group for group in matching if group not in free]
        if len(fixed) == len(matching) and argument == "targets":
            raise PruneValueError(f"Expected channels that may be removed, got `{fixed[0].name}`: {fixed[0].fixed}.")
        found |= {group.name: group for group in matching if group in free}
    return list(found.values())


def _matches(group: ChannelGroup, pattern: NamePattern) -> bool:
    makers = [plain_name(member.name) for member in group.members if member.role in ("producer", "tied")]
    return any(pattern.covers(name) for name in (plain_name(group.name), *makers))
