"""A state_dict as what a file can hold: plain dense tensors on the CPU, each with memory of its own, and no more.

A weight that is a view of something larger would take all of it along; one that is tied stays one tensor.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneTypeError


def plain_state(state: Mapping[str, Any]) -> dict[str, Tensor]:  # contiguous; tied ones are the same object
    """The tensors of a state_dict, those with memory and shape in common as one. What can be shared is not copied.

    Raises:
        PruneTypeError: it is no state_dict, or an entry is not a plain dense tensor; it is named.

    >>> weight = torch.ones(2)
    >>> plain = plain_state({"a": weight, "b": weight.view(2)})
    >>> plain["a"] is plain["b"]
    True
    """
    if not isinstance(state, Mapping):
        raise PruneTypeError(f"Expected a state_dict, a mapping of names to tensors, got {type(state).__name__}.")
    known: dict[Hashable, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = _checked(name, value)
        key = _identity(tensor)
        if key not in known:
            known[key] = _own(tensor)
        plain[name] = known[key]
    return plain


def size(state: Mapping[str, Tensor]) -> int:
    """Bytes of the distinct tensors of a plain state."""
    distinct = {id(tensor): tensor for tensor in state.values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in distinct.values())


def as_bytes(tensor: Tensor) -> Tensor:  # (bytes,) uint8
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8)


def _checked(name: object, value: object) -> Tensor:
    if not isinstance(name, str):
        raise PruneTypeError(f"Expected the names of a state_dict to be strings, got {name!r:.80}.")
    if not isinstance(value, Tensor):
        raise PruneTypeError(f"Expected a tensor under `{name}`, got {type(value).__name__}: it cannot be stored.")
    kind = "" if type(value) in (Tensor, nn.Parameter) else f"a {type(value).__name__}"
    if not kind and (value.layout != torch.strided or value.is_quantized):
        kind = f"layout {value.layout}" if value.layout != torch.strided else f"quantised {value.dtype}"
    if not kind and value.is_meta:
        kind = "one on the meta device"
    if kind:
        raise PruneTypeError(
            f"Expected a plain dense tensor under `{name}`, got {kind}: export before converting it; a sparse buffer "
            "that need not be stored is registered with `persistent=False`."
        )
    return value.detach()


def _identity(tensor: Tensor) -> Hashable:
    if not tensor.numel():
        return id(tensor), "empty"
    flags = tensor.is_conj(), tensor.is_neg()
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride(), flags


def _own(tensor: Tensor) -> Tensor:
    """Row-major, its storage no larger than itself. What has 0 or 1 elements can have any strides and be contiguous."""
    whole = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    alone = whole.untyped_storage().nbytes() == whole.numel() * whole.element_size()
    if alone and whole.stride() == torch.empty(whole.shape, device="meta").stride():
        return whole
    return torch.empty(whole.shape, dtype=whole.dtype).copy_(whole)
