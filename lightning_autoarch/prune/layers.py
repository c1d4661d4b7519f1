"""Which parameters of a layer are pruned where nobody names them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

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


def is_default_target(layer: nn.Module, name: str, weight: Tensor) -> bool:
    """Whether a weight is pruned by default.

    Args:
        layer: that it belongs to.
        name: what the layer calls it.
        weight: the weight, or what the layer computes it from.
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
    """Whether it has two dimensions or more; (1, C, 1, 1) is a scale."""
    return not isinstance(weight, UninitializedParameter) and _n_dims(weight) > 1


def _n_dims(weight: Tensor) -> int:
    return sum(size > 1 for size in weight.shape)
