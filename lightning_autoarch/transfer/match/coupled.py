"""Which channels to keep when a layer becomes narrower: the same ones where they are made and where they are read.

A group is a list of axes that count the same channels: the rows of a layer, its norm, the columns of the next. Names
and shapes cannot tell them; whoever knows the graph passes them. Importance of a channel is the squared norm of all
that makes it, sum of w^2 over the axes of the group; of equal ones the first is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_autoarch.core.errors import TransferError, did_you_mean
from lightning_autoarch.transfer.read.state import StateDict


@dataclass(frozen=True)
class Axis:
    """A dimension of a tensor of the module that counts channels, `block` neighbours for each (after a flatten)."""

    name: str
    dim: int
    block: int = 1
    makes: bool = True  # False where channels are only read: their importance lies with who makes them


def important_channels(
    groups: Sequence[Sequence[Axis]],
    sources: Mapping[str, str],  # name in the module -> name in the source
    state: StateDict,
    shapes: Mapping[str, tuple[int, ...]],  # of the module
) -> dict[str, dict[int, Tensor]]:
    """For each name in the module and each of its dimensions the indices of the source to keep, ascending.

    Raises:
        TransferError: a name or dimension that the module has not, a block that does not divide, or sizes that
            disagree within a group.
    """
    chosen: dict[str, dict[int, Tensor]] = {}
    for group in groups:
        _check_places(group, shapes)
        present = [axis for axis in group if axis.name in sources]
        if not present:
            continue
        before, after = _counts(present, sources, state, shapes)
        if after < before:
            kept = _kept(present, sources, state, after)
            for axis in present:
                chosen.setdefault(axis.name, {})[axis.dim] = _indices(kept, axis.block)
    return chosen


def _check_places(group: Sequence[Axis], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for axis in group:
        if axis.name not in shapes:
            raise TransferError(
                f"Expected names of the module in `groups`, got `{axis.name}`.{did_you_mean(axis.name, shapes)}"
            )
        if not 0 <= axis.dim < len(shapes[axis.name]):
            raise TransferError(
                f"Expected a dimension of `{axis.name}` {shapes[axis.name]} in `groups`, got {axis.dim}."
            )


def _counts(
    group: Sequence[Axis], sources: Mapping[str, str], state: StateDict, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, int]:
    """Channels in the source and in the module."""
    counts = set()
    for axis in group:
        sizes = (state[sources[axis.name]].shape[axis.dim], shapes[axis.name][axis.dim])
        if any(size % axis.block for size in sizes):
            raise TransferError(
                f"Expected blocks of {axis.block} in dimension {axis.dim} of `{axis.name}`, got {sizes}."
            )
        counts.add((sizes[0] // axis.block, sizes[1] // axis.block))
    if len(counts) != 1:
        names = ", ".join(f"`{axis.name}`" for axis in group)
        raise TransferError(f"Expected one number of channels for {names}, got {sorted(counts)} (source, module).")
    return counts.pop()


def _kept(group: Sequence[Axis], sources: Mapping[str, str], state: StateDict, count: int) -> Tensor:  # (count,)
    makers = [axis for axis in group if axis.makes] or list(group)
    total: Tensor | None = None
    for axis in makers:
        weight = state[sources[axis.name]].detach().movedim(axis.dim, 0)
        squares = weight.double().square() if not weight.is_complex() else weight.abs().double().square()
        part = squares.reshape(weight.shape[0] // axis.block, -1).sum(1)
        total = part if total is None else total + part
    assert total is not None
    return torch.argsort(total, descending=True, stable=True)[:count].sort().values


def _indices(kept: Tensor, block: int) -> Tensor:  # (len(kept) * block,)
    return (kept[:, None] * block + torch.arange(block, device=kept.device)).reshape(-1)
