"""What `torch.save` has written, memory-mapped, and never unpickled beyond tensors and plain containers.

`torch.load(weights_only=True, mmap=True)`: a tensor costs memory when it is read, page by page. Files of before torch
1.6 cannot be mapped and are read whole.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_autoarch.errors import CheckpointError

GLOBAL = re.compile(r"GLOBAL (\S+) (?:was not|whose module)|[Uu]nsupported (?:global|class)\W+(?!GLOBAL\b)(\S+)")
OPERAND = re.compile(r"Unsupported operand (\d+)")


def read_archive(path: Path) -> Any:
    """What a file of `torch.save` holds, its tensors on the CPU and mapped.

    Raises:
        CheckpointError: broken, or with anything in it that is not data.
    """
    zipped = _is_zip(path)
    if zipped:
        _check_records(path)
    try:
        return load(path, mmap=zipped)
    except Exception as error:  # a parser of hostile bytes: whatever it trips over, the file is at fault
        raise CheckpointError(_reason(path, zipped, error)) from error


def load(file: Any, *, mmap: bool = False) -> Any:
    """`torch.load` as this package uses it: data alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the pickle's protocol, or of storages that torch itself once wrote
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # one with a directory that makes no sense
        raise CheckpointError(f"Expected a whole file of torch.save, got {path}: {error}.") from error


def _check_records(path: Path) -> None:
    """The bytes of a compressed record would be taken for the numbers themselves."""
    try:
        with zipfile.ZipFile(path) as file:
            records = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"Expected a whole file, got {path} with a broken directory: copy it again.") from error
    names = [record.filename for record in records]
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(f"Expected what torch.save writes, got {path} with compressed records: save it again.")
    if len(set(names)) < len(names):
        raise CheckpointError(f"Expected what torch.save writes, got {path} with a record that is there twice.")
    if any(re.search(r"(^|/)constants\.pkl$", name) for name in names):
        raise CheckpointError(f"Expected tensors, got the TorchScript program {path}; save its `state_dict()`.")


def _reason(path: Path, zipped: bool, error: Exception) -> str:
    blocked = _blocked(path, zipped, error)
    if blocked:
        names = ", ".join(f"`{name}`" for name in blocked)
        return (
            f"Expected tensors and plain containers in {path}, got {names}, which could run code when it is loaded. "
            "Save the `state_dict()` alone; if you trust the file and its classes, "
            "name them to `torch.serialization.add_safe_globals`."
        )
    if operand := OPERAND.search(str(error)):
        return (
            f"Expected a file of torch.save, got {path}, a pickle as it writes none (it has the operand {operand[1]})."
        )
    first = str(error).strip().split("\n")[0][:200]
    kind = type(error).__name__
    return f"Expected a whole file of torch.save, got {path}, which is broken or not one: {kind}: {first}"


def _blocked(path: Path, zipped: bool, error: Exception) -> list[str]:
    """What the file would have called or built."""
    found = next((name for groups in GLOBAL.findall(str(error)) for name in groups if name), None)
    if found is None:
        return []
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    except Exception:  # it stops where the first look stopped: that one name is known
        names = []
    return sorted({found.rstrip(".,"), *names})
