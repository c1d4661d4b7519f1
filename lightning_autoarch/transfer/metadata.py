"""The `.metadata` of a distributed checkpoint: names, shapes, and in which file at which offset each chunk lies.

torch unpickles it without limits. Here only the classes that it is made of can be named, and what they then say is
checked: chunks lie within their tensor, do not overlap and cover it, and files lie in the folder.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_autoarch.errors import CheckpointError
from lightning_autoarch.transfer.sharded import inside

NAME = ".metadata"
DESCRIPTIONS = "torch.distributed.checkpoint.metadata"
ALLOWED = {
    *((DESCRIPTIONS, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata")),
    *((DESCRIPTIONS, name) for name in ("BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties")),
    (DESCRIPTIONS, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib", "PurePosixPath"),
    ("collections", "OrderedDict"),
}


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor, and the bytes of a file that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int


@dataclass(frozen=True)
class ChunkedTensor:
    """A tensor of which nothing has been read."""

    like: Tensor  # on the meta device
    path: tuple[str, ...]  # of keys in the dict that was saved
    chunks: tuple[Chunk, ...]


def read_metadata(folder: Path) -> dict[str, ChunkedTensor]:
    """The tensors of a distributed checkpoint, in the order that they were saved in.

    Raises:
        CheckpointError: broken metadata, or such that names anything else than descriptions of tensors.
    """
    file = folder / NAME
    try:
        held = _Unpickler(file).load()
    except CheckpointError:
        raise
    except Exception as error:  # a parser of hostile bytes
        raise CheckpointError(f"Expected metadata of torch.distributed.checkpoint, got a broken {file}.") from error
    try:
        return _described(held, folder)
    except (AttributeError, TypeError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"Expected metadata of tensors in {file}, got something else: {error!r}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Path) -> None:
        super().__init__(io.BytesIO(file.read_bytes()))
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in ALLOWED:
            raise CheckpointError(
                f"Expected descriptions of tensors in {self._file}, got `{module}.{name}`, which could run code."
            )
        return super().find_class(module, name)


def _described(held: Any, folder: Path) -> dict[str, ChunkedTensor]:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    places = {(index.fqn, index.offset): info for index, info in held.storage_data.items()}
    paths = held.planner_data or {}
    found = {}
    for name, tensor in held.state_dict_metadata.items():
        if isinstance(tensor, TensorStorageMetadata):
            path = tuple(str(part) for part in paths.get(name, (name,)))
            chunks = tuple(_chunk(name, chunk, places, folder) for chunk in tensor.chunks)
            _check_cover(name, tensor.size, chunks, folder)
            like = torch.empty(tensor.size, dtype=tensor.properties.dtype, device="meta")
            found[name] = ChunkedTensor(like, path, chunks)
    return found


def _chunk(name: str, chunk: Any, places: dict[Any, Any], folder: Path) -> Chunk:
    info = places.get((name, torch.Size(chunk.offsets)))
    if info is None:
        raise CheckpointError(f"Expected a file for each chunk of `{name}` in {folder}, got none for {chunk.offsets}.")
    if getattr(info, "transform_descriptors", None):
        raise CheckpointError(f"Expected `{name}` in {folder} as it is, got it compressed: save it without extensions.")
    file = inside(folder, info.relative_path)
    if not 0 <= info.offset <= info.offset + info.length <= file.stat().st_size:
        raise CheckpointError(f"Expected a whole {file}, got one that ends before `{name}`: copy it again.")
    return Chunk(tuple(chunk.offsets), tuple(chunk.sizes), file, info.offset, info.length)


def _check_cover(name: str, shape: Sequence[int], chunks: Sequence[Chunk], folder: Path) -> None:
    """Within the tensor, no two with an element in common, and as many elements as the tensor: then they cover it."""
    for chunk in chunks:
        ends = [offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)]
        if min((*chunk.offsets, *chunk.sizes), default=0) < 0 or any(
            end > size for end, size in zip(ends, shape, strict=True)
        ):
            raise CheckpointError(f"Expected chunks within `{name}` {tuple(shape)}, got {chunk.sizes} in {folder}.")
    numel = sum(torch.Size(chunk.sizes).numel() for chunk in chunks)
    overlap = any(_meet(a, b) for a, b in itertools.combinations(chunks, 2))
    if numel != torch.Size(shape).numel() or overlap:
        raise CheckpointError(f"Expected chunks that cover `{name}` {tuple(shape)} once in {folder}, they do not.")


def _meet(a: Chunk, b: Chunk) -> bool:
    sides = zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True)
    return all(p < q + m and q < p + n for p, n, q, m in sides)
