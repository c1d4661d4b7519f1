"""A directory of `torch.distributed.checkpoint`, read by one process, a tensor at a time.

No process group and no plan: a chunk is a small file of `torch.save` within a large one, and lands in its box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.archive import read_part
from lightning_autoarch.reading.plain_tensors import plain_tensor
from lightning_autoarch.transfer.read.contents import Weights, pick
from lightning_autoarch.transfer.read.metadata import NAME, Chunk, ChunkedTensor, read_metadata
from lightning_autoarch.transfer.read.state import LazyStateDict


def is_distributed(folder: Path) -> bool:
    """Whether it holds a distributed checkpoint."""
    return (folder / NAME).is_file()


def read_distributed(folder: Path, weights: Weights = "state_dict", key: str | None = None) -> LazyStateDict:
    """The weights of a distributed checkpoint, each read when it is asked for.

    Raises:
        CheckpointError: broken metadata; later, a chunk that is broken or unlike its description.
    """
    tensors = read_metadata(folder)
    if not tensors:
        raise CheckpointError(f"Expected tensors in {folder}, got none.")
    chosen = pick(_nested(tensors), str(folder), weights, key)
    by_like = {id(tensor.like): tensor for tensor in tensors.values()}
    found = {name: by_like[id(like)] for name, like in chosen.items()}
    return LazyStateDict(chosen, lambda name: _assembled(name, found[name]))


def _nested(tensors: dict[str, ChunkedTensor]) -> dict[str, Any]:
    """The dict that was saved, with a tensor on the meta device in the place of each."""
    root: dict[str, Any] = {}
    for name, tensor in tensors.items():
        inner: Any = root
        for part in tensor.path[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise CheckpointError(
                    f"Expected a place of its own for `{shown(name)}`, got `{shown(part)}`, which is a tensor."
                )
        if tensor.path[-1] in inner:
            raise CheckpointError(f"Expected a place of its own for `{shown(name)}`, got one that is taken already.")
        inner[tensor.path[-1]] = tensor.like
    return root


def _assembled(name: str, tensor: ChunkedTensor) -> Tensor:
    if len(tensor.chunks) == 1:
        return _read(name, tensor.chunks[0], tensor.like.dtype)
    whole = torch.empty(tensor.like.shape, dtype=tensor.like.dtype, device="cpu")
    for chunk in tensor.chunks:
        box = tuple(slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))
        whole[box] = _read(name, chunk, tensor.like.dtype)
    return whole


def _read(name: str, chunk: Chunk, dtype: torch.dtype) -> Tensor:
    what = f"`{shown(name)}`"
    try:
        with chunk.file.open("rb") as file:
            file.seek(chunk.start)
            part = read_part(file.read(chunk.length), str(chunk.file))
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"Expected {what} in {chunk.file}, which is broken: copy it again. {error}") from error
    if not isinstance(part, Tensor) or tuple(part.shape) != chunk.sizes or part.dtype != dtype:
        got = f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else shown(part)
        raise CheckpointError(f"Expected {what} as {dtype} {chunk.sizes} in {chunk.file}, got {got}: they disagree.")
    part = plain_tensor(name, part, str(chunk.file), from_file=True)
    if part.layout is not torch.strided:
        raise CheckpointError(f"Expected {what} as a dense tensor in {chunk.file}, got a sparse one.")
    return part
