"""What `torch.save` has written, memory-mapped, and never unpickled beyond tensors and plain containers.

`torch.load(weights_only=True, mmap=True)`: a tensor costs memory when it is read, page by page. Files of before torch
1.6 are a row of pickles and then the storages, which are read whole. Either is looked through (`pickled`) before torch
loads it, so that what torch does is known to be in proportion to the file.

`read_with_weights` reads a checkpoint for `load_state_dict`: its weights are plain tensors, everything else is data.
`trusting` accepts further classes, which the user trusts, while one file is read.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import mmap
import os
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.budget import BYTES, BYTES_TIMES
from lightning_autoarch.reading.pickled import TorchPickle
from lightning_autoarch.reading.plain_tensors import check_sizes, plain_tensor
from lightning_autoarch.reading.symbols import Items

ZIPPED = b"PK\x03\x04"
HEADER = 30  # bytes before the name of a record in a zip
SHORTEST_RECORD = 46  # bytes of a record in the directory of a zip
PER_RECORD = 650  # bytes of what zipfile makes of it
PICKLES_BEFORE = 3  # in an old file: a magic number, a version, the machine
LONGEST_FIRST = 1000  # bytes that these may be long
KERAS = "load it with `keras.saving.load_model`, and pass a dict of its weights as tensors"


def read_archive(path: Path) -> Any:
    """What a file of `torch.save` holds, its tensors on the CPU and mapped.

    Raises:
        CheckpointError: broken, or with anything in it that is not data.
    """
    with path.open("rb") as file:
        zipped = file.read(len(ZIPPED)) == ZIPPED
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if zipped:
            _check_zip(file, size, str(path))
            return _load(path, str(path), mmap=True)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:  # which torch does not take for a tar
            _check_old(mapped, size, str(path))
            mapped.seek(0)
            return _load(mapped, str(path), mmap=False)


def read_part(data: bytes, origin: str) -> Any:
    """What `torch.save` has written into a part of a file.

    Raises:
        CheckpointError: as `read_archive`.
    """
    file: IO[bytes] = io.BytesIO(data)
    check = _check_zip if data.startswith(ZIPPED) else _check_old
    check(file, len(data), origin)
    file.seek(0)
    return _load(file, origin, mmap=False)


def _load(file: Any, origin: str, *, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol, or of storages that torch itself once wrote
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a parser of hostile bytes: whatever it trips over, the file is at fault
        raise _broken(origin, error) from error


def _check_zip(file: IO[bytes], size: int, origin: str) -> None:
    try:
        pickle, storages = _parts(file, size, origin)
        TorchPickle(origin, size, storages, len(pickle)).follow(io.BytesIO(pickle))
    except CheckpointError:
        raise
    except Exception as error:  # a parser of hostile bytes
        raise _broken(origin, error) from error


def _parts(file: IO[bytes], size: int, origin: str) -> tuple[bytes, dict[str, int]]:
    """The pickle of a zip, and the bytes of each storage. What zipfile holds of its records is let go of here."""
    with zipfile.ZipFile(_Measured(file, size, origin)) as archive:
        records, start = archive.infolist(), archive.start_dir
    _check_records(records, start, file, origin)
    pickles = [record for record in records if record.filename.count("/") == 1 and _name(record) == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(f"Expected a file of torch.save, got the zip {origin} without a `data.pkl`.")
    file.seek(_start(file, pickles[0]))
    data = file.read(pickles[0].file_size)
    if zlib.crc32(data) != pickles[0].CRC:
        raise CheckpointError(f"Expected a whole file of torch.save, got {origin}, whose pickle is damaged.")
    return data, {_name(record)[5:]: record.file_size for record in records if _in_data(record)}


class _Measured:
    """A file for zipfile, which reads the directory of a zip in one piece and makes an object of each record in it."""

    def __init__(self, file: IO[bytes], size: int, origin: str) -> None:
        self._file, self._origin = file, origin
        self._most = (BYTES + BYTES_TIMES * size) // PER_RECORD * SHORTEST_RECORD

    def read(self, count: int = -1) -> bytes:
        if count > self._most:
            raise CheckpointError(
                f"Expected records in proportion to the size of {self._origin}, got many more: not loaded."
            )
        return self._file.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _check_records(records: list[zipfile.ZipInfo], size: int, file: IO[bytes], origin: str) -> None:
    """As torch writes them, so that its own reader of zips finds the same bytes under the same names.

    The bytes of a compressed record would be taken for the numbers themselves.
    """
    names = [record.filename for record in records]
    if any(_name(record) == "constants.pkl" for record in records):
        raise CheckpointError(f"Expected tensors, got the TorchScript program {origin}; save its `state_dict()`.")
    if any(name.endswith(".npy") for name in names) and not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(
            f"Expected tensors, got the NumPy archive {origin}; read it with `numpy.load` and pass a dict of tensors."
        )
    if "config.json" in names and any(name.endswith(".h5") for name in names):
        raise CheckpointError(f"Expected tensors, got {origin}, which is a Keras model: {KERAS}.")
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
        raise CheckpointError(f"Expected what torch.save writes, got {origin} with compressed records: save it again.")
    if len(set(names)) < len(names):
        raise CheckpointError(f"Expected what torch.save writes, got {origin} with a record that is there twice.")
    if len({name.partition("/")[0] for name in names}) != 1:
        raise CheckpointError(f"Expected what torch.save writes, got {origin} with records in more than one folder.")
    end = 0
    for record in sorted(records, key=lambda record: record.header_offset):
        start = _start(file, record)
        if record.header_offset < end or start < 0 or record.file_size != record.compress_size:
            raise CheckpointError(
                f"Expected what torch.save writes, got {origin}, whose record `{shown(record.filename)}` is not what "
                "its directory says: copy it again."
            )
        end = start + record.file_size
    if end > size:
        raise CheckpointError(f"Expected a whole file of torch.save, got {origin}, which is cut off: copy it again.")


def _start(file: IO[bytes], record: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin; -1 where its own header does not stand where the directory says."""
    file.seek(record.header_offset)
    header = file.read(HEADER)
    length, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if not header.startswith(ZIPPED) or file.read(length) != record.orig_filename.encode():
        return -1
    return record.header_offset + HEADER + length + extra


