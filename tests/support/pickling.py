"""Writes pickles and zips as `torch.save` does, and as it never would: an assembler for hostile files."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."
MACHINE = b"\x80\x02}."


@dataclass
class Global:
    """A name: "module.name"."""

    full: str


@dataclass
class Call:
    """What a function of a name gives."""

    function: Any
    arguments: Any = ()


@dataclass
class New:
    """An object that is made without `__init__`."""

    kind: Any
    arguments: Any = ()


@dataclass
class State:
    """An object, and a state that is set on it."""

    target: Any
    state: Any


@dataclass
class Persistent:
    """What a persistent id stands for."""

    identity: Any


@dataclass
class Items:
    """An object, and items that are put into it."""

    target: Any
    items: dict[Any, Any]


@dataclass
class Raw:
    """Opcodes as they are."""

    code: bytes


def code(value: Any) -> bytes:
    """The opcodes that leave a value on the stack."""
    match value:
        case Raw():
            return value.code
        case Global():
            module, _, name = value.full.rpartition(".")
            return b"c" + module.encode() + b"\n" + name.encode() + b"\n"
        case Call():
            return code(value.function) + code(value.arguments) + b"R"
        case New():
            return code(value.kind) + code(value.arguments) + b"\x81"
        case State():
            return code(value.target) + code(value.state) + b"b"
        case Persistent():
            return code(value.identity) + b"Q"
        case Items():
            return code(value.target) + b"(" + b"".join(code(k) + code(v) for k, v in value.items.items()) + b"u"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(data)) + data
        case bytes():
            return b"U" + bytes([len(value)]) + value
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
    raise TypeError(value)


def pickled(value: Any) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + code(value) + b"."


def storage(key: str = "0", count: int = 12, kind: str = "torch.FloatStorage") -> Persistent:
    return Persistent(("storage", Global(kind), key, "cpu", count))


def tensor(
    size: Any = (4, 3), stride: Any = (3, 1), offset: Any = 0, of: Any = None, name: str = "_rebuild_tensor_v2"
) -> Call:
    hooks = Call(Global("collections.OrderedDict"))
    of = storage() if of is None else of
    return Call(Global(f"torch._utils.{name}"), (of, offset, size, stride, False, hooks))


def zipped(folder: Path, value: Any, *, records: dict[str, bytes] | None = None, name: str = "x.pt") -> Path:
    """A file of torch.save whose pickle holds a value; its storage `0` has 12 floats."""
    path = folder / name
    data = {"0": bytes(48)} if records is None else records
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", value if isinstance(value, bytes) else pickled(value))
        file.writestr("x/byteorder", b"little")
        for key, content in data.items():
            file.writestr(f"x/data/{key}", content)
        file.writestr("x/version", b"3\n")
    return path


def old(folder: Path, value: Any, *, keys: Any = ("0",), data: bytes | None = None) -> Path:
    """As before torch 1.6: pickles in a row, and then the storages."""
    path = folder / "x.pt"
    rest = struct.pack("<q", 12) + bytes(48) if data is None else data
    keys = pickled(list(keys)) if isinstance(keys, tuple) else keys
    path.write_bytes(MAGIC + VERSION + MACHINE + pickled(value) + keys + rest)
    return path


def old_storage(key: str = "0", count: Any = 12, view: Any = None) -> Persistent:
    return Persistent(("storage", Global("torch.FloatStorage"), key, "cpu", count, view))
