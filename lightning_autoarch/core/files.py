"""A file is written whole or not at all: in a folder beside its place, then renamed over it in one step.

What reads the path sees the old file or the new one. A failure, or the end of the process, leaves the old one.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightning_autoarch.core.errors import PruneValueError


@contextlib.contextmanager
def staged(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path of the same name in a folder that is new; after the block the files in the folder move beside `path`.

    Companions (the weights of a large ONNX graph) move first. A missing parent folder is made.

    Raises:
        PruneValueError: `path` is a folder.

    >>> with staged("weights.bin") as part:
    ...     _ = part.write_bytes(b"whole")
    >>> Path("weights.bin").read_bytes()
    b'whole'
    """
    target = Path(path)
    if target.is_dir() or not target.name:
        raise PruneValueError(f"Expected `path` to be a file, got the folder {target}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as folder:
        part = Path(folder) / target.name
        yield part
        companions = [file for file in Path(folder).iterdir() if file != part]
        for file in [*companions, part]:
            os.replace(file, target.parent / file.name)
