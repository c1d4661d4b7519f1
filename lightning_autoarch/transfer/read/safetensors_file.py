"""A safetensors file: a header in JSON, and behind it the bytes of all tensors in one row.

    8 bytes       N, the length of the header, little-endian
    N bytes       {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
    the rest      the bytes from begin to end of each, without gaps and without overlaps

The header is checked in full, and the file is mapped; a tensor is made when it is asked for, in some microseconds. So a
file with a million of them is open in the time that its JSON takes. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.transfer.read.state import MappedStateDict

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
    """Where a tensor lies among the bytes behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: Path) -> MappedStateDict:
    """The tensors of a safetensors file, mapped.

    Raises:
        CheckpointError: broken, or with a dtype that torch has not.
    """
    entries, start, _ = read_header(path)
    if not entries:
        return MappedStateDict((), _no_tensor)
    storage: Any = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    return MappedStateDict(entries, lambda name: _tensor(storage, entries[name], start))


def read_header(path: Path) -> tuple[dict[str, Entry], int, Mapping[str, str]]:
    """What the header says, where the bytes of the tensors begin, and the metadata.

    Raises:
        CheckpointError: broken, or with a dtype that torch has not.
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
        raise _broken(path, "a header that is no JSON") from error
    if not isinstance(held, dict):
        raise _broken(path, "a header that is no object")
    metadata = held.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "metadata that are no text")
    for name, entry in held.items():
        if not isinstance(entry, Entry):
            raise _broken(path, f"`{shown(name)}` without a dtype, shape and place")
    _check_row(held, size - PREFIX - length, path)
    return held, PREFIX + length, metadata


def _object(pairs: list[tuple[str, Any]], path: Path) -> Any:
    held = dict(pairs)
    if len(held) < len(pairs):
        raise _broken(path, "a name that is there twice")
    if sorted(held) != FIELDS or not isinstance(held["shape"], list):
        return held
    dtype, shape, places = held["dtype"], tuple(held["shape"]), held["data_offsets"]
    if dtype not in DTYPES if isinstance(dtype, str) else True:
        raise _broken(path, f"the dtype {shown(dtype)}, which is not known here")
    whole = isinstance(places, list) and len(places) == 2 and all(type(n) is int and n >= 0 for n in (*places, *shape))
    if not whole or len(shape) > 64 or places[1] - places[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _broken(path, "a tensor whose shape and place do not fit together")
    return Entry(DTYPES[dtype], shape, places[0], places[1])


def _check_row(entries: Mapping[str, Entry], size: int, path: Path) -> None:
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            raise _broken(path, "tensors with gaps between them, or one over another")
        end = entry.end
    if end != size:
        raise _broken(path, f"{size:,} bytes of tensors where its header says {end:,}")


def _tensor(storage: Any, entry: Entry, start: int) -> Tensor:
    part: Any = storage[start + entry.begin : start + entry.end]  # a storage too, which torch's types do not say
    strides = [1]
    for n in entry.shape[:0:-1]:
        strides.append(strides[-1] * n)
    return torch.empty(0, dtype=entry.dtype).set_(part, 0, entry.shape, strides[: len(entry.shape)][::-1])


def _no_tensor(name: str) -> Tensor:
    raise KeyError(name)


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"Expected a whole safetensors file, got {path}, which has {what}: copy it again.")
