"""Files are written whole or not at all, and it is known before hours of training whether they can be.

`staged` writes next to the path and renames in one step: a reader of the path sees the old file or the new one, and a
failure, or the end of the process, leaves the old one.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightning_autoarch.core.errors import AutoArchError, PruneValueError, SearchError


@contextlib.contextmanager
def staged(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path of the same name in a new directory, whose files are moved next to `path` after the block.

    Companions, such as the weights of a large ONNX graph, are moved first. A missing parent directory is created.

    Raises:
        PruneValueError: `path` is a directory.

    >>> with staged("weights.bin") as part:
    ...     _ = part.write_bytes(b"whole")
    >>> Path("weights.bin").read_bytes()
    b'whole'
    """
    target = Path(path)
    if target.is_dir() or not target.name:
        raise PruneValueError(f"Expected `path` to be a file, got the directory {target}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as folder:
        part = Path(folder) / target.name
        yield part
        companions = [file for file in Path(folder).iterdir() if file != part]
        for file in [*companions, part]:
            os.replace(file, target.parent / file.name)


def check_writable(path: Path, name: str) -> None:
    """Create the directory of a file, and check that the file can be written there. An existing file is unchanged.

    Args:
        path: of the file, which need not exist.
        name: of the argument, for the error.

    Raises:
        AutoArchError: it cannot be written, or is a directory.
    """
    try:
        if path.is_dir():
            raise AutoArchError(f"Expected `{name}` to name a file, got the directory {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:
            path.open("xb").close()  # the name itself may be invalid
            path.unlink()
    except OSError as error:
        raise AutoArchError(f"Expected to write `{name}` to {path}, cannot: {error.strerror or error}.") from error


def writable_directory(directory: str | os.PathLike[str], remedy: str) -> Path:
    """Create a directory if it does not exist, and check that files can be written to it.

    Args:
        directory: on a local disk.
        remedy: the last sentence of the error.

    Raises:
        SearchError: it is not on this machine, or nothing can be written to it.
    """
    place = os.fspath(directory)
    if "://" in place:
        raise SearchError(f"Expected a directory on a local disk, got {place}. {remedy}")
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise SearchError(f"The directory {place} cannot be written to: {error}. {remedy}") from error
    return Path(place)
