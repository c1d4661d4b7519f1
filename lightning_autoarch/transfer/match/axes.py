"""Which channels to keep if a layer becomes narrower: the same ones where they are produced and where they are read.

A group is a list of axes that count the same channels: the rows of a layer, its norm, the columns of the next layer.
Names and shapes do not tell which axes belong together, so the caller has to pass them. The importance of a channel is
the squared norm of everything that produces it, the sum of w^2 over the producing axes; of equals the first is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_autoarch.core.errors import TransferError, did_you_mean
from lightning_autoarch.transfer.read.state_dicts import Shape, StateDict


@dataclass(frozen=True)
class Axis:
    """A dimension of a tensor that counts channels.

    Args:
        name: Name of the tensor in the module.
        dim: The dimension.
        block: Number of neighbouring indices that belong to one channel; more than 1 after a flatten.
        makes: Whether the channels are produced here. Where they are only read they do not count as important.
    """

    name: str
    dim: int
    block: int = 1
    makes: bool = True


def important_channels(
    groups: Sequence[Sequence[Axis]],
    sources: Mapping[str, str],
    state: StateDict,
    shapes: Mapping[str, Shape],
) -> dict[str, dict[int, Tensor]]:
    """Name in the module -> dimension -> indices of the source to keep, in ascending order.

    Args:
        groups: The axes of each group.
        sources: Name in the module -> name in the source.
        state: The source.
        shapes: Shapes in the module.

    Raises:
        TransferError: A name or dimension that the module does not have, a block that does not divide its dimension,
            or sizes that disagree within a group.
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


def squared_norms(weight: Tensor, dim: int, block: int = 1) -> Tensor:  # (channels,), float64
    """Squared norm of each channel of a dimension, in blocks of neighbouring indices."""
    rows = weight.detach().movedim(dim, 0)
    return rows.abs().double().square().reshape(len(rows) // block, -1).sum(1)


def _check_places(group: Sequence[Axis], shapes: Mapping[str, Shape]) -> None:
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
    group: Sequence[Axis], sources: Mapping[str, str], state: StateDict, shapes: Mapping[str, Shape]
) -> tuple[int, int]:
    """The number of channels in the source and in the module."""
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
        part = squared_norms(state[sources[axis.name]], axis.dim, axis.block)
        total = part if total is None else total + part
    assert total is not None
    return torch.argsort(total, descending=True, stable=True)[:count].sort().values


def _indices(kept: Tensor, block: int) -> Tensor:  # (len(kept) * block,)
    return (kept[:, None] * block + torch.arange(block, device=kept.device)).reshape(-1)
