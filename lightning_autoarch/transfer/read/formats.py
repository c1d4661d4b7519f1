"""Files with tensors, and what several of them together are.

    one file            its first bytes say what it is, not its name: `torch.save`, safetensors, or an index
    an index of shards  `{"weight_map": {name: file}}` in JSON: which tensor is in which file
    a DeepSpeed folder  one file has all weights, or they are in parts

        latest                                    the tag, which names the folder below; Lightning's tag is `checkpoint`
        <tag>/mp_rank_00_model_states.pt          ZeRO 1 and 2: "module" is the state_dict, in the training precision
        <tag>/zero_pp_rank_*_model_states.pt      ZeRO 3: each rank has a part of each tensor, to be merged first
        <tag>/*_optim_states.pt                   not read

An index may come from anybody: the files that it names must be in its folder, and index and files must agree on every
name.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeAlias

from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.archive import KERAS, read_archive
from lightning_autoarch.reading.plain_tensors import check_sizes
from lightning_autoarch.transfer.read.contents import pick
from lightning_autoarch.transfer.read.safetensors_file import read_safetensors, unpacked
from lightning_autoarch.transfer.read.state_dicts import StateDict

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
        CheckpointError: It is empty, unreadable or none of these.
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
    """The contents of one file with tensors, memory-mapped.

    Raises:
        CheckpointError: It is broken, or not such a file.
    """
    form = format_of(path)
    if form == "index":
        raise CheckpointError(f"Expected tensors in {path}, got JSON.")
    return unpacked(path, read_safetensors(path)) if form == "safetensors" else read_archive(path)


LONGEST = 100_000_000  # bytes of an index


def read_sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of all files of an index, memory-mapped.

    Raises:
        CheckpointError: The index is broken, a file is missing or in another folder, or a tensor is missing from its
            file, in two files, or not in the index.
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
    """Name of each tensor -> its file.

    Raises:
        CheckpointError: It is not such an index.
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
    """The path of a file that an index names, which must be in the folder of the index.

    Links are followed within the folder, and in a Hugging Face cache from `snapshots` into `blobs` beside it.

    Raises:
        CheckpointError: The file is missing, or outside of the folder.
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
    except (OSError, RuntimeError, ValueError) as error:  # too long, a cycle of links, or not a valid path
        raise CheckpointError(
            f"Expected the file '{shown(name)}' in {folder}, got a name that leads nowhere."
        ) from error
    if not any(real.is_relative_to(each) for each in roots):
        raise CheckpointError(
            f"Expected '{shown(name)}' to be in {folder}, got a link to {shown(str(real))}: not followed."
        )
    if not is_file:
        raise CheckpointError(
            f"Expected the file '{shown(name)}' in {folder}, which the index names; the file is missing."
        )
    return path


def _unique(pairs: list[tuple[str, Any]], index: Path) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name, value in pairs:
        if name in held:
            raise CheckpointError(f"Expected each name once in {index}, got `{shown(name)}` twice.")
        held[name] = value
    return held


def _check_names(tensors: StateDict, named: set[str], places: dict[str, str], shard: str, index: Path) -> None:
    """Raise CheckpointError unless a file holds exactly the tensors that the index names for it."""
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


LATEST = "latest"
STATES = "*model_states.pt"
LONGEST_TAG = 200  # bytes
REMEDY = (
    "merge it with DeepSpeed first: `python zero_to_fp32.py . weights.pt` in that folder, or "
    "`lightning.pytorch.utilities.deepspeed.convert_zero_checkpoint_to_fp32_state_dict`, and pass that file"
)


def deepspeed_file(folder: Path) -> Path | None:
    """The file with the weights in a folder of DeepSpeed; None for any other folder.

    Raises:
        CheckpointError: The weights are in parts, or outside of the folder.
    """
    tagged = _tagged(folder)
    found = sorted(path.name for path in tagged.glob(STATES)) if tagged is not None else []
    if tagged is None or not found:
        return None
    if any(name.startswith("zero_pp_rank") for name in found):
        raise CheckpointError(
            f"Expected whole weights in {folder}, got those of ZeRO 3, a part for each rank; {REMEDY}."
        )
    if len(found) > 1:
        raise CheckpointError(
            f"Expected whole weights in {folder}, got {len(found)} parts of a model that was trained in parallel, the "
            f"first `{shown(found[0])}`; {REMEDY}."
        )
    return inside(folder, str(tagged.relative_to(folder) / found[0]))


def _tagged(folder: Path) -> Path | None:
    """The folder of the files: the one that `latest` names, Lightning's, or the given one."""
    if (folder / LATEST).is_file():
        with inside(folder, LATEST).open("rb") as file:
            tag = file.read(LONGEST_TAG).decode("utf-8", "replace").strip()
        known = tag.isprintable() and len(tag.encode()) <= LONGEST_TAG  # a replacement character has three bytes
        if not tag or not known or Path(tag).name != tag:
            raise CheckpointError(f"Expected the name of a folder in {folder / LATEST}, got '{shown(tag)}'.")
        if (folder / tag).is_symlink():
            raise CheckpointError(f"Expected a folder '{shown(tag)}' in {folder}, got a link: not followed.")
        return folder / tag
    for place in (folder, folder / "checkpoint"):
        if any(place.glob(STATES)):
            return place
    return None
