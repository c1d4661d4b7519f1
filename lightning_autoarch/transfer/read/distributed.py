"""A directory of `torch.distributed.checkpoint`, read by one process, a tensor at a time.

No process group and no plan is needed: a chunk is a small `torch.save` file within a large one, and is copied into its
part of the tensor. The file `.metadata` has names, shapes, and in which file at which offset each chunk is.

torch unpickles it without limits. Here only the classes that it consists of can be named, the pickle is checked before
it is loaded (`opcodes`), and so are its contents: chunks are within their tensor, do not overlap and cover it, files
are in the folder, and all tensors together are no larger than the files.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.archive import read_part
from lightning_autoarch.reading.budget import Budget
from lightning_autoarch.reading.opcodes import Machine
from lightning_autoarch.reading.plain_tensors import plain_tensor
from lightning_autoarch.transfer.read.contents import Weights, pick
from lightning_autoarch.transfer.read.formats import inside
from lightning_autoarch.transfer.read.state_dicts import LazyStateDict

NAME = ".metadata"
LONGEST = 1_000_000_000  # bytes of it
DEEPEST = 64  # keys on the path to a tensor
CELLS = 64  # per chunk: of the grid that all cuts of a tensor make
CELLS_OF_ANY = 4096
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
    """A part of a tensor, and the bytes of the file that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int


@dataclass(frozen=True)
class ChunkedTensor:
    """A tensor that has not been read yet."""

    like: Tensor  # on the meta device
    path: tuple[str, ...]  # of keys in the dict that was saved
    chunks: tuple[Chunk, ...]


def read_metadata(folder: Path) -> dict[str, ChunkedTensor]:
    """The tensors of a distributed checkpoint, in the order in which they were saved.

    Raises:
        CheckpointError: The metadata is broken, or names anything but descriptions of tensors.
    """
    file = inside(folder, NAME)
    try:
        if (size := file.stat().st_size) > LONGEST:
            raise CheckpointError(f"Expected metadata of at most {LONGEST:,} bytes, got {size:,} in {file}.")
        data = file.read_bytes()
        Machine(str(file), Budget(str(file), size)).follow(io.BytesIO(data))
        held = _Unpickler(file, data).load()
    except CheckpointError:
        raise
    except Exception as error:  # the bytes may be hostile
        raise CheckpointError(f"Expected metadata of torch.distributed.checkpoint, got a broken {file}.") from error
    try:
        return _described(held, folder)
    except (AttributeError, TypeError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"Expected metadata of tensors in {file}, got something else: {shown(str(error), 200)}."
        ) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Path, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in ALLOWED:
            raise CheckpointError(
                f"Expected descriptions of tensors in {self._file}, got `{shown(f'{module}.{name}')}`, "
                "which could run code."
            )
        return super().find_class(module, name)


def _described(held: Any, folder: Path) -> dict[str, ChunkedTensor]:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    places = {(index.fqn, index.offset): info for index, info in held.storage_data.items()}
    paths = held.planner_data or {}
    files = _Files(folder)
    found = {}
    for name, tensor in held.state_dict_metadata.items():
        if isinstance(tensor, TensorStorageMetadata):
            size = _sizes(tensor.size, name, folder)
            chunks = tuple(_chunk(name, chunk, tensor.properties.dtype, places, files) for chunk in tensor.chunks)
            _check_cover(name, size, chunks, folder)
            like = torch.empty(size, dtype=tensor.properties.dtype, device="meta")
            found[str(name)] = ChunkedTensor(like, _path(paths.get(name, (name,)), name, folder), chunks)
    files.check_sizes(tensor.like for tensor in found.values())
    return found


