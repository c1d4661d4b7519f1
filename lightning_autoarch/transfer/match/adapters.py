"""Low-rank adapters of `peft` in a source, added to the weights that they adapt.

    layer.base_layer.weight         W (out, in)
    layer.lora_A.default.weight     A (r, in)
    layer.lora_B.default.weight     B (out, r)

    W' = W + (alpha / r) B A           Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3

`alpha` is not in such a file: it stands in `adapter_config.json` or in the code that trained it, so it has to be said.
Adapters that were never trained (B = 0) need none. A module that has adapters itself takes them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.view import SourceView

LORA = re.compile(r"^(?P<path>.+)\.lora_(?P<kind>embedding_)?A\.(?P<adapter>[^.]+)(?:\.weight)?$")
BASE = ".base_layer."


@dataclass(frozen=True)
class _Adapter:
    path: str  # of the layer
    a: str
    b: str
    transposed: bool  # of an embedding: (num, r) and (r, dim)


def merge_adapters(view: SourceView, wanted: Collection[str], alpha: float | None) -> dict[str, tuple[str, list[str]]]:
    """Put plain layers in the place of adapted ones, and adapted ones in the place of plain ones.

    Args:
        view: of the source; changed in place.
        wanted: names in the module.
        alpha: `lora_alpha` of the adapters; 0 leaves them out.

    Returns:
        For each name that was made, what is said of it, and the names in the source that it is made of.

    Raises:
        TransferError: trained adapters whose `alpha` is not given, several in one layer, or DoRA.
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
                found[name] = ("with its low-rank adapter added", made)
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
                f"Expected one adapter for `{match['path']}`, got several in the source: merge the one that is meant "
                "with peft's `merge_and_unload()` and save that."
            )
        found[match["path"]] = _Adapter(match["path"], name, other, bool(match["kind"]))
    return found


def _merge(view: SourceView, name: str, adapter: _Adapter, alpha: float | None) -> list[str]:
    """Add an adapter; returns what the weight is made of, nothing where there is nothing to add."""
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
            f"The source has low-rank adapters (`{sources[1]}`, ...), but not their scale: give `lora_alpha`, which "
            "stands in `adapter_config.json` or in the options that they were trained with; 0 leaves them out."
        )
    view[name] = _added(view[name], a, b, alpha, adapter)
    return sources


def _added(weight: Tensor, a: Tensor, b: Tensor, alpha: float, adapter: _Adapter) -> Tensor:
    """W + (alpha / r) B A, in single precision at least."""
    rank = a.shape[0]
    wide = torch.promote_types(weight.dtype, torch.float32)
    change = torch.mm(b.flatten(1).to(wide), a.flatten(1).to(wide)) if b.dim() < 3 else _of_convolution(a, b, wide)
    if adapter.transposed or (change.shape != weight.shape and change.t().shape == weight.shape):
        change = change.t()  # a layer that keeps its weight as (in, out)
    if change.numel() != weight.numel():
        raise TransferError(
            f"Expected adapters of the shape of `{adapter.path}`, {tuple(weight.shape)}, got {tuple(change.shape)}."
        )
    return (weight.to(wide) + alpha / rank * change.reshape(weight.shape)).to(weight.dtype)


def _of_convolution(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """(r, in, k, ...) and (out, r, 1, ...) -> (out, in, k, ...)"""
    return torch.einsum("or,r...->o...", b.flatten(1).to(dtype), a.to(dtype))
