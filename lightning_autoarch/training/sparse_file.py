"""A checkpoint whose size shows its sparsity: `.sparse.safetensors`, values and 1 bit a weight.

    n weights of b bytes, k of them not zero:    k b + ceil(n / 8)  bytes instead of  n b
    90 % sparse float32: 0.131 of dense;  a tensor that would not become smaller is stored as it is

The file is an ordinary safetensors file (https://huggingface.co/docs/safetensors, little-endian). Its metadata has one
entry, "sparse", with JSON:

    {"version": 1,
     "crc32": of the text of "tensors" below, as json.dumps(tensors, separators=(",", ":")) gives it,
     "tensors": {name: {"is": "dense",  "shape": [...], "dtype": "float32", "crc32": ...},
                 name: {"is": "sparse", "shape": [...], "dtype": "float32", "crc32": ...},
                 name: {"is": "tied",   "to": name of an earlier one}}}            in the order of the state_dict

A dense tensor lies under its name; a sparse one as `name::values` (k, its dtype; in row-major order) and
`name::bitmask` (ceil(n / 8), uint8; weight i is bit i % 8 of byte i // 8, 1 where it is a value, the last byte padded
with zeros). "crc32" is of the tensor's bytes, of the bitmask's and then the values'. A value is what has a bit set:
-0.0 and NaN come back as they were. (Masks of this package write +0. Weights masked by a product, as by
`torch.nn.utils.prune`, have -0.0 for each negative weight, which is a value here: `weight + 0.0` clears the sign.)
Without this package:

    import json, math, numpy as np
    from safetensors import safe_open
    state = {}
    with safe_open("net.sparse.safetensors", framework="numpy") as file:
        for name, entry in json.loads(file.metadata()["sparse"])["tensors"].items():
            if entry["is"] != "sparse":
                state[name] = state[entry["to"]] if entry["is"] == "tied" else file.get_tensor(name)
                continue
            values, bits = file.get_tensor(f"{name}::values"), file.get_tensor(f"{name}::bitmask")
            state[name] = np.zeros(math.prod(entry["shape"]), values.dtype)
            state[name][np.unpackbits(bits, count=state[name].size, bitorder="little") == 1] = values
            state[name] = state[name].reshape(entry["shape"])
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError, shown
from lightning_autoarch.core.files import staged
from lightning_autoarch.core.optional import needed
from lightning_autoarch.prune.mask import BitMask, words_size
from lightning_autoarch.training.plain_state import as_bytes, plain_state

VERSION = 1
KEY = "sparse"
OVERHEAD = 128  # bytes: what a second tensor adds to the header, its name aside
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
NOT_STORABLE = (torch.complex32, torch.complex128)  # in safetensors

Entry = dict[str, Any]


def save_sparse(state_dict: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write a state_dict; the same one gives the same file, byte for byte.

    Args:
        state_dict: of plain dense tensors on any device. Tied ones, with the same memory and shape, are stored once.
        path: the file, by custom `.sparse.safetensors`. It is replaced in one step when all is written.

    Raises:
        PruneTypeError, PruneValueError: a name or tensor that cannot be stored; nothing is written.
        MissingPackageError: safetensors is not installed.

    >>> save_sparse({"weight": torch.zeros(1000)}, "net.sparse.safetensors")
    >>> load_sparse("net.sparse.safetensors")["weight"].shape
    torch.Size([1000])
    """
    safetensors = _safetensors("torch")
    stored, entries = _pack(plain_state(state_dict))
    described = {"version": VERSION, "crc32": _crc_of_text(entries), "tensors": entries}
    with staged(path) as part:
        safetensors.save_file(stored, part, metadata={KEY: _json(described)})


