"""One weight, written in several ways: the spelling of the source is converted into the spelling of the module.

    plain           W
    weight norm     W = g v / ||v||     `W_g`, `W_v`;  `parametrizations.W.original0`, `original1`
    spectral norm   W = O / (u' O v)    `W_orig`, `W_u`, `W_v`;  `parametrizations.W.original`, `0._u`, `0._v`
    pruned          W = O * M           `W_orig`, `W_mask` of `torch.nn.utils.prune`
    attention       queries, keys and values stacked as `in_proj_weight`, or apart as `q_proj`, `k_proj`, `v_proj`
    adapters        W' = W + (alpha / r) B A    `base_layer.weight`, `lora_A.default.weight`, `lora_B.default.weight`
                    of `peft`: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3

The older spelling of torch comes first, the newer one is that of `torch.nn.utils.parametrizations`. Tensors are only
computed if the module asks for them by name, and if the source has none of that name.

Where a source has a plain weight for a parametrised one, `right_inverse` of a copy of the parametrisation computes the
tensors that it consists of; if it refuses (it has no `right_inverse`), the weight is skipped.

The `alpha` of adapters is not part of a checkpoint, but of `adapter_config.json` or the training code, so it has to be
passed. Adapters that were never trained (B = 0) do not need it. A module with adapters takes them unchanged.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.source_view import SourceView

PARTS = re.compile(
    r"(?:^|(?<=\.))(?:parametrizations\.(?P<new>[^.]+)\.(?:original\d*|0\._[uv])|(?P<old>[^.]+)_(?:g|v|u|orig|mask))$"
)
QUERIES = re.compile(r"(?:^|(?<=\.))q_proj(\.weight|\.bias|_weight)$")
WHOLE = {".weight": "in_proj_weight", ".bias": "in_proj_bias", "_weight": "in_proj_weight"}
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Spelling:
    """How tensors are computed from others.

    Attributes:
        inputs: Names in the view.
        outputs: Name in the module -> function of the inputs; None for the input itself.
        reason: What is reported.
    """

    inputs: tuple[str, ...]
    outputs: Mapping[str, Callable[..., Tensor] | None]
    reason: str


def whole_name(name: str) -> str:
    """The name of the weight that a tensor is a part of; any other name is returned unchanged.

    >>> whole_name("conv.weight_g"), whole_name("conv.parametrizations.weight.original0"), whole_name("conv.bias")
    ('conv.weight', 'conv.weight', 'conv.bias')
    """
    name = name.replace(".base_layer.", ".")
    return PARTS.sub(lambda match: match["new"] or match["old"], name)


def respell(view: SourceView, wanted: Collection[str], module: nn.Module) -> dict[str, tuple[str, list[str]]]:
    """Compute the tensors of the module from those of the source.

    Args:
        view: The view of the source, changed in place.
        wanted: Names in the module, also of tensors that are computed from others.
        module: The module, whose layers tell along which dimension a weight is normed.

    Returns:
        Name of each computed tensor -> what is reported, and the names in the source that it is computed from.
    """
    layers = dict(module.named_modules(remove_duplicate=False))
    there = {whole_name(name) for name in wanted if name in view}
    missing = sorted({whole_name(name) for name in wanted} - there)
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
    """The spellings in which the source may have a weight."""
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
    """The names of the stacks of the module's `q_proj`, `k_proj` and `v_proj`."""
    return {QUERIES.sub(lambda match: WHOLE[match[1]], name) for name in wanted if QUERIES.search(name)}


def _is_length(g: Tensor, v: Tensor) -> bool:
    """Whether one can be the norm of the other, of all of it or along one dimension."""
    if g.dim() == 0:
        return True
    kept = [size for size in g.shape if size != 1]
    return g.dim() == v.dim() and len(kept) <= 1 and all(a in (1, b) for a, b in zip(g.shape, v.shape, strict=True))


def _normed(g: Tensor, v: Tensor) -> Tensor:
    return torch._weight_norm(v, g.reshape(()) if g.numel() == 1 else g, _dim(g))


def _dim(g: Tensor) -> int:
    """The dimension of the lengths, as torch counts it: -1 for one length of the whole."""
    return next((dim for dim, size in enumerate(g.shape) if size != 1), -1)


def _divided(original: Tensor, u: Tensor, v: Tensor, dim: int) -> Tensor:
    if original.shape[dim] != u.numel():  # normed along an unusual dimension
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


@dataclass(frozen=True)
class Parametrized:
    """A tensor of a module that is computed from others.

    Attributes:
        name: Its name, such as "conv.weight".
        path: The common path of the tensors that it is computed from, such as "conv.parametrizations.weight".
        parametrization: The module that computes it.
    """

    name: str
    path: str
    parametrization: ParametrizationList

    def values(self, weight: Tensor) -> tuple[dict[str, Tensor], str]:
        """Name in the module -> value, empty if the parametrisation refuses the weight; and what is reported."""
        own = self.parametrization.state_dict()
        made = copy.deepcopy(self.parametrization).eval()
        first = next(tensor for name, tensor in own.items() if name.startswith("original"))
        weight = weight.to(first.device, first.dtype)
        try:
            with torch.no_grad():
                made.right_inverse(weight)
                kept = torch.allclose(made(), weight, rtol=1e-3, atol=1e-5)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            return {}, f"its parametrisation refuses it: {str(error).strip().splitlines()[0][:100]}"
        found = made.state_dict()
        if any(found[name].shape != tensor.shape for name, tensor in own.items()):
            return {}, f"{tuple(weight.shape)} in the source, another shape in the module"
        reason = f"of `{self.name}`, through its parametrisation" + ("" if kept else ", which changes the weight")
        return {f"{self.path}.{name}": tensor for name, tensor in found.items()}, reason


