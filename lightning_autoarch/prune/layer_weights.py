"""The weights of one layer, the parameter to which a mask of each is applied, and which of them are pruned by default.

Usually that parameter is the weight itself. A layer may instead compute its weight in every forward pass:

    weight norm, old      weight_g, weight_v                 w = g v / |v|          masked: weight_v
    weight norm           parametrizations.weight            original0 = g          masked: original1 = v
    spectral norm         weight_orig, or parametrizations   w = v / sigma(v)       masked: v
    torch.nn.utils.prune  weight_orig, weight_mask           w = v * mask           masked: v

Where v is zero, w is zero. A parametrisation of another kind is tried once on a copy; one that does not keep zeros (an
orthogonal one, for example) cannot be pruned by masks. |v| is taken over slices, and a slice of zeros alone would
give 0 / 0, so at least one weight of each slice must be kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter, UninitializedParameter
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
PREFIXES = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
ADAPTERS = ("lora_", "ia3_", "hada_", "lokr_", "oft_", "boft_", "vera_lambda_")  # as peft and loralib call them
NO_EXPERTS = {"bias", "embed", "embedding", "embeddings", "pos", "position", "positional", "table", "token", "tokens"}


@dataclass(frozen=True)
class LayerWeight:
    """A weight of a layer.

    Attributes:
        name: what the forward pass calls it, such as `weight`.
        path: path in the layer of the parameter that is masked; equal to `name` for a plain weight.
        parameter: that parameter.
        normed: its dimensions over which a norm is taken; no slice along them may become all zero.
        obstacle: why a mask on it would not hold; empty if it does.
    """

    name: str
    path: str
    parameter: Parameter
    normed: tuple[int, ...] = ()
    obstacle: str = ""

    @property
    def is_computed(self) -> bool:
        """Whether the layer computes the weight from the parameter."""
        return self.name != self.path


def layer_weights(layer: nn.Module) -> Iterator[LayerWeight]:
    """The layer's own parameters and parametrised tensors, except the gains of a weight norm."""
    own = dict(layer.named_parameters(recurse=False, remove_duplicate=False))
    for path, parameter in own.items():
        name, _, role = path.rpartition("_")
        if role == "g" and f"{name}_v" in own:
            continue
        if role == "v" and f"{name}_g" in own:
            yield _of_norm(name, path, parameter, own[f"{name}_g"])
        elif role == "orig" and hasattr(layer, name):
            yield LayerWeight(name, path, parameter)
        else:
            yield LayerWeight(path, path, parameter)
    if is_parametrized(layer):
        assert isinstance(layer.parametrizations, nn.ModuleDict)
        for name, chain in layer.parametrizations.items():
            assert isinstance(chain, ParametrizationList)
            if (found := _parametrised(name, chain)) is not None:
                yield found


def _of_norm(name: str, path: str, direction: Parameter, gain: Parameter) -> LayerWeight:
    if isinstance(direction, UninitializedParameter):
        return LayerWeight(name, path, direction)
    if gain.dim() != direction.dim():
        dims = tuple(range(direction.dim()))
    else:
        dims = tuple(d for d, (g, v) in enumerate(zip(gain.shape, direction.shape, strict=True)) if g == 1 and v > 1)
    alone = "" if dims else "its weight norm is taken of each number by itself"
    return LayerWeight(name, path, direction, dims, alone)


def _parametrised(name: str, chain: ParametrizationList) -> LayerWeight | None:
    """None if it is computed from buffers, not from parameters."""
    kinds = ", ".join(type(each).__name__.lstrip("_") for each in chain)
    originals = {key: value for key, value in chain.named_parameters(recurse=False) if key.startswith("original")}
    where = f"parametrizations.{name}."
    if isinstance(chain[0], _WeightNorm) and originals.keys() == {"original0", "original1"}:
        found = _of_norm(name, f"{where}original1", originals["original1"], originals["original0"])
    elif originals.keys() == {"original"}:
        found = LayerWeight(name, f"{where}original", originals["original"])
    elif originals:
        key, original = next(iter(originals.items()))
        return LayerWeight(name, where + key, original, obstacle=f"{kinds} makes it from several tensors")
    else:
        return None
    if found.obstacle or _keeps_zeros(chain, found.path.rpartition(".")[2]):
        return found
    return replace(found, obstacle=f"the parametrisation {kinds} does not keep zeros")


def _keeps_zeros(chain: ParametrizationList, original: str) -> bool:
    """Whether the computed weight is zero wherever the original is, tried on a copy. No generator advances."""
    tried = copy.deepcopy(chain).eval()
    weight: Tensor = getattr(tried, original)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        zeros = _some_zeros(weight)
        weight.masked_fill_(zeros, 0.0)
        computed = tried()
    if computed.shape != weight.shape:
        return False
    return bool(computed.isfinite().all()) and not bool(computed[zeros].any())


def _some_zeros(weight: Tensor) -> Tensor:  # boolean, of the shape of `weight`
    """About a quarter of the elements, at random, but none whose indices have an even sum.

    Every slice of two or more elements keeps one of those, so that no norm is 0.
    """
    places = torch.zeros(weight.shape, dtype=torch.int64)
    for dim, size in enumerate(weight.shape):
        places += torch.arange(size).view([-1 if d == dim else 1 for d in range(weight.dim())])
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(weight.shape, generator=generator) < 0.5
    return ((places % 2 == 1) & chosen).to(weight.device)


def slices_of(weight: Tensor, normed: tuple[int, ...]) -> int:
    """The number of slices of which a norm is taken, each of which has to keep a weight; 0 if there is no norm."""
    return weight.numel() // max(1, math.prod(weight.shape[d] for d in normed)) if normed else 0


def is_default_target(layer: nn.Module, name: str, weight: Tensor) -> bool:
    """Whether a weight is pruned by default.

    Args:
        layer: the layer of the weight.
        name: the name that the layer uses for it.
        weight: the weight, or the parameter from which the layer computes it.
    """
    if isinstance(layer, LAYERS):
        return name.startswith(PREFIXES)
    if isinstance(layer, NORMS) or isinstance(weight, UninitializedParameter) or is_adapter(name):
        return False
    if name == "weight":
        return is_matrix(weight)
    return _n_dims(weight) > 2 and NO_EXPERTS.isdisjoint(name.lower().split("_"))


def is_adapter(part: str) -> bool:
    """Whether a part of a dotted name, or one of its parts, is that of a low-rank or scaling adapter."""
    return any(each.startswith(ADAPTERS) for each in part.split("."))


def is_matrix(weight: Tensor) -> bool:
    """Whether it has two or more dimensions larger than 1: (1, C, 1, 1) is a scale."""
    return not isinstance(weight, UninitializedParameter) and _n_dims(weight) > 1


def _n_dims(weight: Tensor) -> int:
    return sum(size > 1 for size in weight.shape)