def load_sparse(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """What `save_sparse` wrote, bit for bit: contiguous tensors on the CPU, tied ones the same object.

    Nothing in the file is run, and what it says of itself is checked before memory is allocated. A tensor takes at most
    64 times what it takes in the file: 8 bytes for each bit of its bitmask.

    Raises:
        PruneValueError: there is no such file; it is another kind of file, damaged, cut off, or of a newer format.
        MissingPackageError: safetensors is not installed.
    """
    path, safetensors = Path(path), _safetensors()
    if not path.is_file():
        raise PruneValueError(f"Expected a file at {path}, there is none.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            entries = _entries(path, file.metadata() or {})
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except PruneValueError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        what = shown(str(error), 200)
        raise PruneValueError(f"Expected a whole safetensors file, got {path}: {what}.") from error
    try:
        return _unpack(stored, entries)
    except PruneValueError as error:
        raise PruneValueError(f"{path} is damaged: {error}") from error
    except (PruneTypeError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise PruneValueError(f"{path} is damaged: {shown(str(error), 200)}") from error


def _pack(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Entry]]:
    """What is stored under which name, and what describes it."""
    stored: dict[str, Tensor] = {}
    entries: dict[str, Entry] = {}
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if (to := first.setdefault(id(tensor), name)) != name:
            entries[name] = {"is": "tied", "to": to}
            continue
        parts = _parts(name, tensor)
        if clash := next((part for part in parts if part in stored or (part != name and part in state)), None):
            raise PruneValueError(f"Expected no tensor named `{clash}`: it is what a part of `{name}` is called.")
        stored |= parts
        entries[name] = {
            "is": "dense" if name in parts else "sparse",
            "shape": list(tensor.shape),
            "dtype": _dtype_name(tensor),
            "crc32": _crc(*parts.values()),
        }
    return stored, entries


def _parts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The tensor under its name, or its bitmask and values where these are smaller."""
    if tensor.dtype in NOT_STORABLE or name == "__metadata__":
        what = "that name" if name == "__metadata__" else str(tensor.dtype)
        raise PruneValueError(f"Expected what safetensors can store under `{name}`, got {what}.")
    bits = tensor.reshape(-1).view(INTEGERS[tensor.element_size()])
    keep = bits != 0
    size = int(keep.sum()) * tensor.element_size() + -(-bits.numel() // 8)
    if size + OVERHEAD + len(name) >= bits.numel() * tensor.element_size():
        return {name: tensor}
    words = BitMask.pack(keep).words[: -(-bits.numel() // 8)]
    return {f"{name}::bitmask": words.clone(), f"{name}::values": bits[keep].view(tensor.dtype)}


def _entries(path: Path, metadata: Mapping[str, str]) -> dict[str, Entry]:
    """The description of each tensor, as it was written."""
    if KEY not in metadata:
        raise PruneValueError(
            f"Expected a file of `save_sparse`, got {path}, which is another safetensors file: "
            "read it with `safetensors.torch.load_file`."
        )
    try:
        described = json.loads(metadata[KEY])
        version, entries = described["version"], described["tensors"]
        whole = version != VERSION or described["crc32"] == _crc_of_text(entries)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PruneValueError(f"{path} is damaged: its metadata cannot be read.") from error
    if version != VERSION:
        raise PruneValueError(
            f"Expected version {VERSION} of the format, got {shown(version)} in {path}: update this package."
        )
    if not whole or not isinstance(entries, dict):
        raise PruneValueError(f"{path} is damaged: its metadata has changed since it was written.")
    return entries


def _unpack(stored: dict[str, Tensor], entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, entry in entries.items():
        if entry["is"] == "tied":
            state[name] = state[entry["to"]]
            continue
        keys = {"dense": [name], "sparse": [f"{name}::bitmask", f"{name}::values"]}[entry["is"]]
        parts = [stored.pop(key) for key in keys]
        if _crc(*parts) != entry["crc32"]:
            raise PruneValueError(f"the bytes of `{shown(name)}` have changed since they were written.")
        state[name] = parts[0].clone() if len(parts) == 1 else _scattered(parts[0], parts[1], entry["shape"])
        if list(state[name].shape) != entry["shape"] or _dtype_name(state[name]) != entry["dtype"]:
            raise PruneValueError(f"`{shown(name)}` has another shape or dtype than when it was written.")
    if stored:
        raise PruneValueError(f"it has `{shown(next(iter(stored)))}`, of which its metadata say nothing.")
    return state


def _scattered(bitmask: Tensor, values: Tensor, shape: list[int]) -> Tensor:
    if any(type(n) is not int or n < 0 for n in shape) or bitmask.numel() != -(-math.prod(shape) // 8):
        raise PruneValueError(f"its bitmask of {bitmask.numel()} bytes is not that of its shape.")
    words = torch.zeros(words_size(math.prod(shape)), dtype=torch.uint8)
    words[: bitmask.numel()] = bitmask
    bits = torch.zeros(math.prod(shape), dtype=INTEGERS[values.element_size()])
    bits[BitMask(shape, words).unpack().reshape(-1)] = values.view(bits.dtype)
    return bits.view(values.dtype).reshape(shape)


def _crc(*parts: Tensor) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(as_bytes(part).numpy().data, crc)
    return crc


def _crc_of_text(entries: object) -> int:
    return zlib.crc32(_json(entries).encode())


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _safetensors(part: str = "") -> Any:
    return needed(f"safetensors.{part}".rstrip("."), "A sparse checkpoint", "safetensors")