def parametrized(module: nn.Module) -> Iterator[Parametrized]:
    """The parametrised tensors of a module."""
    for path, inner in module.named_modules():
        if isinstance(inner, ParametrizationList):
            owner, _, leaf = path.rpartition(".")
            place = owner.removesuffix("parametrizations")
            yield Parametrized(f"{place}{leaf}", path, inner)


LORA = re.compile(r"^(?P<path>.+)\.lora_(?P<kind>embedding_)?A\.(?P<adapter>[^.]+)(?:\.weight)?$")
BASE = ".base_layer."


@dataclass(frozen=True)
class _Adapter:
    path: str  # of the layer
    a: str
    b: str
    transposed: bool  # of an embedding: (num, r) and (r, dim)


def merge_adapters(view: SourceView, wanted: Collection[str], alpha: float | None) -> dict[str, tuple[str, list[str]]]:
    """Rename plain layers to adapted ones and the other way round, and merge adapters into their weights.

    Args:
        view: The view of the source, changed in place.
        wanted: Names in the module.
        alpha: `lora_alpha` of the adapters; 0 ignores them.

    Returns:
        Name of each computed tensor -> what is reported, and the names in the source that it is computed from.

    Raises:
        TransferError: Trained adapters without `alpha`, several in one layer, or DoRA.
    """
    for name in [name for name in wanted if BASE in name and name not in view]:
        plain = name.replace(BASE, ".")
        if plain in view:
            view.rename(plain, name)
    plain_names = {name: name.replace(BASE, ".") for name in view if BASE in name and name not in wanted}
    adapters = _adapters(view)
    for name, plain in plain_names.items():
        if plain in wanted and plain not in view:
            view.rename(name, plain)
    found = {}
    for path, adapter in adapters.items():
        name = f"{path}.weight"
        if name in view and name in wanted and f"{path}{BASE}weight" in plain_names:
            made = _merge(view, name, adapter, alpha)
            if made:
                found[name] = ("with its low-rank adapter merged", made)
    return found


def _adapters(view: SourceView) -> dict[str, _Adapter]:
    found: dict[str, _Adapter] = {}
    for name in list(view):
        match = LORA.match(name)
        if match is None:
            continue
        other = name.replace(f"lora_{match['kind'] or ''}A.", f"lora_{match['kind'] or ''}B.")
        if match["path"] in found:
            raise TransferError(
                f"Expected one adapter for `{match['path']}`, got several in the source: merge one of them with "
                "peft's `merge_and_unload()` and save the result."
            )
        found[match["path"]] = _Adapter(match["path"], name, other, bool(match["kind"]))
    return found


def _merge(view: SourceView, name: str, adapter: _Adapter, alpha: float | None) -> list[str]:
    """Merge an adapter; returns the names that the weight is computed from, none if the adapter is zero."""
    if adapter.b not in view:
        raise TransferError(f"Expected `{adapter.b}` beside `{adapter.a}`, got none in the source.")
    if any(each.startswith(f"{adapter.path}.lora_magnitude_vector") for each in view):
        raise TransferError(
            f"Expected plain LoRA for `{adapter.path}`, got DoRA: merge it with peft's `merge_and_unload()` and save "
            "that."
        )
    a, b = view[adapter.a], view[adapter.b]
    sources = [view.origins.get(each, each) for each in (name, adapter.a, adapter.b)]
    del view[adapter.a], view[adapter.b]
    if alpha == 0 or not bool(b.any()):
        return []
    if alpha is None:
        raise TransferError(
            f"The source has low-rank adapters (`{sources[1]}`, ...), but not their scale: pass `lora_alpha` of "
            "`adapter_config.json`, or of the options that they were trained with; 0 ignores the adapters."
        )
    view[name] = _added(view[name], a, b, alpha, adapter)
    return sources


def _added(weight: Tensor, a: Tensor, b: Tensor, alpha: float, adapter: _Adapter) -> Tensor:
    """W + (alpha / r) B A, in at least single precision."""
    rank = a.shape[0]
    wide = torch.promote_types(weight.dtype, torch.float32)
    change = torch.mm(b.flatten(1).to(wide), a.flatten(1).to(wide)) if b.dim() < 3 else _of_convolution(a, b, wide)
    if adapter.transposed or (change.shape != weight.shape and change.t().shape == weight.shape):
        change = change.t()  # a layer whose weight is (in, out)
    if change.numel() != weight.numel():
        raise TransferError(
            f"Expected adapters of the shape of `{adapter.path}`, {tuple(weight.shape)}, got {tuple(change.shape)}."
        )
    return (weight.to(wide) + alpha / rank * change.reshape(weight.shape)).to(weight.dtype)


def _of_convolution(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """(r, in, k, ...) and (out, r, 1, ...) -> (out, in, k, ...)"""
    return torch.einsum("or,r...->o...", b.flatten(1).to(dtype), a.to(dtype))
