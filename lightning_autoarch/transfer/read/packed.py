"""Sparse checkpoints of this package as a source: `.sparse.safetensors`, values and 1 bit a weight.

`training/sparse_file.py` describes the format and writes it. A file may come from anybody: its description is compared
with the tensors in it before memory of that size is allocated, at most 64 times the size of the file.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown

KEY = "sparse"  # of the metadata
VERSION = 1
PREFIX = 8  # bytes: the length of the header


def unpacked(path: Path, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights of a safetensors file: dense ones where it is a sparse checkpoint, of which tied ones are one object.

    Args:
        path: of the file.
        stored: its tensors, which are returned as they are if it is none.

    Raises:
        CheckpointError: a sparse checkpoint that is damaged, or of a newer format.
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
    """Of the header, which has been read before as that of a whole file."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(PREFIX), "little"))
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
        raise _damaged(path, f"the bytes of `{name}` are not those that were written")
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
        raise _damaged(path, f"the bytes of `{name}` are not those that were written")
    return tensor


def _crc(*parts: Tensor) -> int:
    crc = 0
    for part in parts:
        flat = part.contiguous().reshape(-1)
        crc = zlib.crc32(flat.view(torch.uint8).numpy().data, crc) if flat.numel() else crc
    return crc


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"Expected a whole sparse checkpoint, got {path}: {shown(why, 200)}.")
