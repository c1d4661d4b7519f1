"""A checkpoint in several files, with a JSON index of which tensor lies in which: `{"weight_map": {name: file}}`.

An index is data of somebody else: the files that it names must lie beside it. Index and files must agree on every name.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.plain_tensors import check_sizes
from lightning_autoarch.transfer.read.contents import pick
from lightning_autoarch.transfer.read.files import read_file
from lightning_autoarch.transfer.read.state import StateDict

LONGEST = 100_000_000  # bytes of an index


def read_sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of all the files of an index, mapped.

    Raises:
        CheckpointError: a broken index, a file that is missing or lies elsewhere, or a tensor that is missing from its
            file, is in two, or is not in the index.
    """
    places = read_index(index)
    named: dict[str, set[str]] = {}
    for name, file in places.items():
        named.setdefault(file, set()).add(name)
    found: dict[str, Tensor] = {}
    size = 0
    for file in sorted(named):
        shard = inside(index.parent, file)
        size += shard.stat().st_size
        tensors = pick(read_file(shard), str(shard), size=shard.stat().st_size)
        _check_names(tensors, named[file], places, file, index)
        found.update(tensors)
    check_sizes(found, str(index), size)
    return {name: found[name] for name in places}


def read_index(index: Path) -> dict[str, str]:
    """Names of tensors, and the file of each.

    Raises:
        CheckpointError: not such an index.
    """
    try:
        if (size := index.stat().st_size) > LONGEST:
            raise CheckpointError(f"Expected an index of at most {LONGEST:,} bytes, got {size:,} in {index}.")
        held = json.loads(index.read_text("utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, index))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"Expected an index in JSON, got {index}: {shown(str(error), 200)}") from error
    places = held.get("weight_map") if isinstance(held, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f'Expected `{{"weight_map": {{name: file}}}}` in {index}, got something else.')
    return places


def inside(folder: Path, name: str) -> Path:
    """A file that an index names, which must lie in its folder; links are followed.

    The folders of a Hugging Face cache hold links into `blobs` beside `snapshots`: these may be followed.

    Raises:
        CheckpointError: another place, or no file.
    """
    looks = [PurePosixPath(name), PureWindowsPath(name)]
    if any(look.is_absolute() or look.drive or ".." in look.parts for look in looks) or "\0" in name:
        raise CheckpointError(
            f"Expected a file beside the index in {folder}, got the path '{shown(name)}': not followed."
        )
    path = folder / name
    root = folder.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        real, is_file = path.resolve(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a circle of links, no text that a system takes
        raise CheckpointError(
            f"Expected the file '{shown(name)}' in {folder}, got a name that leads nowhere."
        ) from error
    if not any(real.is_relative_to(each) for each in roots):
        raise CheckpointError(
            f"Expected '{shown(name)}' to lie in {folder}, got a link to {shown(str(real))}: not followed."
        )
    if not is_file:
        raise CheckpointError(f"Expected the file '{shown(name)}' in {folder}, which the index names; it is missing.")
    return path


def _unique(pairs: list[tuple[str, Any]], index: Path) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name, value in pairs:
        if name in held:
            raise CheckpointError(f"Expected each name once in {index}, got `{shown(name)}` twice.")
        held[name] = value
    return held


def _check_names(tensors: StateDict, named: set[str], places: dict[str, str], shard: str, index: Path) -> None:
    """That a file holds the tensors which the index names for it, and no others."""
    missing = min((name for name in named if name not in tensors), default=None)
    if missing is not None:
        raise CheckpointError(f"Expected `{shown(missing)}` in {shown(shard)}, as {index} says; it is not there.")
    other = min((name for name in tensors if name not in named), default=None)
    if other is None:
        return
    if other not in places:
        raise CheckpointError(
            f"Expected the tensors of {index}, got also `{shown(other)}` in {shown(shard)}: they disagree."
        )
    raise CheckpointError(f"Expected `{shown(other)}` in {shown(places[other])} alone, got another in {shown(shard)}.")
