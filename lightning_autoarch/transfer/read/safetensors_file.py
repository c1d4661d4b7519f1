"""Safetensors files, and the sparse checkpoints of this package, which are safetensors files too.

    8 bytes       N, the length of the header, little-endian
    N bytes       {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
    the rest      the bytes from begin to end of each tensor, without gaps and without overlaps

The header is checked completely and the file is memory-mapped; a tensor is made when it is asked for, within
microseconds. So a file with a million tensors is opened in the time of parsing its JSON.
https://huggingface.co/docs/safetensors

A sparse checkpoint (`.sparse.safetensors`) has values and one bit per weight. `training/sparse_file.py` describes the
format and writes it. A file may come from anybody: its description is compared with the tensors in it before memory of
that size is allocated, at most 64 times the size of the file.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.transfer.read.state_dicts import MappedStateDict

LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
PREFIX = 8
FIELDS = ["data_offsets", "dtype", "shape"]
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32,
    "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


class Entry(NamedTuple):
    """Where a tensor is among the bytes behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: Path) -> MappedStateDict:
    """The tensors of a safetensors file, memory-mapped.

    Raises:
        CheckpointError: It is broken, or has a dtype that torch does not have.
    """
    entries, start, _ = read_header(path)
    if not entries:
        return MappedStateDict((), _no_tensor)
    storage: Any = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    return MappedStateDict(entries, lambda name: _tensor(storage, entries[name], start))


def read_header(path: Path) -> tuple[dict[str, Entry], int, Mapping[str, str]]:
    """The entries of the header, the offset of the tensors, and the metadata.

    Raises:
        CheckpointError: It is broken, or has a dtype that torch does not have.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(PREFIX), "little")
        if not 2 <= length <= min(size - PREFIX, LONGEST_HEADER):
            raise _broken(path, f"a header of {length:,} bytes in a file of {size:,}")
        text = file.read(length)
    try:
        held = json.loads(str(text, "utf-8"), object_pairs_hook=lambda pairs: _object(pairs, path))
    except (ValueError, RecursionError) as error:
        raise _broken(path, "a header that is not JSON") from error
    if not isinstance(held, dict):
        raise _broken(path, "a header that is not an object")
    metadata = held.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "metadata that is not text")
    for name, entry in held.items():
        if not isinstance(entry, Entry):
            raise _broken(path, f"`{shown(name)}` without dtype, shape and offsets")
    _check_row(held, size - PREFIX - length, path)
    return held, PREFIX + length, metadata


def _object(pairs: list[tuple[str, Any]], path: Path) -> Any:
    held = dict(pairs)
    if len(held) < len(pairs):
        raise _broken(path, "a name that occurs twice")
    if sorted(held) != FIELDS or not isinstance(held["shape"], list):
        return held
    dtype, shape, places = held["dtype"], tuple(held["shape"]), held["data_offsets"]
    if dtype not in DTYPES if isinstance(dtype, str) else True:
        raise _broken(path, f"the dtype {shown(dtype)}, which is unknown")
    whole = isinstance(places, list) and len(places) == 2 and all(type(n) is int and n >= 0 for n in (*places, *shape))
    if not whole or len(shape) > 64 or places[1] - places[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _broken(path, "a tensor whose shape and offsets disagree")
    return Entry(DTYPES[dtype], shape, places[0], places[1])


def _check_row(entries: Mapping[str, Entry], size: int, path: Path) -> None:
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            raise _broken(path, "tensors with gaps or overlaps")
        end = entry.end
    if end != size:
        raise _broken(path, f"{size:,} bytes of tensors where its header says {end:,}")


def _tensor(storage: Any, entry: Entry, start: int) -> Tensor:
    part: Any = storage[start + entry.begin : start + entry.end]  # a storage too, although torch's types do not say so
    strides = [1]
    for n in entry.shape[:0:-1]:
        strides.append(strides[-1] * n)
    return torch.empty(0, dtype=entry.dtype).set_(part, 0, entry.shape, strides[: len(entry.shape)][::-1])


def _no_tensor(name: str) -> Tensor:
    raise KeyError(name)


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"Expected a whole safetensors file, got {path}, which has {what}: copy it again.")


KEY = "sparse"  # of the metadata
VERSION = 1
PREFIX_BYTES = 8  # the length of the header


def unpacked(path: Path, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights of a safetensors file. Those of a sparse checkpoint are made dense, and tied ones are one object.

    Args:
        path: Path of the file.
        stored: Its tensors, which are returned unchanged if it is not a sparse checkpoint.

    Raises:
        CheckpointError: A sparse checkpoint is damaged, or of a newer format.
    """
    metadata = _metadata(path)
    if KEY not in metadata:
        return stored
    state: dict[str, Tensor] = {}
    for name, entry in _entries(path, metadata).items():
        kind = entry.get("is") if isinstance(entry, Mapping) else None
        if kind == "tied" and isinstance(entry.get("to"), str) and entry["to"] in state:
            state[name] = state[entry["to"]]
        elif kind == "dense" and name in stored:
            state[name] = _checked(path, name, entry, stored[name])
        elif kind == "sparse" and {f"{name}::bitmask", f"{name}::values"} <= stored.keys():
            state[name] = _scattered(path, name, entry, stored[f"{name}::bitmask"], stored[f"{name}::values"])
        else:
            raise _damaged(path, f"nothing is stored for `{name}`")
    return state


