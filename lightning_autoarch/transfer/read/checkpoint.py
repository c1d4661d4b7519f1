"""`read_checkpoint`: the weights of whatever they were saved in, without running any code of it.

    .ckpt .pt .pth .bin     torch.save; Lightning's or a script's dict, or a state_dict     mapped
    .safetensors                                                                            mapped
    .sparse.safetensors     what `export` and `save_sparse` of this package write           made dense
    *.index.json            an index of shards of either                                    mapped
    a directory             of torch.distributed.checkpoint                                 read a tensor at a time
                            of DeepSpeed, ZeRO 1 or 2
                            or with model.safetensors, pytorch_model.bin, one of their indices
    https://  hf://         fetched, then one of these
    nn.Module, a dict       its own tensors, not copies

What a file is, its first bytes say, not its name. Nothing is read that is not used: of a file of which one tensor is
asked for, the pages of that tensor are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.archive import trusting
from lightning_autoarch.transfer.read.contents import Weights, check_weights, pick
from lightning_autoarch.transfer.read.deepspeed import deepspeed_file
from lightning_autoarch.transfer.read.distributed import is_distributed, read_distributed
from lightning_autoarch.transfer.read.files import format_of, read_file
from lightning_autoarch.transfer.read.remote import USUAL, check_digest, fetch, is_remote
from lightning_autoarch.transfer.read.sharded import inside, read_sharded
from lightning_autoarch.transfer.read.state import LazyStateDict, StateDict

SHOWN = 8  # names in an error


def read_checkpoint(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Any],
    *,
    weights: Weights = "state_dict",
    key: str | None = None,
    sha256: str | None = None,
    trusted: Collection[type | str] = (),
) -> StateDict:
    """Names and tensors, on the CPU where they come from a file.

    Args:
        source: a path, a URL, `hf://owner/name`, a module, or what a checkpoint holds.
        weights: "state_dict" as Lightning would load it; with `WeightAveraging` or another average in the checkpoint
            "average" or "current".
        key: of the dict to take where it is none of the usual ones: "generator", "nets.teacher".
        sha256: what the file must hash to.
        trusted: classes that this file may hold beside plain data, themselves or as "package.module.Class": what their
            `__reduce__` and `__setstate__` do is then done. Only for a file whose maker you trust.

    Raises:
        CheckpointError: not there, broken, not data alone, or not what was asked for. The message names the file.
    """
    check_weights(weights)
    if isinstance(source, LazyStateDict):
        return source
    if isinstance(source, nn.Module | Mapping):
        if sha256 is not None:
            raise CheckpointError(f"Expected a file for `sha256`, got {type(source).__name__}.")
        held = source.state_dict() if isinstance(source, nn.Module) else source
        return pick(held, f"the given {type(source).__name__}", weights, key)
    if not isinstance(source, str | os.PathLike) or not isinstance(os.fspath(source), str):
        raise CheckpointError(f"Expected a path, a URL, a module or a mapping of tensors, got {source!r:.80}.")
    path = _local(os.fspath(source), sha256)
    if sha256 is not None:
        check_digest(path, sha256)
    with trusting(trusted):
        return _read(path, weights, key)


def _read(path: Path, weights: Weights, key: str | None) -> StateDict:
    if path.is_dir() and is_distributed(path):
        return read_distributed(path, weights, key)
    file = _of_folder(path) if path.is_dir() else path
    if format_of(file) == "index":
        return pick(read_sharded(file), str(file), weights, key)
    return pick(read_file(file), str(file), weights, key, size=file.stat().st_size)


def _local(source: str, sha256: str | None) -> Path:
    if is_remote(source):
        return fetch(source, sha256)
    path = Path(source).expanduser()
    if not _exists(path):
        hint = f" Of the Hugging Face hub: `hf://{source}`." if source.count("/") == 1 and not path.suffix else ""
        raise CheckpointError(f"Expected a checkpoint at {path}, got nothing there.{hint}")
    if not (path.is_file() or path.is_dir()):
        raise CheckpointError(f"Expected a file or a directory at {path}, got a device or a pipe.")
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise CheckpointError(f"Expected a checkpoint at {str(path)[:200]}, got {error.strerror}.") from error


def _of_folder(folder: Path) -> Path:
    """The one file of a directory to begin with."""
    if (states := deepspeed_file(folder)) is not None:
        return states
    usual = [name for name in USUAL if (folder / name).is_file()]
    found = usual or sorted(path.name for path in folder.glob("*.index.json"))
    if not found:
        raise CheckpointError(
            f"Expected a distributed checkpoint (with `.metadata`), one of DeepSpeed or one of {', '.join(USUAL)} "
            f"in {folder}, got none; name the file."
        )
    if not usual and len(found) > 1:
        names = ", ".join(map(shown, found[:SHOWN]))
        raise CheckpointError(f"Expected one index in {folder}, got {names}; name the file.")
    return inside(folder, found[0])
