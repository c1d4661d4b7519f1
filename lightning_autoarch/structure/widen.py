"""`widen_`: more channels, the same function. See `replicate` for the rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.groups import ChannelGroup, groups_of
from lightning_autoarch.structure.labels import Labels
from lightning_autoarch.structure.replicate import keeps_norms, shares, why_not
from lightning_autoarch.structure.resize import Resized, resize_
from lightning_autoarch.structure.resize_plan import ResizePlan, changes, find_group, plan
from lightning_autoarch.structure.trace import Trace, trace


def widen_(
    module: nn.Module,
    example_inputs: object,
    widths: Mapping[str, int],
    generator: torch.Generator | None = None,
    *,
    spread: float = 0.5,
    optimizers: Iterable[Optimizer] = (),
) -> Resized:
    """Widen groups in place; in eval mode the outputs stay the same up to rounding.

    Args:
        module: any. Its parameters stay the same objects; their `grad` is dropped.
        example_inputs: as for `trace`.
        widths: name of a group of `channel_groups` -> its new number of units. Where a norm or mean is taken over the
            group, this has to be a multiple of the old number, which keeps its statistics.
        generator: for the choice of units to copy and for the shares; None: the global generator.
        spread: in [0, 1): shares are drawn from (1 ± spread) / r and then normalised to sum to 1; 0: equal shares.
        optimizers: whose state is adapted: copies get the moments of their unit.

    Raises:
        StructureError: there is no such group, a width is not larger, or a group cannot be widened exactly. The module
            is unchanged then.
    """
    if not 0 <= spread < 1:
        raise StructureError(f"Expected `spread` in [0, 1), got {spread}.")
    seen = trace(module, example_inputs)
    groups = groups_of(seen)
    chosen = {name: find_group(groups, name) for name in widths}
    counts = {name: _counts(group, widths[name], generator) for name, group in chosen.items()}
    if not counts:
        raise StructureError("Expected groups to widen, but `widths` is empty.")
    planned = plan(seen, groups, counts)
    _check_norms(seen, groups, planned)
    scales = _scales(seen, planned, list(chosen.values()), _shares(planned, spread, generator))
    return resize_(module, example_inputs, seen, planned, optimizers, scales)


def _counts(group: ChannelGroup, width: int, generator: torch.Generator | None) -> list[int]:
    """How often each unit is there afterwards."""
    if width <= group.width:
        raise StructureError(f"Expected a width of `{group.name}` above {group.width}, got {width}.")
    reason = why_not(group.replicable, (member.name for member in group.members if member.role == "tied"))
    if reason:
        raise StructureError(f"The channels of `{group.name}` cannot be widened: {reason}.")
    if group.exact:
        extra = torch.randint(group.width, (width - group.width,), generator=generator)
        return (1 + torch.bincount(extra, minlength=group.width)).tolist()
    if not keeps_norms(group.exact, group.width, width):
        raise StructureError(
            f"Expected a width of `{group.name}` that is a multiple of {group.width}, because a norm or mean is taken "
            f"over its channels, got {width}."
        )
    return [width // group.width] * group.width


def _check_norms(seen: Trace, groups: Sequence[tuple[ChannelGroup, tuple[int, ...]]], planned: ResizePlan) -> None:
    """What a norm or mean is taken over grows everywhere by the same factor, over concatenated groups too."""
    group_of = {root: group.name for group, roots in groups for root in roots}
    for labels in (labels for flow in seen.flows for labels in flow.rescaled):
        roots = np.unique(seen.sets.roots(labels)).tolist()
        if len({len(planned.copies.get(root, (root,))) for root in roots}) > 1:
            names = sorted({f"`{group_of[root]}`" for root in roots if root in group_of})
            raise StructureError(
                f"A norm or mean is taken over {' and '.join(names)} together: widen all of it by one factor, or none."
            )


def _shares(planned: ResizePlan, spread: float, generator: torch.Generator | None) -> dict[int, float]:
    """Of each label that has copies: what its consumers keep."""
    found: dict[int, float] = {}
    for labels in planned.copies.values():
        weights = 1 + spread * (2 * torch.rand(len(labels), generator=generator, dtype=torch.float64) - 1)
        found.update(zip(labels, shares(torch.zeros(len(labels), dtype=torch.int64), weights).tolist(), strict=True))
    return found


def _scales(
    seen: Trace,
    planned: ResizePlan,
    groups: Sequence[ChannelGroup],
    kept: Mapping[int, float],
) -> dict[str, Tensor]:
    """What each consumer is multiplied by, broadcasting to its new shape."""
    _, labels = changes(seen, planned)
    scales: dict[str, Tensor] = {}
    consumers = {(m.name, m.dim): None for group in groups for m in group.members if m.role == "consumer"}
    for name, dim in consumers:
        tensor = seen.tensors[name][0]
        shape = [-1 if d == dim else 1 for d in range(tensor.dim())]
        scale = torch.from_numpy(_row(labels[name][dim], kept)).to(tensor).reshape(shape)
        scales[name] = scales[name] * scale if name in scales else scale
    return scales


def _row(labels: Labels, kept: Mapping[int, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([kept.get(label, 1.0) for label in labels.tolist()])
