"""The numbers of a source, converted for a module of another dtype: dequantised, cast, or refused."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from lightning_autoarch.core.errors import TransferError, shown
from lightning_autoarch.transfer.read.state_dicts import LazyStateDict, StateDict

PACKED = (torch.int8, torch.uint8, torch.int32)
SCALES = ("_scale", "_scale_inv")
QUANTISED_NAMES = (".SCB", ".absmax", ".quant_map", ".quant_state")


def check_packing(names: Collection[str]) -> None:
    """Raise TransferError for a source that holds codes instead of weights, as GPTQ and AWQ write them."""
    for name in names:
        if name.endswith(".qweight"):
            raise TransferError(
                f"Expected weights, got the codes `{shown(name)}` of a quantised source; pass the state_dict of "
                "its dequantised module."
            )


def check_kind(name: str, old: Tensor, new: Tensor, state: StateDict) -> str:
    """Why the numbers of `old` cannot be copied into `new`; an empty string if they can.

    Raises:
        TransferError: The numbers are codes of a quantised tensor.
    """
    if old.is_meta and not isinstance(state, LazyStateDict):
        raise TransferError(f"Expected `{shown(name)}` with values in the source, got a tensor on the meta device.")
    companions = [f"{name}{end}" for end in QUANTISED_NAMES if f"{name}{end}" in state]
    floats = new.is_floating_point() or new.is_complex()
    if companions or (floats and old.dtype in PACKED and old.dim() > 1 and not old.is_quantized):
        raise TransferError(
            f"Expected numbers for `{shown(name)}`, got {old.dtype} codes of a quantised tensor; load the source with "
            "the library that made it and pass the state_dict of the dequantised module."
        )
    if _rank(old) > _rank(new):
        return f"{old.dtype} in the source, {new.dtype} in the module"
    return f"{old.dtype} in the source, {new.dtype} in the module" if _rank(old) == 0 and _rank(new) > 0 else ""


def plain(name: str, tensor: Tensor, new: Tensor, state: StateDict) -> Tensor:
    """A dense tensor of numbers that fit into the dtype of `new`.

    Raises:
        TransferError: Unknown scales, or numbers that would overflow.
    """
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()  # a DTensor
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1:
        tensor = _scaled(name, tensor, state)
    _check_range(name, tensor, new)
    return tensor


def unlike_sparse(old: Tensor, new: Tensor) -> str:
    """Why `old` cannot be copied into the sparse tensor `new`; an empty string if it can."""
    shapes = tuple(old.shape), tuple(new.shape)
    pairs = (("layout", old.layout, new.layout), ("shape", *shapes), ("dtype", old.dtype, new.dtype))
    for what, there, here in pairs:
        if there != here:
            return f"the {what} {there} in the source, {here} in the module, where it is sparse"
    if new.layout is not torch.sparse_coo and old._nnz() != new._nnz():  # torch requires as many entries
        return f"{old._nnz()} entries in the source, {new._nnz()} in the module, where it is sparse"
    return ""


def _rank(tensor: Tensor) -> int:
    """0 for integers and booleans, 1 for reals, 2 for complex numbers."""
    if tensor.is_quantized:
        return 1
    return 2 if tensor.is_complex() else int(tensor.is_floating_point())


def _scaled(name: str, tensor: Tensor, state: StateDict) -> Tensor:
    """8-bit floats multiplied by the scale beside them."""
    found = [f"{name}{end}" for end in SCALES if f"{name}{end}" in state]
    if not found:
        return tensor.float()
    scale = state[found[0]].float()
    if scale.numel() != 1:
        raise TransferError(
            f"Expected one scale for `{shown(name)}`, got {tuple(scale.shape)} of `{shown(found[0])}`; "
            "dequantise the source first."
        )
    return tensor.float() * scale.reshape(())


def _check_range(name: str, tensor: Tensor, new: Tensor) -> None:
    if tensor.dtype == new.dtype or not tensor.numel():
        return
    if new.is_floating_point() and tensor.is_floating_point():
        largest = torch.finfo(new.dtype).max
        if largest >= torch.finfo(tensor.dtype).max:
            return
        finite = torch.where(torch.isfinite(tensor), tensor, 0).abs().max()
        if finite > largest:
            raise TransferError(
                f"Expected `{shown(name)}` within {new.dtype}, got {float(finite):g}, which would be infinite."
            )
    elif _rank(new) == 0 and not torch.equal(tensor.to(new.dtype).to(tensor.dtype), tensor):
        raise TransferError(f"Expected `{shown(name)}` within {new.dtype}, got {tensor.dtype} values that do not fit.")


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same numbers; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.device == b.device and a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return bool(torch.isclose(a, b.to(a.device), rtol=0, atol=0, equal_nan=True).all())
