"""A checkpoint in several files, with a JSON index of which tensor lies in which: `{"weight_map": {name: file}}`.

An index is data of somebody else: the files that it names must lie beside it. Index and files must agree on every name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from lightning_autoarch.errors import CheckpointError
from lightning_autoarch.transfer.contents import pick
from lightning_autoarch.transfer.files import read_file


def read_sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of all the files of an index, mapped.

    Raises:
        CheckpointError: a broken index, a file that is missing or lies elsewhere, or a tensor that is missing from its
            file, is in two, or is not in the index.
    """
    places = read_index(index)
    found: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        shard = inside(index.parent, name)
        tensors = pick(read_file(shard), str(shard))
        _check_names(tensors, places, name, index)
        found.update(tensors)
    return {name: found[name] for name in places}


def read_index(index: Path) -> dict[str, str]:
    """Names of tensors, and the file of each.

    Raises:
        CheckpointError: not such an index.
    """
    try:
        held = json.loads(index.read_text("utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, index))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"Expected an index in JSON, got {index}: {error}") from error
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
        raise CheckpointError(f"Expected a file beside the index in {folder}, got the path {name!r}: not followed.")
    path = folder / name
    root = folder.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        real, is_file = path.resolve(), path.is_file()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"Expected the file {name[:200]!r} in {folder}, got a name that leads nowhere."
        ) from error
    if not any(real.is_relative_to(each) for each in roots):
        raise CheckpointError(f"Expected {name!r} to lie in {folder}, got a link to {real}: not followed.")
    if not is_file:
        raise CheckpointError(f"Expected the file {name!r} in {folder}, which the index names; it is missing.")
    return path


def _unique(pairs: list[tuple[str, Any]], index: Path) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(f"Expected each name once in {index}, got `{twice}` twice.")
    return dict(pairs)


def _check_names(tensors: Iterable[str], places: dict[str, str], shard: str, index: Path) -> None:
    here = set(tensors)
    for name, place in places.items():
        if place == shard and name not in here:
            raise CheckpointError(f"Expected `{name}` in {shard}, as {index} says; it is not there.")
    for name in sorted(here):
        if name not in places:
            raise CheckpointError(f"Expected the tensors of {index}, got also `{name}` in {shard}: they disagree.")
        if places[name] != shard:
            raise CheckpointError(f"Expected `{name}` in {places[name]} alone, got another in {shard}.")