class _Files:
    """The files of a folder that hold chunks, each checked once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sizes: dict[str, tuple[Path, int]] = {}

    def find(self, name: str) -> tuple[Path, int]:
        """The path of a file in the folder, and its size in bytes."""
        if name not in self._sizes:
            file = inside(self.folder, name)
            self._sizes[name] = (file, file.stat().st_size)
        return self._sizes[name]

    def check_sizes(self, likes: Iterable[Tensor]) -> None:
        """Raise CheckpointError if all tensors together are larger than the files."""
        claimed = sum(like.numel() * like.dtype.itemsize for like in likes)
        room = sum(size for _, size in self._sizes.values())
        if claimed > room:
            raise CheckpointError(
                f"Expected tensors of at most {room:,} bytes, as large as the files in {self.folder}, "
                f"got {claimed:,}: not loaded."
            )


def _sizes(value: Any, name: str, folder: Path) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > DEEPEST or not all(type(n) is int for n in value):
        raise CheckpointError(f"Expected whole numbers as the shape of `{shown(name)}` in {folder}, got others.")
    return tuple(value)


def _path(value: Any, name: str, folder: Path) -> tuple[str, ...]:
    """The keys of nested dicts; numbers are indices of lists."""
    known = isinstance(value, tuple | list) and 0 < len(value) <= DEEPEST
    if not known or not all(isinstance(part, str | int) for part in value):
        raise CheckpointError(f"Expected the keys on the path to `{shown(name)}` in {folder}, got something else.")
    return tuple(str(part) for part in value)


def _chunk(name: str, chunk: Any, dtype: torch.dtype, places: dict[Any, Any], files: _Files) -> Chunk:
    offsets, sizes = (_sizes(value, name, files.folder) for value in (chunk.offsets, chunk.sizes))
    info = places.get((name, torch.Size(offsets)))
    if info is None:
        raise CheckpointError(
            f"Expected a file for each chunk of `{shown(name)}` in {files.folder}, got none for {offsets}."
        )
    if getattr(info, "transform_descriptors", None):
        raise CheckpointError(
            f"Expected `{shown(name)}` in {files.folder} as it is, got it compressed: save it without extensions."
        )
    file, size = files.find(info.relative_path)
    if not 0 <= info.offset <= info.offset + info.length <= size:
        raise CheckpointError(f"Expected a whole {file}, got one that ends before `{shown(name)}`: copy it again.")
    if math.prod(sizes) * dtype.itemsize > info.length:
        raise CheckpointError(
            f"Expected `{shown(name)}` in {file} as {dtype} {sizes}, got only {info.length:,} bytes: they disagree."
        )
    return Chunk(offsets, sizes, file, info.offset, info.length)


def _check_cover(name: str, shape: Sequence[int], chunks: Sequence[Chunk], folder: Path) -> None:
    """Raise CheckpointError unless each element is in one chunk, on the grid that the edges of all chunks form."""
    for chunk in chunks:
        ends = [offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)]
        if min((*chunk.offsets, *chunk.sizes), default=0) < 0 or any(
            end > size for end, size in zip(ends, shape, strict=True)
        ):
            raise CheckpointError(
                f"Expected chunks within `{shown(name)}` {tuple(shape)}, got {chunk.sizes} in {folder}."
            )
    edges = [_edges(axis, size, chunks) for axis, size in enumerate(shape)]
    cells = [len(axis) - 1 for axis in edges]
    if math.prod(cells) > CELLS * len(chunks) + CELLS_OF_ANY:
        raise CheckpointError(f"Expected the chunks of `{shown(name)}` in {folder} on a grid, got others.")
    covered = torch.zeros(cells, dtype=torch.bool)
    for chunk in chunks:
        box = tuple(
            slice(axis[start], axis[start + size])
            for axis, start, size in zip(edges, chunk.offsets, chunk.sizes, strict=True)
        )
        if covered[box].any():
            raise _not_covered(name, shape, folder)
        covered[box] = True
    if not covered.all():
        raise _not_covered(name, shape, folder)


def _edges(axis: int, size: int, chunks: Sequence[Chunk]) -> dict[int, int]:
    """Position of each edge of a chunk along an axis -> its number."""
    edges = {0, size}
    for chunk in chunks:
        edges |= {chunk.offsets[axis], chunk.offsets[axis] + chunk.sizes[axis]}
    return {edge: number for number, edge in enumerate(sorted(edges))}


def _not_covered(name: str, shape: Sequence[int], folder: Path) -> CheckpointError:
    return CheckpointError(f"Expected chunks that cover `{shown(name)}` {tuple(shape)} once in {folder}, got others.")


def is_distributed(folder: Path) -> bool:
    """Whether a folder holds a distributed checkpoint."""
    return (folder / NAME).is_file()


def read_distributed(folder: Path, weights: Weights = "state_dict", key: str | None = None) -> LazyStateDict:
    """The weights of a distributed checkpoint. Each tensor is read when it is asked for.

    Raises:
        CheckpointError: The metadata is broken; later, a chunk is broken or differs from its description.
    """
    tensors = read_metadata(folder)
    if not tensors:
        raise CheckpointError(f"Expected tensors in {folder}, got none.")
    chosen = pick(_nested(tensors), str(folder), weights, key)
    by_like = {id(tensor.like): tensor for tensor in tensors.values()}
    found = {name: by_like[id(like)] for name, like in chosen.items()}
    return LazyStateDict(chosen, lambda name: _assembled(name, found[name]))


def _nested(tensors: dict[str, ChunkedTensor]) -> dict[str, Any]:
    """The dict that was saved, with tensors on the meta device."""
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
