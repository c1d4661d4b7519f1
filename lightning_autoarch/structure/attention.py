"""Attention with any number of heads of a given size: what nn.MultiheadAttention becomes when heads are removed.

nn.MultiheadAttention has head_dim = embed_dim / num_heads wired in, so with a head less it would cut its projections
anew. `HeadAttention` is the same layer, with the same tensors under the same names, where heads * head_dim need not be
embed_dim:

    q = x W_q^T,  k = y W_k^T,  v = z W_v^T        (N, L, embed_dim) -> (N, heads, L, head_dim)
    softmax(q k^T / sqrt(head_dim) + mask) v  ->  (N, L, heads * head_dim) -> (N, L, embed_dim)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention whose heads are not tied to `embed_dim`. Not built: `as_heads_` makes one of another."""

    head_dim: int

    def forward(  # as nn.MultiheadAttention's, without its fused path
        self,
        query: Tensor,  # (L, N, E), or (N, L, E) with batch_first, or (L, E)
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See nn.MultiheadAttention."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Expected `attn_mask` with `is_causal`, which is only a hint about it, got None.")
        batched, batch_first = query.dim() == 3, self.batch_first
        q, k, v = _projected(self, *(_batch_first(x, batched, batch_first) for x in (query, key, value)))
        mask = _mask(self, query.dtype, batched, attn_mask, key_padding_mask)
        q, k, v, mask = _extended(self, q, k, v, mask)
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            out = F.dropout(weights, self.dropout, self.training) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # (N, L, E)
        out = out.squeeze(0) if not batched else out if batch_first else out.transpose(0, 1)
        if not need_weights:
            return out, None
        weights = weights.mean(1) if average_attn_weights else weights
        return out, weights if batched else weights.squeeze(0)


def _batch_first(x: Tensor, batched: bool, batch_first: bool) -> Tensor:  # (N, L, E)
    return x.unsqueeze(0) if not batched else x if batch_first else x.transpose(0, 1)


def _projected(
    layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # each (N, L, heads * head_dim)
    weights: tuple[Tensor | None, ...] = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    if layer.in_proj_weight is not None:
        weights = layer.in_proj_weight.chunk(3)
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    return q, k, v


def _mask(
    layer: nn.MultiheadAttention,
    dtype: torch.dtype,
    batched: bool,
    attn_mask: Tensor | None,  # (L, S) or (N * heads, L, S)
    key_padding_mask: Tensor | None,  # (N, S) or (S,)
) -> Tensor | None:  # added to the scores, broadcasts to (N, heads, L, S)
    parts: list[Tensor] = []
    if attn_mask is not None:
        whole = (
            attn_mask[None, None] if attn_mask.dim() == 2 else attn_mask.view(-1, layer.num_heads, *attn_mask.shape[1:])
        )
        parts.append(_additive(whole, dtype))
    if key_padding_mask is not None:
        rows = key_padding_mask if batched else key_padding_mask[None]
        parts.append(_additive(rows[:, None, None], dtype))
    return sum(parts[1:], parts[0]) if parts else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def _extended(
    layer: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Cut into heads; one more key and value from `bias_k` and `bias_v`, and one of zeros, where the layer has them."""
    extra = 0
    if layer.bias_k is not None and layer.bias_v is not None:
        k = torch.cat([k, layer.bias_k.expand(k.shape[0], -1, -1)], 1)
        v = torch.cat([v, layer.bias_v.expand(v.shape[0], -1, -1)], 1)
        extra += 1
    heads = (layer.num_heads, layer.head_dim)
    q, k, v = (x.view(*x.shape[:2], *heads) for x in (q, k, v))
    if getattr(layer, "_whole_heads", False):
        q, k, v = (x + torch.zeros_like(torch.arange(layer.head_dim, device=x.device)) for x in (q, k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if layer.add_zero_attn:
        k, v = (torch.cat([x, torch.zeros_like(x[:, :, :1])], 2) for x in (k, v))
        extra += 1
    return q, k, v, F.pad(mask, (0, extra)) if mask is not None and extra else mask


def as_heads_(layer: nn.MultiheadAttention) -> None:
    """Make a layer one whose heads are not tied to `embed_dim`, in place: its tensors and names stay."""
    layer.__class__ = HeadAttention
    layer._qkv_same_embed_dim = False  # what torch's fused encoder path asks for: it would cut the projections anew


@contextlib.contextmanager
def heads_spelled_out(module: nn.Module) -> Iterator[None]:
    """Every nn.MultiheadAttention runs as HeadAttention does, so that it is the same forward before and after.

    Something of the fixed size `head_dim` is added to each head: nothing inside of a head goes alone.
    """
    kinds = (nn.MultiheadAttention, HeadAttention)
    layers = [m for m in module.modules() if type(m) in kinds and "forward" not in m.__dict__]
    for layer in layers:
        layer.__dict__["forward"] = MethodType(HeadAttention.forward, layer)
        layer.__dict__["_whole_heads"] = True
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
            layer.__dict__.pop("_whole_heads", None)