def _metadata(path: Path) -> Mapping[str, Any]:
    """The metadata of the header, which has been checked before."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(PREFIX_BYTES), "little"))
    if f'"{KEY}"'.encode() not in header:
        return {}
    metadata = json.loads(header).get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _entries(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        described = json.loads(metadata[KEY])
        version, entries = described["version"], described["tensors"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, "its description cannot be read") from error
    if version != VERSION:
        raise CheckpointError(
            f"Expected version {VERSION} of a sparse checkpoint, got {shown(version)} in {path}: update this package."
        )
    text = json.dumps(entries, separators=(",", ":"))
    if not isinstance(entries, dict) or described.get("crc32") != zlib.crc32(text.encode()):
        raise _damaged(path, "its description has changed since it was written")
    return entries


def _scattered(path: Path, name: str, entry: Mapping[str, Any], bitmask: Tensor, values: Tensor) -> Tensor:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise _damaged(path, f"`{name}` has no shape")
    size = math.prod(shape)
    fits = bitmask.dtype == torch.uint8 and bitmask.numel() == -(-size // 8) and values.dim() == bitmask.dim() == 1
    if not fits or _crc(bitmask, values) != entry.get("crc32"):
        raise _damaged(path, f"the bytes of `{name}` have changed since they were written")
    bits = np.unpackbits(bitmask.numpy(), count=size, bitorder="little")
    keep = torch.from_numpy(bits).bool()
    if int(keep.sum()) != values.numel():
        raise _damaged(path, f"`{name}` has {values.numel()} values for {int(keep.sum())} places")
    dense = torch.zeros(size, dtype=values.dtype)
    dense[keep] = values
    return _checked(path, name, {**entry, "crc32": None}, dense.reshape(shape))


def _checked(path: Path, name: str, entry: Mapping[str, Any], tensor: Tensor) -> Tensor:
    if list(tensor.shape) != entry.get("shape") or str(tensor.dtype).removeprefix("torch.") != entry.get("dtype"):
        raise _damaged(path, f"`{name}` is of another shape or dtype than when it was written")
    if entry.get("crc32") not in (None, _crc(tensor)):
        raise _damaged(path, f"the bytes of `{name}` have changed since they were written")
    return tensor


def _crc(*parts: Tensor) -> int:
    crc = 0
    for part in parts:
        flat = part.contiguous().reshape(-1)
        crc = zlib.crc32(flat.view(torch.uint8).numpy().data, crc) if flat.numel() else crc
    return crc


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"Expected a whole sparse checkpoint, got {path}: {shown(why, 200)}.")
