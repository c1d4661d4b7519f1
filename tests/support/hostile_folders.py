"""Distributed checkpoints and files of `save_sparse` from strangers."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile_files import state
from hostile_pickles import STRANGERS, bomb, deep
from pickling import Call, Global, Raw, code, pickled
from safetensors.torch import save_file

from lightning_autoarch.training.sparse_file import save_sparse

Write = Callable[[Path], Path]


def distributed(folder: Path) -> Path:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        dcp.save(state(), checkpoint_id=folder / "dcp", no_dist=True)
    return folder / "dcp"


def described(change: Callable[[Any, Any], Any]) -> Write:
    """A good checkpoint; a function changes its metadata and gets the tensor `0.weight` in it."""

    def write(folder: Path) -> Path:
        path = distributed(folder)
        torch.save(state(), folder / "outside.distcp")
        metadata = pickle.loads((path / ".metadata").read_bytes())
        change(metadata, metadata.state_dict_metadata["0.weight"])
        (path / ".metadata").write_bytes(pickle.dumps(metadata, protocol=4))
        return path

    return write


def metadata(data: bytes) -> Write:
    def write(folder: Path) -> Path:
        path = distributed(folder)
        (path / ".metadata").write_bytes(data)
        return path

    return write


def stored(held: Any) -> Write:
    """A good checkpoint, whose one file holds something else where a tensor should be."""

    def write(folder: Path) -> Path:
        path = distributed(folder)
        file = io.BytesIO()
        torch.save(held(), file)
        metadata = pickle.loads((path / ".metadata").read_bytes())
        for info in metadata.storage_data.values():
            info.offset, info.length = 0, len(file.getvalue())
        (path / ".metadata").write_bytes(pickle.dumps(metadata))
        next(path.glob("*.distcp")).write_bytes(file.getvalue() * 3)
        return path

    return write


def places(metadata: Any, **values: Any) -> None:
    for info in metadata.storage_data.values():
        for name, value in values.items():
            setattr(info, name, value)


def sizes(tensor: Any, size: Any) -> None:
    tensor.size = tensor.chunks[0].sizes = torch.Size(size)


def everywhere(metadata: Any, tensor: Any) -> None:
    """A thousand names for one place."""
    [info] = [info for index, info in metadata.storage_data.items() if index.fqn == "0.weight"]
    for i in range(1000):
        metadata.state_dict_metadata[f"{i}"] = tensor
        index = type(next(iter(metadata.storage_data)))(f"{i}", torch.Size([0, 0]), 0)
        metadata.storage_data[index] = info


def in_pieces(count: int, *, overlap: bool) -> Callable[[Any, Any], None]:
    """As many ranks write it: chunks of a row of 2 each, all of them at the same bytes."""

    def change(metadata: Any, tensor: Any) -> None:
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

        [info] = [info for index, info in metadata.storage_data.items() if index.fqn == "0.weight"]
        tensor.size = torch.Size([2 * count])
        starts = [2 * i for i in range(count)]
        if overlap:
            starts[-1] = 0
        tensor.chunks = [ChunkStorageMetadata(torch.Size([start]), torch.Size([2])) for start in starts]
        for start in starts:
            metadata.storage_data[MetadataIndex("0.weight", torch.Size([start]), 0)] = info

    return change


def diagonal(metadata: Any, tensor: Any) -> None:
    """Chunks whose edges make a grid of 10^7 cells."""
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    [info] = [info for index, info in metadata.storage_data.items() if index.fqn == "0.weight"]
    tensor.size = torch.Size([3000, 3000])
    tensor.chunks = [ChunkStorageMetadata(torch.Size([i, i]), torch.Size([1, 1])) for i in range(3000)]
    for i in range(3000):
        metadata.storage_data[MetadataIndex("0.weight", torch.Size([i, i]), 0)] = info


def huge(metadata: Any, tensor: Any) -> None:
    sizes(tensor, (10**6, 10**3))


DISTRIBUTED: dict[str, Write] = {
    **{
        f"name {name}": metadata(pickled(Call(Global(name), given)))
        for name, given in list(STRANGERS.items())[:14]
    },
    "name in protocol 4": metadata(b"\x80\x04\x8c\x02os\x8c\x06system\x93)R."),
    "name in protocol 0": metadata(b"cos\nsystem\n(Vtrue\ntR."),
    "memo at 2^31": metadata(b"\x80\x02}r\xff\xff\xff\x7f."),
    "bytes of 2^60": metadata(b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"."),
    "frame of 2^60": metadata(b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"}."),
    "key that is a bomb": metadata(pickled(Raw(b"}" + bomb(40).code + b"K\x01s"))),
    "key that is deep": metadata(pickled(Raw(b"}" + deep(300_000, b")", b"\x85").code + b"K\x01s"))),
    "a million sets": metadata(b"\x80\x04(" + b"\x8f" * 10**6 + b"t."),
    "path that is a bomb": described(lambda m, t: m.planner_data.update({"0.weight": (nested(40),)})),
    "path of a million": described(lambda m, t: m.planner_data.update({"0.weight": ("x",) * 10**6})),
    "path of nothing": described(lambda m, t: m.planner_data.update({"0.weight": ()})),
    "path through a tensor": described(lambda m, t: m.planner_data.update({"0.weight": ("0.bias", "x")})),
    "shape of 4 GB": described(huge),
    "shape of 2^62": described(lambda m, t: sizes(t, (2**62,))),
    "shape below 0": described(lambda m, t: sizes(t, (-4, -3))),
    "shape that is none": described(lambda m, t: setattr(t, "size", "x")),
    "sizes that are none": described(lambda m, t: setattr(t.chunks[0], "sizes", None)),
    "sizes of floats": described(lambda m, t: setattr(t.chunks[0], "sizes", (4.0, 3.0))),
    "offsets below 0": described(lambda m, t: setattr(t.chunks[0], "offsets", torch.Size([-4, 0]))),
    "chunk of one dimension": described(lambda m, t: setattr(t.chunks[0], "sizes", torch.Size([12]))),
    "no chunks": described(lambda m, t: setattr(t, "chunks", [])),
    "chunks twice": described(lambda m, t: setattr(t, "chunks", t.chunks * 2)),
    "chunks that are none": described(lambda m, t: setattr(t, "chunks", 3)),
    "chunks in one place": described(in_pieces(5000, overlap=False)),
    "chunks one over another": described(in_pieces(5000, overlap=True)),
    "chunks on a diagonal": described(diagonal),
    "a thousand names in one place": described(everywhere),
    "dtype that is none": described(lambda m, t: setattr(t.properties, "dtype", 3)),
    "no properties": described(lambda m, t: setattr(t, "properties", None)),
    "no places": described(lambda m, t: setattr(m, "storage_data", None)),
    "places of nothing": described(lambda m, t: m.storage_data.clear()),
    "file outside": described(lambda m, t: places(m, relative_path="../outside.distcp")),
    "file of the system": described(lambda m, t: places(m, relative_path="/etc/passwd")),
    "file that is none": described(lambda m, t: places(m, relative_path=3)),
    "file of no text": described(lambda m, t: places(m, relative_path="\ud800")),
    "place behind the end": described(lambda m, t: places(m, offset=10**9)),
    "place before the begin": described(lambda m, t: places(m, offset=-5)),
    "place of 2^62": described(lambda m, t: places(m, length=2**62)),
    "place of nothing": described(lambda m, t: places(m, length=0)),
    "place that is none": described(lambda m, t: places(m, offset="x")),
    "names that steer a terminal": described(lambda m, t: m.state_dict_metadata.update({"\x1b[2J" * 10**5: t})),
    "stored: sparse": stored(lambda: torch.sparse_coo_tensor([[5], [2]], [1.0], (4, 3), check_invariants=False)),
    "stored: repeated": stored(lambda: torch.zeros(1).expand(4, 3000)),
    "stored: a module": stored(lambda: torch.nn.Linear(3, 4)),
    "stored: a dict": stored(dict),
    "stored: nested": stored(lambda: torch.nested.nested_tensor([torch.zeros(4, 3)])),
    "stored: another dtype": stored(lambda: torch.zeros(4, 3).half()),
    "nothing": metadata(b""),
    "a number": metadata(pickle.dumps(3)),
    "a class": metadata(pickled(Global("torch.distributed.checkpoint.metadata.Metadata"))),
    "a dict": metadata(pickled({"a": 1})),
    "junk": metadata(code(3) * 1000),
}  # fmt: skip


def nested(levels: int) -> Any:
    value: Any = ("x",)
    for _ in range(levels):
        value = (value, value)
    return value


# Files of save_sparse


def sparse_file(folder: Path) -> Path:
    weight = torch.zeros(40, 30)
    weight[::7, ::5] = 1.5
    save_sparse({"0.weight": weight, "0.bias": torch.ones(4)}, folder / "x.sparse.safetensors")
    return folder / "x.sparse.safetensors"


BITS = {"w::bitmask": torch.zeros(2, dtype=torch.uint8), "w::values": torch.zeros(0)}


def sparse(entries: Any, tensors: dict[str, torch.Tensor] | None = None, **described: Any) -> Write:
    """A file whose metadata are whole and say something else than its tensors."""

    def write(folder: Path) -> Path:
        text = json.dumps(entries, separators=(",", ":"))
        held = {"version": 1, "crc32": zlib.crc32(text.encode()), "tensors": entries, **described}
        path = folder / "x.sparse.safetensors"
        save_file(BITS if tensors is None else tensors, path, metadata={"sparse": json.dumps(held)})
        return path

    return write


def entry(shape: Any, kind: Any = "sparse", crc: Any = None, dtype: Any = "float32") -> dict[str, Any]:
    crc = zlib.crc32(bytes(2)) if crc is None else crc
    return {"is": kind, "shape": shape, "dtype": dtype, "crc32": crc}


def raw_metadata(text: str) -> Write:
    def write(folder: Path) -> Path:
        save_file(BITS, folder / "x.sparse.safetensors", metadata={"sparse": text})
        return folder / "x.sparse.safetensors"

    return write


SPARSE: dict[str, Write] = {
    "shape of 10^10": sparse({"w": entry([10**5, 10**5])}),
    "shape of 2^62": sparse({"w": entry([2**31, 2**31])}),
    "shape below 0": sparse({"w": entry([-4, -4])}),
    "shape of floats": sparse({"w": entry([4.0, 4.0])}),
    "shape of 0 and much": sparse({"w": entry([0, 10**12])}),
    "shape that is none": sparse({"w": entry(3)}),
    "shape of text": sparse({"w": entry(["x"])}),
    "shape of bools": sparse({"w": entry([True, 16])}),
    "fewer bits": sparse({"w": entry([1000])}),
    "more bits": sparse({"w": entry([3])}),
    "bits of another dtype": sparse({"w": entry([16])}, {"w::bitmask": torch.zeros(2), "w::values": torch.zeros(0)}),
    "values of 2 dimensions": sparse({"w": entry([16])}, {**BITS, "w::values": torch.zeros(0, 2)}),
    "more values": sparse({"w": entry([16], crc=zlib.crc32(bytes(10)))}, {**BITS, "w::values": torch.zeros(2)}),
    "values of another dtype": sparse({"w": entry([16], dtype="float64")}),
    "dtype that is none": sparse({"w": entry([16], dtype=None)}),
    "another crc": sparse({"w": entry([16], crc=7)}),
    "crc that is none": sparse({"w": entry([16], crc=[])}),
    "kind that is none": sparse({"w": entry([16], kind="x")}),
    "entry that is none": sparse({"w": 3}),
    "entries that are none": sparse([1, 2]),
    "tied to nothing": sparse({"w": entry([16]), "v": {"is": "tied", "to": "x"}}),
    "tied to itself": sparse({"w": {"is": "tied", "to": "w"}}),
    "tied to a list": sparse({"w": entry([16]), "v": {"is": "tied", "to": []}}),
    "no entry": sparse({}),
    "no tensors": sparse({"w": entry([16])}, {}),
    "names that steer a terminal": sparse({"\x1b[2J" * 10**4: entry([16])}),
    "version of the future": sparse({"w": entry([16])}, version=10**40),
    "version of text": sparse({"w": entry([16])}, version="\x1b[2J" * 10**5),
    "no text": raw_metadata("{"),
    "brackets": raw_metadata("[" * 100_000),
    "a number of digits": raw_metadata('{"version": ' + "1" * 10_000 + "}"),
    "an infinite number": raw_metadata('{"version": 1, "crc32": Infinity, "tensors": {"a": NaN}}'),
    "tensors that are deep": raw_metadata('{"version": 1, "crc32": 1, "tensors": ' + "[" * 900 + "]" * 900 + "}"),
    "no sparse file": lambda folder: _plain_safetensors(folder),
}


def _plain_safetensors(folder: Path) -> Path:
    save_file(state(), folder / "x.safetensors")
    return folder / "x.safetensors"
