"""Weights that are made of others by a norm: what removing channels has to do about them.

Weight norm (Salimans & Kingma 2016) has w = g v / |v|, the norm over all dimensions but one. Fewer input channels make
|v| smaller, and w of those that stay larger, unless g follows:

    g' = g |v'| / |v|,    v' the part of v that stays

Spectral norm (Miyato et al. 2018) has no factor that could make up for it: its channels stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

SPECTRAL = (
    "a spectral norm is taken over them, which no other factor can make up for (remove it before, with "
    "`remove_parametrizations`, and put it back afterwards)"
)


@dataclass(frozen=True)
class WeightNormed:
    """The two tensors of a weight in weight norm, and the dimension that its norm leaves out; -1: none."""

    g: Tensor
    v: Tensor
    dim: int

    def norm(self) -> Tensor:  # of the shape of g
        """|v|, with two bytes too few for a sum of squares made float32."""
        v = self.v.detach()
        return torch.norm_except_dim(v if v.dtype.itemsize > 2 else v.float(), 2, self.dim)


def weight_normed(module: nn.Module) -> Iterator[WeightNormed]:
    """Of every layer in weight norm, by a parametrization or by the older hooks."""
    for layer in module.modules():
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                g, v = getattr(layer, f"{hook.name}_g"), getattr(layer, f"{hook.name}_v")
                yield WeightNormed(g, v, -1 if hook.dim is None else hook.dim)
        for part in _parametrized(layer):
            if isinstance(part[0], _WeightNorm):
                yield WeightNormed(cast(Tensor, part.original0), cast(Tensor, part.original1), part[0].dim)


def spectral_normed(module: nn.Module) -> Iterator[Tensor]:
    """The weight that a spectral norm divides, of every layer that has one."""
    for layer in module.modules():
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                yield getattr(layer, f"{hook.name}_orig")
        for part in _parametrized(layer):
            if any(isinstance(each, _SpectralNorm) for each in part):
                yield part.original


def _parametrized(layer: nn.Module) -> Iterable[parametrize.ParametrizationList]:
    if not parametrize.is_parametrized(layer):
        return ()
    return cast("dict[str, parametrize.ParametrizationList]", layer.parametrizations).values()
