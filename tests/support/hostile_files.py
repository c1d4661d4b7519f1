"""Files of strangers beside hostile pickles: zips, safetensors, indices and links, other formats, and where to cut."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from pickling import MAGIC
from torch import nn

Write = Callable[[Path], Path]


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"0.weight": torch.randn(4, 3, generator=generator), "0.bias": torch.ones(4), "1.weight": torch.ones(2, 4)}


def torch_file(folder: Path) -> Path:
    torch.save(state(), folder / "x.pt")
    return folder / "x.pt"


def old_file(folder: Path) -> Path:
    torch.save(state(), folder / "x.pt", _use_new_zipfile_serialization=False)
    return folder / "x.pt"


def changed(write: Write, change: Callable[[bytearray], Any]) -> Write:
    """A good file, with bytes that a function has changed."""

    def damaged(folder: Path) -> Path:
        path = write(folder)
        data = bytearray(path.read_bytes())
        path.write_bytes(bytes(change(data) or data))
        return path

    return damaged


def content(data: bytes, name: str = "x.pt") -> Write:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


# Zips


def rezipped(change: Callable[[str, bytes], list[tuple[str, bytes]]], method: int = zipfile.ZIP_STORED) -> Write:
    """A good file whose records have changed."""

    def write(folder: Path) -> Path:
        with zipfile.ZipFile(torch_file(folder)) as file:
            records = [(name, file.read(name)) for name in file.namelist()]
        with zipfile.ZipFile(folder / "y.pt", "w", method) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that is there twice
            for record in records:
                for name, data in change(*record):
                    file.writestr(zipfile.ZipInfo(name) if method == zipfile.ZIP_STORED else name, data)
        return folder / "y.pt"

    return write


def at(text: bytes, offset: int, value: bytes, *, number: int = 0) -> Callable[[bytearray], None]:
    """Write a value at an offset from the n-th place where a text stands."""

    def change(data: bytearray) -> None:
        place = -1
        for _ in range(number + 1):
            place = data.index(text, place + 1)
        data[place + offset : place + offset + len(value)] = value

    return change


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
BIG = b"\xff\xff\xff\x7f"


def listed(count: int) -> Callable[[bytearray], bytes]:
    """A directory in which the first record stands again and again, each time under another number."""

    def change(data: bytearray) -> bytes:
        place, end = data.index(CENTRAL), data.index(END)
        entry = bytes(data[place : place + 28]) + struct.pack("<HHH", 1, 0, 0) + bytes(data[place + 34 : place + 46])
        directory = (entry + b"x") * count
        tail = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, len(directory), place, 0)
        assert end > place
        return bytes(data[:place]) + directory + tail

    return change


def zip64(size: int, offset: int = 0) -> Callable[[bytearray], bytes]:
    """Behind a good file a second end, which says of the directory what does not fit into 32 bits."""

    def change(data: bytearray) -> bytes:
        place = len(data)
        record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, size, offset)
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, place, 1)
        return (
            bytes(data) + record + locator + struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
        )

    return change


ZIPS: dict[str, Write] = {
    "directory of many records": changed(torch_file, listed(200_000)),
    "zip64: directory of 2^62": changed(torch_file, zip64(2**62)),
    "zip64: directory behind the end": changed(torch_file, zip64(100, 2**62)),
    "zip64: directory of nothing": changed(torch_file, zip64(0)),
    "zip64: directory of the whole file": changed(torch_file, zip64(1000)),
    "compressed": rezipped(lambda name, data: [(name, data)], zipfile.ZIP_DEFLATED),
    "a bomb that is compressed": rezipped(lambda name, data: [(name, data + bytes(4 << 20))], zipfile.ZIP_DEFLATED),
    "twice": rezipped(lambda name, data: [(name, data)] * 2),
    "no pickle": rezipped(lambda name, data: [] if name.endswith("data.pkl") else [(name, data)]),
    "two folders": rezipped(lambda name, data: [(name, data), (f"other/{name}", data)]),
    "absolute names": rezipped(lambda name, data: [(f"/{name}", data)]),
    "names that lead out": rezipped(lambda name, data: [(f"../{name}", data)]),
    "no records": rezipped(lambda name, data: []),
    "byte order of nobody": rezipped(lambda name, data: [(name, b"x" * 1000 if name.endswith("byteorder") else data)]),
    "alignment of nobody": rezipped(lambda name, data: [(name, b"9" * 5000 if "alignment" in name else data)]),
    "short storages": rezipped(lambda name, data: [(name, data[:-4] if "/data/" in name else data)]),
    "a pickle within a pickle": rezipped(lambda name, data: [(name, data * 2 if "data.pkl" in name else data[:1])]),
    "many records": rezipped(
        lambda name, data: [(f"{name}{i}", b"") for i in range(5000)] if "data.pkl" in name else []
    ),
    "size in the directory": changed(torch_file, at(CENTRAL, 24, BIG)),
    "compressed size in the directory": changed(torch_file, at(CENTRAL, 20, BIG)),
    "both sizes in the directory": changed(torch_file, at(CENTRAL, 20, BIG * 2)),
    "offset in the directory": changed(torch_file, at(CENTRAL, 42, BIG, number=1)),
    "overlap": changed(torch_file, at(CENTRAL, 42, bytes(4), number=2)),
    "encrypted": changed(torch_file, at(CENTRAL, 8, b"\x01\x00")),
    "method of nobody": changed(torch_file, at(CENTRAL, 10, b"\x63\x00")),
    "zip64 in the directory": changed(torch_file, at(CENTRAL, 20, b"\xff" * 8)),
    "name in the record": changed(torch_file, at(LOCAL, 30, b"evil")),
    "length of a name in the record": changed(torch_file, at(LOCAL, 26, b"\xff\xff")),
    "no record": changed(torch_file, at(LOCAL, 0, b"XX", number=1)),
    "something before": changed(torch_file, lambda data: LOCAL + bytes(60) + data),
    "something behind": changed(torch_file, lambda data: data + bytes(70_000)),
    "begins as another": changed(torch_file, lambda data: b"\x80\x02}." + data),
}

ZIPS_EITHER: dict[str, Write] = {  # the numbers are those of the larger directory that stands before
    "number of records": changed(torch_file, at(END, 8, b"\xff\x00\xff\x00")),
    "size of the directory": changed(torch_file, at(END, 12, BIG)),
    "offset of the directory": changed(torch_file, at(END, 16, BIG)),
    "length of the comment": changed(torch_file, at(END, 20, b"\xff\xff")),
}


# Safetensors


def safetensors(header: Any, data: bytes = bytes(48), *, length: int | None = None) -> Write:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return content(struct.pack("<Q", len(text) if length is None else length) + text + data, "x.safetensors")


def entry(shape: Any = (4, 3), places: Any = (0, 48), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": places}


def safe_file(folder: Path) -> Path:
    return safetensors({"0.weight": entry()}, bytes(range(48)))(folder)


WHOLE = {"0.weight": entry()}
SAFETENSORS: dict[str, Write] = {
    "length of 0": safetensors(WHOLE, length=0),
    "length of 2^63": safetensors(WHOLE, length=2**63),
    "length of 2^64": safetensors(WHOLE, length=2**64 - 1),
    "length too long": safetensors(WHOLE, length=10_000),
    "length too short": safetensors(WHOLE, length=20),
    "no text": safetensors(b"{" + b"\xff" * 30 + b"}"),
    "a list": safetensors([WHOLE]),
    "a number": safetensors(b"12"),
    "brackets": safetensors(b"{" + b'"a":[' * 100_000),
    "a number of digits": safetensors(b'{"a":' + b"1" * 50_000 + b"}"),
    "names twice": safetensors(
        b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
    ),
    "keys twice": safetensors(b'{"a":{"dtype":"F32","dtype":"F32","shape":[12],"data_offsets":[0,48]}}'),
    "dtype of nobody": safetensors({"a": entry(dtype="Q7")}),
    "dtype that is none": safetensors({"a": entry(dtype=7)}),
    "dtype of a megabyte": safetensors({"a": entry(dtype="\x1b[2J" * 250_000)}),
    "shape of 2^62": safetensors({"a": entry((2**62, 2**62))}),
    "shape below 0": safetensors({"a": entry((-4, -3))}),
    "shape of floats": safetensors({"a": entry((4.0, 3.0))}),
    "shape of bools": safetensors({"a": entry((True, 12))}),
    "shape of a thousand": safetensors({"a": entry((1,) * 1000 + (12,))}),
    "shape that is none": safetensors({"a": entry("x")}),
    "shape of too few": safetensors({"a": entry((3,))}),
    "places behind the end": safetensors({"a": entry((2**30,), (0, 2**32))}),
    "places backwards": safetensors({"a": entry(places=(48, 0))}),
    "places below 0": safetensors({"a": entry(places=(-48, 0))}),
    "places of three": safetensors({"a": entry(places=(0, 48, 96))}),
    "places that are none": safetensors({"a": entry(places=None)}),
    "one over another": safetensors({"a": entry(), "b": entry()}),
    "a gap": safetensors({"a": entry((3,), (0, 12)), "b": entry((3,), (36, 48))}),
    "bytes of nobody": safetensors(WHOLE, bytes(100)),
    "fewer bytes": safetensors(WHOLE, bytes(40)),
    "entry that is none": safetensors({"a": 3}),
    "entry with more": safetensors({"a": {**entry(), "more": 1}}),
    "metadata that are none": safetensors({**WHOLE, "__metadata__": [1]}),
    "metadata of numbers": safetensors({**WHOLE, "__metadata__": {"a": 1}}),
    "nothing": safetensors({}, b""),
    "ten thousand that break": safetensors({f"{i}": entry(places=(i, i + 48)) for i in range(10_000)}),
    "a name that is missing": safetensors({"\x1b[2J" + "x" * 10**6: entry(), "y": entry()}),
}


# Indices


def index(places: Any, *, shards: dict[str, Any] | None = None) -> Write:
    def write(folder: Path) -> Path:
        inner = folder / "inner"
        inner.mkdir()
        for name, held in ({"a.bin": state()} if shards is None else shards).items():
            torch.save(held, inner / name)
        torch.save(state(), folder / "outside.bin")
        (inner / "link.bin").symlink_to("../outside.bin")
        (inner / "far.bin").symlink_to("/etc/passwd")
        (inner / "round.bin").symlink_to("round.bin")
        (inner / "folder.bin").mkdir()
        path = inner / "model.index.json"
        path.write_text(places if isinstance(places, str) else json.dumps({"weight_map": places}))
        return path

    return write


def all_in(file: str) -> dict[str, str]:
    return dict.fromkeys(state(), file)


def sparse_index(folder: Path) -> Path:
    with (folder / "x.json").open("wb") as file:
        file.write(b'{"a')
        file.truncate(2 * 10**9)
    return folder / "x.json"


def linked(name: str, target: str, *, inner: str = "") -> Write:
    """A folder in which a usual name is a link out of it."""

    def write(folder: Path) -> Path:
        torch.save(state(), folder / "outside.bin")
        (folder / "inner").mkdir()
        (folder / "inner" / name).symlink_to(target)
        return folder / "inner" / inner

    return write


def deepspeed(tag: bytes, name: str = "mp_rank_00_model_states.pt", target: str = "../../outside.pt") -> Write:
    """A folder of DeepSpeed whose weights are a link out of it, or whose tag names another folder."""

    def write(folder: Path) -> Path:
        torch.save({"module": state()}, folder / "outside.pt")
        (folder / "inner" / "step").mkdir(parents=True)
        (folder / "inner" / "step" / name).symlink_to(target)
        (folder / "inner" / "latest").write_bytes(tag)
        (folder / "inner" / "far").symlink_to("/etc")
        return folder / "inner"

    return write


INDICES: dict[str, Write] = {
    "DeepSpeed: weights are a link": deepspeed(b"step"),
    "DeepSpeed: weights are a file of the system": deepspeed(b"step", target="/etc/passwd"),
    "DeepSpeed: weights are a circle": deepspeed(b"step", target="mp_rank_00_model_states.pt"),
    "DeepSpeed: tag leads out": deepspeed(b"../inner/step"),
    "DeepSpeed: tag of the system": deepspeed(b"/etc"),
    "DeepSpeed: tag is a link": deepspeed(b"far"),
    "DeepSpeed: tag with a zero": deepspeed(b"a\0b"),
    "DeepSpeed: tag that is long": deepspeed(b"\xff\x1b[2J" * 10**6),
    "DeepSpeed: name that steers a terminal": deepspeed(b"step", name="\x1b[2Jmodel_states.pt"),
    "2 GB of holes": sparse_index,
    **{
        f"file {name}": index(all_in(name))
        for name in (
            "../outside.bin", "/etc/passwd", "/dev/zero", "/proc/self/environ", "link.bin", "far.bin", "round.bin",
            "folder.bin", "none.bin", "", ".", "..", "a/../../outside.bin", "..\\outside.bin", "C:\\x.bin", "x" * 5000,
            "a\0.bin", "\ud800.bin", "\x1b[2J.bin", "model.index.json", "//host/x", "~/x.bin", "file:///etc/passwd",
        )
    },
    "no text": index("\x00\x01"),
    "brackets": index("{" + '"a":[' * 100_000),
    "no map": index("{}"),
    "a map of numbers": index({"a": 1}),
    "names twice": index('{"weight_map": {' + ",".join(f'"{i}":"a.bin"' for i in range(20_000)) + ',"7":"a.bin"}}'),
    "a name of nobody": index({**all_in("a.bin"), "x\x1b[2J" * 1000: "a.bin"}),
    "a tensor of nobody": index({"0.weight": "a.bin"}),
    "a hostile shard": index(all_in("a.bin"), shards={"a.bin": {"0.weight": torch.zeros(1).expand(10**9)}}),
    "a code shard": index(all_in("a.bin"), shards={"a.bin": nn.Linear(1, 1)}),
    "many shards": index({f"{i}": f"{i}.bin" for i in range(20_000)}),
    "folder: weights are a link": linked("pytorch_model.bin", "../outside.bin"),
    "folder: index is a link": linked("model.safetensors.index.json", "/etc/passwd"),
    "folder: metadata are a link": linked(".metadata", "/etc/passwd"),
    "folder: nothing": linked("x.txt", "/etc/passwd"),
}  # fmt: skip


# Other formats


def npz(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.npz", "w") as file:
        file.writestr("weight.npy", b"\x93NUMPY\x01\x00")
    return folder / "x.npz"


def keras(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.keras", "w") as file:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            file.writestr(name, b"{}")
    return folder / "x.keras"


def torchscript(folder: Path) -> Path:
    """As `torch.jit.save` lays it out: the code of a program beside its tensors."""
    with zipfile.ZipFile(folder / "x.pt", "w") as file:
        for name in ("x/data/0", "x/data.pkl", "x/code/__torch__.py", "x/constants.pkl", "x/version"):
            kind = zipfile.ZIP_DEFLATED if "code" in name else zipfile.ZIP_STORED
            file.writestr(name, b"class Linear(Module): ..." * 20, compress_type=kind)
    return folder / "x.pt"


def tar(folder: Path) -> Path:
    """As torch of before 0.1.10 wrote it; the first name is the begin of a pickle."""
    name = MAGIC.decode("latin-1").replace("\n", "n")
    with tarfile.open(folder / "x.pt", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as file:
        for member in (name, "storages", "tensors", "pickle"):
            info = tarfile.TarInfo(member)
            info.size = 100
            file.addfile(info, io.BytesIO(bytes(100)))
    return folder / "x.pt"


FOREIGN: dict[str, Write] = {
    "npz": npz, "keras": keras, "torchscript": torchscript, "tar": tar,
    "npy": content(b"\x93NUMPY\x01\x00" + bytes(100)), "hdf5": content(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "gzip": content(b"\x1f\x8b" + bytes(100)), "empty": content(b""), "page": content(b"<!DOCTYPE html>"),
    "zeros": content(bytes(1000)), "text": content(b"hello"), "an empty zip": content(END + bytes(18)),
    "a pickle of Python": content(pickle.dumps({"a": 1}, protocol=4)), "GGUF": content(b"GGUF\x03" + bytes(100)),
    "a megabyte of junk": content(b"\x80\x02" + Random(0).randbytes(1 << 20)),
}  # fmt: skip


# Damage


def cuts(data: bytes) -> list[int]:
    """The lengths to which a file is cut: at, before and behind each edge of its structure."""
    edges = {0, 1, 4, 8, len(data) // 2, len(data) - 1}
    for mark in (LOCAL, CENTRAL, END, b"PK\x06\x06", b"PK\x07\x08", b"}", b"\x80\x02"):
        place = data.find(mark)
        while place >= 0 and len(edges) < 80:
            edges |= {place, place + 1, place + len(mark)}
            place = data.find(mark, place + 1)
    return sorted(cut for cut in edges if 0 <= cut < len(data))
