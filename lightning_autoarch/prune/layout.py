"""Where the elements of a tensor lie in memory. Nothing here reads one."""

from __future__ import annotations

from torch import Tensor


def span(tensor: Tensor) -> tuple[int, int]:
    """First byte and the byte behind the last, of a tensor that is not empty."""
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.numel() * tensor.element_size()
    last = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return start, start + (last + 1) * tensor.element_size()


def merged_layout(tensor: Tensor) -> tuple[list[int], list[int]]:
    """Sizes and strides with dimensions of size 1 left out and those that continue each other merged; none of either
    where the tensor is contiguous.

    >>> import torch
    >>> merged_layout(torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last))
    ([4, 3, 4], [12, 1, 3])
    """
    if tensor.is_contiguous():
        return [], []
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    return sizes, strides