def _name(record: zipfile.ZipInfo) -> str:
    """Within the one folder of the archive."""
    return record.filename.partition("/")[2]


def _in_data(record: zipfile.ZipInfo) -> bool:
    return _name(record).startswith("data/")


def _check_old(file: Any, size: int, origin: str) -> None:
    """A row of pickles, then each storage after its number of elements."""
    for _ in range(PICKLES_BEFORE):
        TorchPickle(origin, LONGEST_FIRST).follow(file)
    pickle = TorchPickle(origin, size)
    pickle.follow(file)
    keys = pickle.follow(file)
    if not isinstance(keys, Items) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"Expected a whole file of torch.save, got {origin}, which is broken: copy it again.")
    rest = size - file.tell()
    if set(keys) != set(pickle.storages) or sum(8 + n for n in pickle.storages.values()) > rest:
        raise CheckpointError(
            f"Expected a whole file of torch.save, got {origin}, in which storages are missing or cut off: "
            "copy it again."
        )


def _broken(origin: str, error: Exception) -> CheckpointError:
    first = shown(str(error).strip().partition("\n")[0], 200)
    return CheckpointError(
        f"Expected a whole file of torch.save, got {origin}, which is broken or not one: "
        f"{type(error).__name__}: {first}"
    )


def read_with_weights(path: Path) -> Mapping[str, Any]:
    """What a file of `torch.save` holds; its "state_dict", or else all of it, has plain tensors that fit its size.

    Raises:
        CheckpointError: not there, broken, or with anything in it that is not data.
    """
    if not os.path.isfile(path):  # `Path.is_file` raises for a name that no file can have
        raise CheckpointError(f"Expected a checkpoint at {path}, got no file there.")
    return with_plain_weights(read_archive(path), str(path), path.stat().st_size)


def with_plain_weights(content: object, origin: str, size: int) -> Mapping[str, Any]:
    """The same for what was read already from a file of `size` bytes."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"Expected a dict of tensors in {origin}, got {shown(content)}.")
    tensors = {
        name: plain_tensor(name, value, origin, from_file=True)
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    check_sizes(tensors, origin, size)
    plain = {**state, **tensors}
    if state is content:
        return plain
    assert isinstance(content, Mapping)
    return {**content, "state_dict": plain}


@contextlib.contextmanager
def trusting(classes: Collection[type | str]) -> Iterator[None]:
    """Let files hold objects of these classes within the block; afterwards it is as it was before.

    Args:
        classes: themselves, or as "package.module.Class", which is imported.

    Raises:
        CheckpointError: there is no such class.
    """
    if isinstance(classes, str):
        raise CheckpointError(f"Expected a list of classes as `trusted`, got '{shown(classes)}'.")
    known = torch.serialization.get_safe_globals()
    added: list[Any] = [each for each in map(_found, classes) if each not in known]
    with torch.serialization.safe_globals(added) if added else contextlib.nullcontext():
        yield


def _found(named: type | str) -> type:
    if isinstance(named, type):
        return named
    module, _, name = str(named).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"Expected a class as `package.module.Class` in `trusted`, got '{shown(named)}': {shown(str(error), 200)}."
        ) from error
    if not isinstance(found, type):
        raise CheckpointError(f"Expected a class in `trusted`, got '{shown(named)}', which is none.")
    return found
