"""One weight, written in several ways: the spelling of the source is read as the one of the module.

    plain           W
    weight norm     W = g v / ||v||     `W_g`, `W_v`;  `parametrizations.W.original0`, `original1`
    spectral norm   W = O / (u' O v)    `W_orig`, `W_u`, `W_v`;  `parametrizations.W.original`, `0._u`, `0._v`
    pruned          W = O * M           `W_orig`, `W_mask` of `torch.nn.utils.prune`
    attention       queries, keys and values stacked as `in_proj_weight`, or apart as `q_proj`, `k_proj`, `v_proj`

The older spelling comes first, `torch.nn.utils.parametrizations` has the newer. A plain weight for a parametrised one
is for parametrized.py. Only tensors that the module asks for by name are made, and only where the source has none of
that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lightning_autoarch.transfer.match.view import SourceView

PARTS = re.compile(
    r"(?:^|(?<=\.))(?:parametrizations\.(?P<new>[^.]+)\.(?:original\d*|0\._[uv])|(?P<old>[^.]+)_(?:g|v|u|orig|mask))$"
)
QUERIES = re.compile(r"(?:^|(?<=\.))q_proj(\.weight|\.bias|_weight)$")
WHOLE = {".weight": "in_proj_weight", ".bias": "in_proj_bias", "_weight": "in_proj_weight"}
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Spelling:
    """A tensor that is made of others."""

    inputs: tuple[str, ...]  # names in the view
    outputs: Mapping[str, Callable[..., Tensor] | None]  # name in the module -> of the inputs; None: the input itself
    reason: str


def plain_name(name: str) -> str:
    """The weight that a tensor is a part of; the name itself of any other.

    >>> plain_name("conv.weight_g"), plain_name("conv.parametrizations.weight.original0"), plain_name("conv.bias")
    ('conv.weight', 'conv.weight', 'conv.bias')
    """
    name = name.replace(".base_layer.", ".")
    return PARTS.sub(lambda match: match["new"] or match["old"], name)


def respell(view: SourceView, wanted: Collection[str], module: nn.Module) -> dict[str, tuple[str, list[str]]]:
    """Make what the module wants of what the source has.

    Args:
        view: of the source; changed in place.
        wanted: names in the module, of tensors and of those that are computed from others.
        module: whose layers tell along which dimension a weight is normed.

    Returns:
        For each name that was made, what is said of it, and the names in the source that it is made of.
    """
    layers = dict(module.named_modules(remove_duplicate=False))
    there = {plain_name(name) for name in wanted if name in view}
    missing = sorted({plain_name(name) for name in wanted} - there)
    done: dict[str, tuple[str, list[str]]] = {}
    for name in [*missing, *sorted(_projections(wanted))]:
        for spelling in _spellings(name, view, wanted, layers):
            new = set(spelling.outputs)
            if new <= set(wanted) and not any(each in view for each in new) and all(i in view for i in spelling.inputs):
                _apply(spelling, view, done)
                break
    return done


def _apply(spelling: Spelling, view: SourceView, done: dict[str, tuple[str, list[str]]]) -> None:
    sources = [view.origins.get(name, name) for name in spelling.inputs]
    inputs = [view[name] for name in spelling.inputs]
    made = {new: inputs[0] if make is None else make(*inputs) for new, make in spelling.outputs.items()}
    for name in spelling.inputs:
        del view[name]
    for new, tensor in made.items():
        view[new] = tensor
        done[new] = (spelling.reason, sources)


def _spellings(
    name: str, view: SourceView, wanted: Collection[str], layers: Mapping[str, nn.Module]
) -> Iterator[Spelling]:
    """The ways in which the source may have a weight, and what becomes of each."""
    path, dot, leaf = name.rpartition(".")
    new, layer = f"{path}{dot}parametrizations.{leaf}.", layers.get(path)
    yield from _weight_norm(name, new, view)
    yield from _spectral_norm(name, new, view, layer)
    yield Spelling((f"{name}_orig", f"{name}_mask"), {name: _masked}, "a pruned weight times its mask")
    if f"{name}_mask" in wanted or f"{name}_u" in wanted:
        yield Spelling((name,), {f"{name}_orig": None}, "the weight that the layer computes with")
    length = None if layer is None else layer._parameters.get(f"{leaf}_g")
    if length is not None:
        dim = _dim(length)
        parts = {f"{name}_g": lambda weight: torch.norm_except_dim(weight, 2, dim), f"{name}_v": _first}
        yield Spelling((name,), parts, "length and direction of the weight")
    yield from _attention(path, dot, leaf)


def _weight_norm(name: str, new: str, view: SourceView) -> Iterator[Spelling]:
    older, newer = (f"{name}_g", f"{name}_v"), (f"{new}original0", f"{new}original1")
    for there, here in ((older, newer), (newer, older)):
        if all(each in view for each in there) and _is_length(view[there[0]], view[there[1]]):
            parts = dict(zip(here, (_first, _second), strict=True))
            yield Spelling(there, parts, "length and direction of weight norm")
            yield Spelling(there, {name: _normed}, "computed by weight norm")


def _spectral_norm(name: str, new: str, view: SourceView, layer: nn.Module | None) -> Iterator[Spelling]:
    older = (f"{name}_orig", f"{name}_u", f"{name}_v")
    newer = (f"{new}original", f"{new}0._u", f"{new}0._v")
    dim = 1 if isinstance(layer, TRANSPOSED) else 0
    for there, here in ((older, newer), (newer, older)):
        if all(each in view for each in there):
            parts = dict(zip(here, (_first, _second, _third), strict=True))
            yield Spelling(there, parts, "weight and vectors of spectral norm")
            yield Spelling(there, {name: lambda o, u, v: _divided(o, u, v, dim)}, "computed by spectral norm")


def _attention(path: str, dot: str, leaf: str) -> Iterator[Spelling]:
    ends = {"in_proj_weight": (".weight", "_weight"), "in_proj_bias": (".bias",)}
    whole = f"{path}{dot}{leaf}"
    for end in ends.get(leaf, ()):
        apart = tuple(f"{path}{dot}{part}_proj{end}" for part in "qkv")
        yield Spelling(apart, {whole: _stacked}, "queries, keys and values put together")
        thirds = {each: partial(_third_of, i) for i, each in enumerate(apart)}
        yield Spelling((whole,), thirds, "queries, keys and values taken apart")


def _projections(wanted: Collection[str]) -> set[str]:
    """The stacks that `q_proj`, `k_proj` and `v_proj` of the module would be."""
    return {QUERIES.sub(lambda match: WHOLE[match[1]], name) for name in wanted if QUERIES.search(name)}


def _is_length(g: Tensor, v: Tensor) -> bool:
    """Whether one can be the norm of the other: of all of it, or for each index of one dimension."""
    if g.dim() == 0:
        return True
    kept = [size for size in g.shape if size != 1]
    return g.dim() == v.dim() and len(kept) <= 1 and all(a in (1, b) for a, b in zip(g.shape, v.shape, strict=True))


def _normed(g: Tensor, v: Tensor) -> Tensor:
    return torch._weight_norm(v, g.reshape(()) if g.numel() == 1 else g, _dim(g))


def _dim(g: Tensor) -> int:
    """Along which the lengths lie, as torch counts it: -1 for one length of the whole."""
    return next((dim for dim, size in enumerate(g.shape) if size != 1), -1)


def _divided(original: Tensor, u: Tensor, v: Tensor, dim: int) -> Tensor:
    if original.shape[dim] != u.numel():  # normed along another dimension than is usual
        dim = next((d for d, size in enumerate(original.shape) if size == u.numel()), dim)
    matrix = original.movedim(dim, 0).flatten(1)
    return original / torch.vdot(u, torch.mv(matrix, v))


def _masked(original: Tensor, mask: Tensor) -> Tensor:
    return mask.to(original.dtype) * original


def _stacked(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _third_of(i: int, tensor: Tensor) -> Tensor:
    return tensor.chunk(3)[i]


def _first(*inputs: Tensor) -> Tensor:
    return inputs[0]


def _second(*inputs: Tensor) -> Tensor:
    return inputs[1]


def _third(*inputs: Tensor) -> Tensor:
    return inputs[2]
