"""Checks before training that its results, which may take hours, can be written where they are to go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lightning_autoarch.core.errors import AutoArchError, SearchError


def check_writable(path: Path, name: str) -> None:
    """Make the directory of a file, and check that the file can be written there.

    Args:
        path: of the file, which need not be there yet.
        name: of the argument, for the error.

    Raises:
        AutoArchError: it cannot.
    """
    try:
        if path.is_dir():
            raise AutoArchError(f"Expected `{name}` to name a file, got the directory {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:
            path.open("xb").close()  # its name may be what cannot be written
            path.unlink()
    except OSError as error:
        raise AutoArchError(f"Expected to write `{name}` to {path}, cannot: {error.strerror or error}.") from error


def writable_directory(directory: str | os.PathLike[str], remedy: str) -> Path:
    """Make a directory if it is not there, and check that files can be written to it.

    Args:
        directory: on a local disk.
        remedy: the last sentence of the error.

    Raises:
        SearchError: it is not on this machine, or nothing can be written there.
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
