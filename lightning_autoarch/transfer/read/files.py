"""One file with tensors in it: what it is, by its first bytes, and what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.reading.archive import KERAS, read_archive
from lightning_autoarch.transfer.read.packed import unpacked
from lightning_autoarch.transfer.read.safetensors_file import read_safetensors

Format: TypeAlias = Literal["archive", "safetensors", "index"]

HEAD = 64  # bytes that tell what a file is
FOREIGN = {
    b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull`",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"GGUF": "a GGUF file",
    b"\x89HDF": f"an HDF5 file, as Keras writes them: {KERAS}",
    b"\x93NUMPY": "a NumPy array: read it with `numpy.load` and pass a dict of tensors",
    b"<?xml": "an XML file",
    b"%PDF": "a PDF file",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"\xfd7zXZ": "an xz file: unpack it",
    b"BZh": "a bzip2 file: unpack it",
    b"\x1f\x8b": "a gzip file: unpack it",
}


def format_of(path: Path) -> Format:
    """What a file is: of `torch.save`, safetensors, or an index of shards.

    Raises:
        CheckpointError: empty, unreadable or none of these.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise CheckpointError(f"Expected a file at {path}, got {error.strerror or error}.") from error
    if not head:
        raise CheckpointError(f"Expected tensors in {path}, got an empty file.")
    for start, name in FOREIGN.items():
        if head.startswith(start):
            raise CheckpointError(f"Expected a checkpoint, got {path}, which is {name}.")
    if head.lstrip().startswith(b"{"):
        return "index"
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return "safetensors"
    if head.startswith((b"PK", b"\x80")):  # a zip, or a pickle
        return "archive"
    raise CheckpointError(f"Expected a file of torch.save or safetensors, got {path}, which begins {head[:12]!r}.")


def read_file(path: Path) -> Any:
    """What one file with tensors holds, mapped.

    Raises:
        CheckpointError: broken, or not such a file.
    """
    form = format_of(path)
    if form == "index":
        raise CheckpointError(f"Expected tensors in {path}, got JSON.")
    return unpacked(path, read_safetensors(path)) if form == "safetensors" else read_archive(path)
