"""What a net that lost channels has to compute: the dense net, in which nothing reads these channels.

Where a norm is taken over channels, it is over those that are left. Where a weight is the product of a direction and a
norm, the weight loses columns, not the direction.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from channel_nets import unproduced, unread
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_autoarch.structure.groups import ChannelGroup, channel_groups

Keep = Mapping[str, Sequence[int]]


class NormOfSome(nn.Module):
    """A LayerNorm or RMSNorm over some of its channels; the others become 0."""

    def __init__(self, norm: nn.LayerNorm | nn.RMSNorm, kept: Sequence[int]) -> None:
        super().__init__()
        self.kept = list(kept)
        self.norm = copy.deepcopy(norm)
        self.norm.normalized_shape = (len(self.kept),)
        for name, parameter in norm.named_parameters():
            setattr(self.norm, name, nn.Parameter(parameter.detach()[self.kept]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x).index_copy(-1, torch.tensor(self.kept), self.norm(x[..., self.kept]))


def dense_without(module: nn.Module, inputs: object, keep: Keep) -> nn.Module:
    """A copy of a dense net that computes what the net with only the channels in `keep` should.

    Channels are set to 0 where they are read; for `nn.Bilinear`, whose weight both reads and makes them, where they are
    made.
    """
    plain = copy.deepcopy(module)
    for layer in [layer for layer in plain.modules() if parametrize.is_parametrized(layer)]:
        for name in list(layer.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(layer, name)
    groups = channel_groups(plain, inputs)
    products = any(isinstance(layer, nn.Bilinear) for layer in plain.modules())
    result = (unproduced if products else unread)(plain, groups, keep)
    for path, kept in _norms(result, groups, keep).items():
        result.set_submodule(path, NormOfSome(result.get_submodule(path), kept))  # type: ignore[arg-type]
    return result


def _norms(module: nn.Module, groups: Sequence[ChannelGroup], keep: Keep) -> dict[str, list[int]]:
    """Norms over channels, by their path, with the channels that are left to them."""
    found: dict[str, list[int]] = {}
    for path, layer in module.named_modules():
        if not isinstance(layer, nn.LayerNorm | nn.RMSNorm):
            continue
        gone = {
            place
            for group in groups
            for member in group.members
            if member.name == f"{path}.weight"
            for unit in set(range(group.width)) - set(keep.get(group.name, range(group.width)))
            for place in member.index[unit]
        }
        if gone:
            found[path] = [place for place in range(layer.weight.numel()) if place not in gone]
    return found
