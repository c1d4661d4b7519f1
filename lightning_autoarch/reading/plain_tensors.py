"""Plain tensors: without attributes of their own, with checked indices, and no larger than the file suggests.

A tensor with a stride of 0, or a sparse one, has more elements than its file has numbers. It is not made dense here,
but may be later, so the dense size of all tensors together is limited by the size of the file.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import CheckpointError, shown

SPARE = 16 << 20  # bytes that tensors may take beyond the size of their file
COMPRESSED = (torch.sparse_csr, torch.sparse_bsr, torch.sparse_csc, torch.sparse_bsc)


def plain_tensor(name: str, tensor: Tensor, origin: str, *, from_file: bool) -> Tensor:
    """The same values in the same memory, without gradient and without attributes that hide the methods of a tensor.

    Args:
        name: of the tensor, for errors.
        tensor: of any kind.
        origin: where it comes from, for errors.
        from_file: whether it comes from a file of unknown origin; a tensor of the user may be of a subclass, or on
            the meta device.

    Raises:
        CheckpointError: nested, without values, of a class of its own, or sparse with indices outside of its shape.
    """
    what = f"`{shown(name)}`"
    if tensor.is_nested:
        raise CheckpointError(f"Expected {what} as a plain tensor in {origin}, got a nested one: save its parts.")
    if from_file and tensor.is_meta:
        raise CheckpointError(f"Expected {what} with values in {origin}, got a tensor on the meta device.")
    if from_file and type(tensor) not in (Tensor, nn.Parameter):
        kind = shown(type(tensor).__name__)
        raise CheckpointError(f"Expected {what} as a plain tensor in {origin}, got a {kind}: save it as a tensor.")
    if type(tensor) is nn.Parameter or (type(tensor) is Tensor and tensor.__dict__) or tensor.requires_grad:
        tensor = Tensor.detach(tensor)
    if tensor.layout is not torch.strided and not tensor.is_mkldnn and not _is_within(tensor):
        raise CheckpointError(f"Expected {what} with indices within its shape in {origin}, got others: not loaded.")
    return tensor


def check_sizes(tensors: dict[str, Tensor], origin: str, size: int) -> None:
    """Raises CheckpointError where the tensors of a file of `size` bytes would take more memory than fits it."""
    claimed = sum(_claimed(tensor) for tensor in tensors.values())
    if claimed > size + SPARE:
        name = max(tensors, key=lambda name: _claimed(tensors[name]))
        raise CheckpointError(
            f"Expected tensors in proportion to the {size:,} bytes of {origin}, got some that are sparse or repeat "
            f"their elements and would take {claimed:,} bytes, the most `{shown(name)}` "
            f"{tuple(tensors[name].shape)}: not loaded."
        )


def _claimed(tensor: Tensor) -> int:
    """Bytes of a tensor that has fewer numbers in its memory than elements, as a dense one; 0 for any other."""
    shape, dense = tuple(tensor.shape), math.prod(tensor.shape) * tensor.dtype.itemsize
    if tensor.layout is not torch.strided:
        return dense
    if 0 in shape or tensor.is_contiguous():
        return 0
    span = 1 + sum((n - 1) * step for n, step in zip(shape, tensor.stride(), strict=True))
    return dense if dense > span * tensor.dtype.itemsize else 0


def _is_within(tensor: Tensor) -> bool:
    """Whether all that a sparse tensor holds lies within its shape. torch can check it, but for all threads or none."""
    if tensor.layout is torch.sparse_coo:
        return _is_coo_within(tensor)
    if tensor.layout not in COMPRESSED:
        return False
    return _is_compressed_within(tensor)


def _is_coo_within(tensor: Tensor) -> bool:
    indices, values, shape = tensor._indices(), tensor._values(), tuple(tensor.shape)
    if not (_is_plain(indices) and _is_plain(values)) or indices.dim() != 2 or indices.dtype != torch.int64:
        return False
    sparse = indices.shape[0]
    return (
        tuple(values.shape) == (indices.shape[1], *shape[sparse:])
        and sparse <= len(shape)
        and all(_is_between(indices[i], shape[i]) for i in range(sparse))
    )


def _is_compressed_within(tensor: Tensor) -> bool:
    by_rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    starts = tensor.crow_indices() if by_rows else tensor.ccol_indices()
    others = tensor.col_indices() if by_rows else tensor.row_indices()
    values = tensor.values()
    if not all(map(_is_plain, (starts, others, values))) or starts.dtype not in (torch.int32, torch.int64):
        return False
    batch, blocks = starts.dim() - 1, tensor.layout in (torch.sparse_bsr, torch.sparse_bsc)
    shape, count = tuple(tensor.shape), values.shape[batch] if values.dim() > batch else -1
    if starts.dim() < 1 or len(shape) < batch + 2 or values.dim() < batch + 1 + 2 * blocks:
        return False
    block = tuple(values.shape[batch + 1 : batch + 3]) if blocks else (1, 1)
    if 0 in block or any(n % b for n, b in zip(shape[batch : batch + 2], block, strict=True)):
        return False
    grid = [n // b for n, b in zip(shape[batch : batch + 2], block, strict=True)]
    lines, across = grid if by_rows else grid[::-1]
    if (
        tuple(starts.shape) != (*shape[:batch], lines + 1)
        or tuple(others.shape) != (*shape[:batch], count)
        or others.dtype != starts.dtype
        or tuple(values.shape[:batch]) != shape[:batch]
        or tuple(values.shape[batch + 1 + 2 * blocks :]) != shape[batch + 2 :]
    ):
        return False
    steps = starts.diff(dim=-1)
    return (
        bool((starts[..., 0] == 0).all() and (starts[..., -1] == count).all())
        and _is_between(steps, across + 1)
        and _is_between(others, across)
    )


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested


def _is_between(numbers: Tensor, end: int) -> bool:
    """Whether all are from 0 up to before `end`."""
    return not numbers.numel() or bool(numbers.min() >= 0 and numbers.max() < end)
