"""`read_checkpoint`: the weights of a checkpoint, read without running any code of it.

    .ckpt .pt .pth .bin     torch.save; Lightning's or a script's dict, or a state_dict     memory-mapped
    .safetensors                                                                            memory-mapped
    .sparse.safetensors     written by `export` and `save_sparse` of this package           made dense
    *.index.json            an index of shards of either                                    memory-mapped
    a directory             of torch.distributed.checkpoint                                 read a tensor at a time
                            of DeepSpeed, ZeRO 1 or 2
                            or with model.safetensors, pytorch_model.bin, one of their indices
    https://  hf://         downloaded, then one of these
    nn.Module, a dict       its own tensors, not copies

The first bytes of a file say what it is, not its name. Nothing is read that is not used: of a file of which one tensor
is asked for, only the pages of that tensor are loaded into memory.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.archive import trusting
from lightning_autoarch.transfer.read.contents import Weights, check_weights, pick
from lightning_autoarch.transfer.read.distributed import is_distributed, read_distributed
from lightning_autoarch.transfer.read.formats import deepspeed_file, format_of, inside, read_file, read_sharded
from lightning_autoarch.transfer.read.remote import USUAL, check_digest, fetch, is_remote
from lightning_autoarch.transfer.read.state_dicts import LazyStateDict, StateDict

SHOWN = 8  # names in an error


@dataclass(frozen=True)
class Source:
    """A checkpoint, and what to read of it. See `read_checkpoint` for the arguments.

    >>> Source("gan.ckpt", key="generator").path
    'gan.ckpt'
    """

    path: str | os.PathLike[str] | nn.Module | Mapping[str, Any]
    weights: Weights = "state_dict"
    key: str | None = None
    sha256: str | None = None
    trusted: Sequence[type | str] = ()

    def __post_init__(self) -> None:
        check_weights(self.weights)

    def read(self) -> StateDict:
        """Read the weights.

        Raises:
            CheckpointError: As `read_checkpoint` does.
        """
        return read_checkpoint(self.path, weights=self.weights, key=self.key, sha256=self.sha256, trusted=self.trusted)


def source_from(given: object) -> Any:
    """A `Source` for a mapping of its arguments, as in a config; anything else as it is.

    Raises:
        CheckpointError: The mapping has an unknown key, or no path.
    """
    if not isinstance(given, Mapping):
        return given
    fields = Source.__dataclass_fields__
    if "path" not in given or not given.keys() <= fields.keys():
        names = ", ".join(f"`{name}`" for name in fields)
        raise CheckpointError(f"Expected a checkpoint as a path, or as a mapping of {names}, got {given!r:.120}.")
    return Source(**given)


AnySource: TypeAlias = str | os.PathLike[str] | nn.Module | Mapping[str, Any] | Source


def read_checkpoint(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Any],
    *,
    weights: Weights = "state_dict",
    key: str | None = None,
    sha256: str | None = None,
    trusted: Collection[type | str] = (),
) -> StateDict:
    """The weights of a checkpoint as a mapping of names to tensors, on the CPU if they are read from a file.

    Args:
        source: A path, a URL, `hf://owner/name`, a module, or the contents of a checkpoint.
        weights: "state_dict" reads what Lightning would load. If the checkpoint holds an average too, as with
            `WeightAveraging`, "average" or "current" selects one of them.
        key: Key of the dict to read, if it is none of the usual ones: "generator", "nets.teacher".
        sha256: The expected hash of the file.
        trusted: Classes that the file may hold besides plain data, as classes or as "package.module.Class". Loading
            them runs their `__reduce__` and `__setstate__`, so use it only for files from people you trust.

    Raises:
        CheckpointError: The file is missing, broken, holds more than data, or does not hold what was asked for. The
            message names the file.
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
        hint = f" For the Hugging Face hub: `hf://{source}`." if source.count("/") == 1 and not path.suffix else ""
        raise CheckpointError(f"Expected a checkpoint at {path}, got nothing there.{hint}")
    if not (path.is_file() or path.is_dir()):
        raise CheckpointError(f"Expected a file or a directory at {path}, got a device or a pipe.")
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, or a folder without permission
        raise CheckpointError(f"Expected a checkpoint at {str(path)[:200]}, got {error.strerror}.") from error


def _of_folder(folder: Path) -> Path:
    """The file of a directory to start with."""
    if (states := deepspeed_file(folder)) is not None:
        return states
    usual = [name for name in USUAL if (folder / name).is_file()]
    found = usual or sorted(path.name for path in folder.glob("*.index.json"))
    if not found:
        raise CheckpointError(
            f"Expected a distributed checkpoint (with `.metadata`), one of DeepSpeed or one of {', '.join(USUAL)} "
            f"in {folder}, got none; pass the file."
        )
    if not usual and len(found) > 1:
        names = ", ".join(map(shown, found[:SHOWN]))
        raise CheckpointError(f"Expected one index in {folder}, got {names}; pass one of them.")
    return inside(folder, found[0])
