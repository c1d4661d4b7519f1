"""`prune_channels_`: whole neurons, channels and heads go, and the module is dense, smaller and faster.

groups of coupled channels ─► importance of units ─► how many stay (a share, or the share that meets a target)
─► remove, run the forward, compare ─► the module in place, or exactly as it was
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_autoarch.core.errors import PruneValueError, did_you_mean
from lightning_autoarch.prune.amounts import real
from lightning_autoarch.prune.cost import Cost, cheap_copy, cost_of, detached_copy
from lightning_autoarch.prune.cut import Cut, Keep
from lightning_autoarch.prune.names import plain_name
from lightning_autoarch.prune.targets import Patterns
from lightning_autoarch.prune.units import Norm, UnitScope, unit_scores
from lightning_autoarch.structure import (
    ChannelGraph,
    ChannelGroup,
    PlanError,
    Resized,
    recipe_of,
    rehearse,
    remove_channels_,
)

PROBES = 12  # bisections of the share of units: a 4096th
ALL = 1.0 - 1e-9  # a share of the units with which the fewest stay that may


@dataclass(frozen=True)
class Target:
    """How small a module is to become: one of the four.

    Attributes:
        share: of the units, that goes.
        parameters: share of the parameters that stays, in (0, 1).
        flops: share of the FLOPs that stays.
        latency: share of the measured seconds of a forward that stays.
    """

    share: float | None = None
    parameters: float | None = None
    flops: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) != 1:
            raise PruneValueError(f"Expected one of share, parameters, flops and latency, got {given or 'none'}.")
        if not 0 < real(getattr(self, given[0]), given[0]) < 1:
            raise PruneValueError(f"Expected `{given[0]}` in (0, 1), got {getattr(self, given[0])}.")

    def __str__(self) -> str:
        return next(f"`{name}={value:.6g}`" for name, value in vars(self).items() if value is not None)

    def met(self, dense: Cost, now: Cost) -> bool:
        """Whether the module is small enough."""
        if self.parameters is not None:
            return now.parameters <= self.parameters * dense.parameters
        if self.flops is not None:
            return now.flops <= self.flops * dense.flops
        return (now.seconds or 0.0) <= (self.latency or 0.0) * (dense.seconds or 0.0)


@dataclass(frozen=True)
class Removed:
    """What `prune_channels_` did.

    Attributes:
        resized: changes of parameters and attributes.
        recipe: for `apply_recipe_` and `load_pruned`: plain data.
        kept: name of a group -> units that stayed.
        widths: name of a group -> units before and after.
        before: cost of the dense module.
        after: cost now.
        left: name of a group that was to lose units and did not, because the forward would not follow -> why.
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
    target: Target,
    *,
    scope: UnitScope = "global",
    round_to: int = 8,
    p: Norm = 2,
    targets: Patterns | None = None,
    exclude: Patterns = (),
    optimizers: Iterable[Optimizer] = (),
) -> Removed:
    """Remove the units with the smallest weights until the target is met.

    Args:
        module: becomes smaller in place; its parameters stay the same objects. Compiled code of it is stale.
        example_inputs: a tuple is the arguments of `forward`, a dict its keywords, anything else its one argument. Of
        the
            batch size that latency is to be measured with.
        target: how small.
        scope, round_to: see `kept_units`.
        p: norm of the weights of a unit, 1 or 2.
        targets: patterns of groups (the parameter that first makes the channels, or a module around it); None: all that
            may go. Channels of the module's own inputs and outputs never do.
        exclude: patterns of groups that stay.
        optimizers: whose state is cut along.

    Returns:
        What was done, with the costs before and after.

    Raises:
        StructureError: the forward cannot be followed, or does not run afterwards (a size written into the code).
        PruneValueError: nothing may go or went, a pattern without a match, or a target that is out of reach. The
        module,
            its gradients and the optimizers are then as before.
    """
    graph = ChannelGraph.of(module, example_inputs)
    groups = _chosen(graph.groups, targets, exclude)
    cut = Cut(list(groups), unit_scores(module, groups, p), scope, round_to)
    before = cost_of(module, example_inputs, latency=target.latency is not None)
    keep, resized = _removed(graph, cut, target, before, optimizers)
    after = cost_of(module, example_inputs, latency=target.latency is not None)
    widths = {group.name: (group.width, len(keep.get(group.name, range(group.width)))) for group in groups}
    if cut.left:
        warnings.warn(_left_words(cut.left), stacklevel=2)
    return Removed(resized, recipe_of(module, resized), keep, widths, before, after, cut.left)


