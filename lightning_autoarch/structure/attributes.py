"""Attributes that say how large a layer is: `out_channels`, `in_features`, `num_heads`, ..., put right after a resize.

Layers of torch.nn: read off their tensors. In other modules an integer that has the dense size where the forward fails
is a candidate for the planned one; `check` proves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_autoarch.structure.attention import HeadAttention, as_heads_
from lightning_autoarch.structure.check import Failure


def standard_attributes(module: nn.Module) -> dict[str, Any]:
    """What the attributes of a layer of torch.nn have to be for the tensors that it has; empty for other modules.

    Of a GroupNorm they cannot be read off: see `group_norm_sizes`.
    """
    if isinstance(module, nn.Linear):
        return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}
    if isinstance(module, _ConvNd):
        return _convolution(module)
    if isinstance(module, _NormBase):
        rows = next((x for x in (module.weight, module.running_mean) if x is not None), None)
        return {} if rows is None else {"num_features": rows.shape[0]}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {} if not module.elementwise_affine else {"normalized_shape": tuple(module.weight.shape)}
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return {"embedding_dim": module.weight.shape[1]}
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module)
    if isinstance(module, nn.PReLU):
        return {"num_parameters": module.weight.shape[0]}
    if isinstance(module, nn.RNNBase):
        return _recurrent(module)
    if isinstance(module, nn.RNNCellBase):
        return {"hidden_size": module.weight_hh.shape[1], "input_size": module.weight_ih.shape[1]}
    return {}


def _convolution(module: _ConvNd) -> dict[str, Any]:
    """A group keeps its size: only their number changes."""
    first, second = module.weight.shape[:2]
    transposed = isinstance(module, _ConvTransposeNd)
    before = module.in_channels if transposed else module.out_channels
    groups = 1 if module.groups == 1 else first // (before // module.groups)
    inside = second * groups
    sizes = (first, inside) if transposed else (inside, first)
    return {"in_channels": sizes[0], "out_channels": sizes[1], "groups": groups}


def _recurrent(module: nn.RNNBase) -> dict[str, Any]:
    """Rows are gates * hidden_size; the recurrent columns are what comes out, which an LSTM may project."""
    recurrent, inputs = cast(Tensor, module.weight_hh_l0), cast(Tensor, module.weight_ih_l0)
    gates = 4 if isinstance(module, nn.LSTM) else 3 if isinstance(module, nn.GRU) else 1
    sizes = {"hidden_size": inputs.shape[0] // gates, "input_size": inputs.shape[1]}
    return {**sizes, "proj_size": recurrent.shape[1]} if module.proj_size else sizes


def _attention(module: nn.MultiheadAttention) -> dict[str, Any]:
    """A head keeps its size."""
    embed, inner = module.out_proj.weight.shape
    packed = module.in_proj_weight is not None
    sizes = (
        {"kdim": embed, "vdim": embed}
        if packed
        else {"kdim": module.k_proj_weight.shape[1], "vdim": module.v_proj_weight.shape[1]}
    )
    return {"embed_dim": embed, "num_heads": inner // module.head_dim, **sizes}


def _fits(layer: nn.MultiheadAttention) -> bool:
    """Whether torch's forward takes a layer of these sizes."""
    queries = layer.q_proj_weight if layer.in_proj_weight is None else layer.in_proj_weight
    return bool(queries.shape[1] == layer.embed_dim == layer.num_heads * layer.head_dim)


def fit_classes_(module: nn.Module) -> None:
    """Attention of sizes that torch's own cannot have becomes HeadAttention, which an encoder cannot fuse."""
    for layer in module.modules():
        if type(layer) is nn.MultiheadAttention and not _fits(layer):
            as_heads_(layer)
    for layer in module.modules():
        if isinstance(layer, nn.TransformerEncoder) and any(isinstance(m, HeadAttention) for m in layer.modules()):
            layer.use_nested_tensor = False


def candidates(root: nn.Module, failure: Failure) -> Iterator[tuple[str, str, Any]]:
    """Attributes that may have to change where a forward failed: path of the module, name, value.

    Those of the module that was running first, then of the modules around it.
    """
    path = failure.module
    while True:
        for name, value in list(vars(root.get_submodule(path)).items()):
            if not name.startswith("_"):
                for old, new in failure.sizes:
                    for changed in _replaced(value, old, new):
                        yield path, name, changed
        if not path:
            return
        path = path.rpartition(".")[0]


def _replaced(value: Any, old: int, new: int) -> Iterator[Any]:
    """The value with `old` replaced by `new`: in one place of a tuple after the other, or in all.

    Last, a number of which the size is a multiple, as `self.width` is for `view(-1, 4 * self.width)`.
    """
    if type(value) is int:
        if value == old:
            yield new
        elif value > 1 and old % value == 0 and value * new % old == 0:
            yield value * new // old
    elif type(value) in (tuple, list) and old in value and all(type(x) is int for x in value):
        places = [i for i, x in enumerate(value) if x == old]
        for chosen in dict.fromkeys([*((i,) for i in places), tuple(places)]):
            yield type(value)(new if i in chosen else x for i, x in enumerate(value))