def _removed(
    graph: ChannelGraph, cut: Cut, target: Target, before: Cost, optimizers: Iterable[Optimizer]
) -> tuple[Keep, Resized]:
    """Remove what meets the target; where the forward does not follow, something else that does."""
    search = _Search(graph, cut, target, before)
    while True:
        share = target.share if target.share is not None else search.share()
        keep = cut.keep(share)
        if not keep:
            raise PruneValueError(
                f"Nothing would go: no group of {', '.join(group.name for group in cut.groups[:3])} loses a unit at a "
                f"share of {share:.3g} with `round_to={cut.round_to}`. Ask for a smaller module, or round to fewer."
            )
        try:
            return keep, graph.remove_(keep, optimizers)
        except PlanError as error:
            cut.learn(error, keep)


def _left_words(left: Mapping[str, str]) -> str:
    names = ", ".join(f"`{name}`" for name in left)
    return (
        f"Channels of {names} stay as they are, the others were pruned. {next(iter(left.values()))} "
        "(`exclude=` these groups, and there is no warning.)"
    )


def check_prunable(
    module: nn.Module, example_inputs: Any, target: Target, *, also_runs: Any = None, **options: Any
) -> None:
    """Raise now what `prune_channels_` would raise later, whatever the weights are by then: tried on a copy.

    Args:
        module, example_inputs, options: as in `prune_channels_`.
        also_runs: inputs with which the smaller module has to run too, without being followed.
        target: whether it is in reach, unless it is a latency, which is not measured.
    """
    known = target.parameters is not None or target.flops is not None
    copied = detached_copy(module)
    prune_channels_(copied, example_inputs, target if known else Target(share=ALL), **options)
    if also_runs is not None:
        rehearse(copied, also_runs)


class _Search:
    """The smallest share of units that meets a target."""

    def __init__(self, graph: ChannelGraph, cut: Cut, target: Target, dense: Cost) -> None:
        self._graph, self._cut, self._target, self._dense = graph, cut, target, dense
        known = target.parameters is not None or target.share is not None
        self._counted = known or (target.flops is not None and graph.flops({}) == dense.flops)

    def share(self) -> float:
        """Raises PruneValueError where the target is out of reach."""
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
                f"{self._target} is out of reach: with the fewest units in every group that may lose some it is not "
                "met. Some channels are fixed by the module's inputs and outputs, or by `targets`, `exclude` and "
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
        flops = 0 if self._target.flops is None else self._graph.flops(keep)
        return self._target.met(self._dense, Cost(parameters, flops))

    def _met_by_copy(self, keep: Keep) -> bool:
        """What cannot be counted is measured: seconds, and FLOPs of operations that were not followed."""
        module, inputs = self._graph.module, self._graph.example_inputs
        latency = self._target.latency is not None
        copied, inputs = (detached_copy(module), inputs) if latency else cheap_copy(module, inputs)
        try:
            remove_channels_(copied, inputs, keep)
        except PlanError:  # these units cannot go together: a larger module may
            return False
        return self._target.met(self._dense, cost_of(copied, inputs, latency=latency))


def _and_left(left: Mapping[str, str]) -> str:
    return "" if not left else f"; the forward does not follow for {', '.join(f'`{name}`' for name in left)}"


def _chosen(groups: Sequence[ChannelGroup], targets: Patterns | None, exclude: Patterns) -> list[ChannelGroup]:
    free = [group for group in groups if group.fixed is None]
    wanted = free if targets is None else _matching(free, groups, targets, "targets")
    unwanted = {group.name for group in _matching(free, groups, exclude, "exclude")}
    chosen = [group for group in wanted if group.name not in unwanted]
    if not chosen:
        reasons = "; ".join(f"`{group.name}`: {group.fixed}" for group in groups if group.fixed)[:300]
        raise PruneValueError(f"Nothing may go: no group of channels is free and chosen. {reasons}")
    return chosen


def _matching(
    free: Sequence[ChannelGroup], groups: Sequence[ChannelGroup], patterns: Patterns, argument: str
) -> list[ChannelGroup]:
    found: dict[str, ChannelGroup] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = [group for group in groups if _matches(group, pattern)]
        if not matching:
            hint = did_you_mean(pattern, [group.name for group in groups])
            raise PruneValueError(f"The pattern `{pattern}` of `{argument}` matches no group of channels.{hint}")
        fixed = [group for group in matching if group not in free]
        if len(fixed) == len(matching) and argument == "targets":
            raise PruneValueError(f"Expected channels that may go, got `{fixed[0].name}`: {fixed[0].fixed}.")
        found |= {group.name: group for group in matching if group in free}
    return list(found.values())


def _matches(group: ChannelGroup, pattern: str) -> bool:
    makers = [plain_name(member.name) for member in group.members if member.role in ("producer", "tied")]
    names = [plain_name(group.name), *makers]
    around = [".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 2)]
    return any(fnmatchcase(name, pattern) for name in around)
