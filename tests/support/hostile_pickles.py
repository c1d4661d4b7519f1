"""Pickles of strangers, each in a file of torch.save: what they name, what they call, what they hold."""

from __future__ import annotations

import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pickling import Call, Global, Items, New, Persistent, Raw, State, code, old, old_storage, storage, tensor, zipped
from torch import nn

Write = Callable[[Path], Path]

STRANGERS = {
    "os.system": ("touch hacked",), "posix.system": ("touch hacked",), "nt.system": ("x",), "builtins.exec": ("1",),
    "builtins.eval": ("1",), "builtins.getattr": (1, "real"), "builtins.__import__": ("this",), "this.s": (),
    "antigravity.webbrowser.open": ("http://localhost",), "stranger.run": (), "subprocess.Popen": ("true",),
    "importlib.import_module": ("this",), "runpy.run_path": ("x.py",), "shutil.rmtree": (".",), "pickle.loads": (b"",),
    "torch.load": ("x.pt",), "torch.hub.load": ("a/b", "c"), "torch.jit.load": ("x.pt",), "os.mkdir": ("hacked",),
    "torch.storage._load_from_bytes": (b"",), "torch._utils._import_dotted_name": ("this",), "sys.exit": (0,),
    "torch.utils.cpp_extension.load": ("a", "b"), "copyreg._reconstructor": (1, 2, 3), "numpy.load": ("x.npy",),
    "functools.partial": (1,), "operator.attrgetter": ("x",), "torch.nn.modules.linear.Linear": (10**6, 10**6),
    "torch.distributed.tensor.DTensor": (1,), "torch._tensor.Tensor.__init__": (1,), "codecs.open": ("/etc/passwd",),
    "torch.distributed.device_mesh.DeviceMesh": ("cpu", (0,)), "io.FileIO": ("/etc/passwd",),
    "__builtin__.file": ("x",),
}  # fmt: skip

DICT = Call(Global("collections.OrderedDict"))
SAME = sys.hash_info.modulus  # of which all multiples have the hash 0
DICT_OF_PAIRS = Call(Global("collections.OrderedDict"), ([[i * SAME, 1] for i in range(300)],))


def bomb(levels: int) -> Raw:
    """A tuple that holds one tuple twice, and so on: its hash takes 2^levels steps."""
    return Raw(b")" + b"".join(b"q\x000h\x00h\x00\x86" for _ in range(levels)))


def deep(levels: int, start: bytes, step: bytes) -> Raw:
    return Raw(start + step * levels)


def same_hash(count: int, key: Callable[[int], bytes] = lambda i: code(i * SAME)) -> Raw:
    """A dict whose keys all have one hash: each is compared with all before it."""
    return Raw(b"}(" + b"".join(key(i) + b"N" for i in range(count)) + b"u")


def complex_number(real: int, imaginary: int) -> bytes:
    return b"cbuiltins\ncomplex\n" + b"".join(b"G" + struct.pack(">d", part) for part in (real, imaginary)) + b"\x86R"


def weights(value: Any) -> dict[str, Any]:
    return {"0.weight": tensor(), "x": value}


def as_weight(value: Any) -> dict[str, Any]:
    return {"0.weight": value}


def layout(name: str) -> Call:
    return Call(Global("torch.serialization._get_layout"), (f"torch.{name}",))


def parameter(state: Any) -> Call:
    return Call(Global("torch._utils._rebuild_parameter_with_state"), (tensor(), True, DICT, state))


def typed(kind: str, state: Any, function: str = "torch._utils._rebuild_tensor_v2") -> Call:
    arguments = (Global(function), Global(kind), tensor().arguments, state)
    return Call(Global("torch._tensor._rebuild_from_type_v2"), arguments)


def quantised(size: Any, stride: Any, parameters: Any, count: int = 12) -> Call:
    kind = storage(count=count, kind="torch.QInt8Storage")
    arguments = (kind, 0, size, stride, parameters, False, DICT)
    return Call(Global("torch._utils._rebuild_qtensor"), arguments)


AFFINE = (Global("torch.per_tensor_affine"), 0.1, 0)
BY_CHANNEL = Global("torch.per_channel_affine")
SIZE = Global("torch.Size")
PLAIN = "torch.Tensor"
FROM_NUMPY = "torch._utils._rebuild_device_tensor_from_numpy"
DATA_OF = "torch._utils._rebuild_device_tensor_from_cpu_tensor"


def many_calls(name: str, argument: bytes, count: int = 5000) -> Raw:
    """A call of one name with one argument that stands in the file once, again and again."""
    again = b"h\x01h\x02R"
    return Raw(b"](" + code(Global(name)) + b"q\x01" + argument + b"q\x02R" + again * count + b"e")


def long_list(count: int) -> bytes:
    return b"](" + b"".join(map(code, range(count))) + b"e"


LONG_TEXT = code("x" * 50_000) + code("latin1") + b"\x86"
CALLS: dict[str, Any] = {
    "many sets of one list": weights(many_calls("builtins.set", long_list(9000) + b"\x85")),
    "many counters of one list": weights(many_calls("collections.Counter", long_list(9000) + b"\x85")),
    "many byte arrays of one text": weights(many_calls("builtins.bytearray", LONG_TEXT)),
    "many codes of one text": weights(many_calls("_codecs.encode", LONG_TEXT)),
    "many sizes of one tuple": weights(many_calls("torch.Size", b"(" + b"K\x01" * 50_000 + b"t\x85")),
    "many states of one dict": weights(
        Raw(b"](}(" + b"".join(code(f"{i}") + b"N" for i in range(3000)) + b"uq\x02"
            + (code(DICT) + b"h\x02b") * 5000 + b"e")
    ),
    "bytes of 10 GB": weights(Call(Global("builtins.bytearray"), (10**10,))),
    "bytes of a bool": weights(Call(Global("builtins.bytearray"), (True,))),
    "bytes of a list": weights(Call(Global("builtins.bytearray"), ([1] * 9,))),
    "storage that is called": weights(Call(Global("torch.FloatStorage"), (10**10,))),
    "untyped storage that is called": weights(Call(Global("torch.storage.UntypedStorage"), (10**10,))),
    "typed storage that is called": weights(Call(Global("torch.storage.TypedStorage"), (10**10,))),
    "tensor that is called": weights(Call(Global("torch.Tensor"), (10**10,))),
    "float tensor that is called": weights(Call(Global("torch.FloatTensor"), (10**10,))),
    "sparse tensor that is called": weights(Call(Global("torch.sparse.FloatTensor"), (1, 2))),
    "tensor that is new": weights(New(Global("torch.Tensor"), (10**10,))),
    "sparse tensor that is new": weights(New(Global("torch.sparse.FloatTensor"), ())),
    "parameter that is new": weights(New(Global("torch.nn.parameter.Parameter"), ())),
    "size of text": weights(Call(SIZE, ("x" * 100,))),
    "size of a tensor": weights(Call(SIZE, (tensor(),))),
    "set of a repeated tensor": weights(Call(Global("builtins.set"), (tensor((10**9,), (0,)),))),
    "set of a number": weights(Call(Global("builtins.set"), (3,))),
    "counter of a number": weights(Call(Global("collections.Counter"), (10**9,))),
    "codec of a stranger": weights(Call(Global("_codecs.encode"), ("x", "stranger"))),
    "codec that compresses": weights(Call(Global("_codecs.encode"), ("x", "zip"))),
    "codec that takes long": weights(Call(Global("_codecs.encode"), ("ä" * 100_000, "idna"))),
    "device of a stranger": weights(Call(Global("torch.device"), (DICT,))),
    "call of a number": weights(Call(3, ())),
    "call of a tuple": weights(Call((1, 2), ())),
    "call of a result": weights(Call(DICT, ())),
    "call without a tuple": weights(Call(Global("builtins.set"), 3)),
    "dtype that is called": weights(Call(Global("torch.float32"), ())),
    "state of a tensor": weights(State(tensor(), (storage(), 0, (10**9,), (1,)))),
    "state of a set": weights(State(Call(Global("builtins.set"), ([1],)), {"a": 1})),
    "state of a number": weights(State(1, {"a": 1})),
    "dict whose items are hidden": State(Items(DICT, {"0.weight": tensor()}), {"items": 3, "get": 3}),
    "dict whose values are hidden": State(Items(DICT, {"0.weight": tensor()}), {"values": 3}),
    "dict with a state that is none": State(Items(DICT, {"0.weight": tensor()}), 3),
    "more elements than stored": as_weight(tensor((4, 4), (4, 1))),
    "a billion elements": as_weight(tensor((10**9,), (1,))),
    "behind the end": as_weight(tensor(offset=1)),
    "far behind the end": as_weight(tensor(offset=2**62)),
    "before the begin": as_weight(tensor(offset=-1)),
    "stride of -1": as_weight(tensor(stride=(3, -1))),
    "size of -1": as_weight(tensor((-4, 3))),
    "size of 2^63": as_weight(tensor((2**63, 1), (1, 1))),
    "size of 2^70": as_weight(tensor((2**70,), (0,))),
    "size of floats": as_weight(tensor((4.0, 3.0))),
    "size that is none": as_weight(tensor(None)),
    "fewer strides": as_weight(tensor((4, 3), (1,))),
    "tensor of no storage": as_weight(tensor(of=3)),
    "tensor of a tensor": as_weight(tensor(of=tensor())),
    "tensor of nothing": as_weight(Call(Global("torch._utils._rebuild_tensor_v2"), ())),
    "storage larger than its record": as_weight(tensor((100,), (1,), of=storage(count=100))),
    "storage of 2^60": as_weight(tensor((2**60,), (1,), of=storage(count=2**60))),
    "storage of -1": as_weight(tensor(of=storage(count=-1))),
    "storage in two sizes": {"a": tensor((1,), (1,), of=storage(count=1)), "0.weight": tensor()},
    "storage that is missing": as_weight(tensor(of=storage("7"))),
    "storage elsewhere": as_weight(tensor(of=storage("../../x.pt"))),
    "storage with no key": as_weight(tensor(of=Persistent(("storage", Global("torch.FloatStorage"), 3, "cpu", 12)))),
    "storage of a strange kind": as_weight(tensor(of=storage(kind="os.system"))),
    "storage of text": as_weight(tensor(of=Persistent(("storage", "torch.FloatStorage", "0", "cpu", 12)))),
    "no storage": as_weight(tensor(of=Persistent(("module", Global("os.system"), "x", "y")))),
    "persistent number": as_weight(tensor(of=Persistent(7))),
    "views a storage as doubles": as_weight(tensor(of=storage(kind="torch.DoubleStorage"))),
    "dtype wider than its storage": as_weight(
        Call(Global("torch._utils._rebuild_tensor_v3"), (*tensor().arguments, Global("torch.float64")))
    ),
    "dtype that is none": as_weight(Call(Global("torch._utils._rebuild_tensor_v3"), (*tensor().arguments, 3))),
    "quantised beyond its storage": as_weight(quantised((100, 3), (3, 1), AFFINE)),
    "quantised repeated": as_weight(quantised((10**9, 3), (0, 0), AFFINE)),
    "attribute data": as_weight(parameter({"data": tensor((1,), (1,))})),
    "attribute grad": as_weight(parameter({"grad": tensor()})),
    "attribute class": as_weight(typed(PLAIN, {"__class__": Global("torch.nn.parameter.Parameter")})),
    "attribute dict": as_weight(typed(PLAIN, {"__dict__": {}})),
    "attributes in slots": as_weight(typed(PLAIN, (None, {"data": tensor((1,), (1,))}))),
    "attributes that are none": as_weight(typed(PLAIN, 3)),
    "type of a stranger": as_weight(typed("torch.nn.parameter.UninitializedParameter", {})),
    "function of a stranger": as_weight(typed(PLAIN, {}, "builtins.bytearray")),
    "parameter of a number": as_weight(Call(Global("torch._utils._rebuild_parameter"), (3, True, DICT))),
    "nested": as_weight(Call(Global("torch._utils._rebuild_nested_tensor"), (tensor(), tensor(), tensor(), tensor()))),
    "wrapper subclass": as_weight(Call(Global("torch._utils._rebuild_wrapper_subclass"), (Global(PLAIN),) * 8)),
    "from numpy": as_weight(Call(Global(FROM_NUMPY), (tensor(), 1, "cpu", False))),
    "repeated on a device": as_weight(
        Call(Global(DATA_OF), (tensor((10**9,), (0,)), Global("torch.float64"), "cpu", False))
    ),
    "key that is a bomb": Raw(b"}" + bomb(40).code + b"K\x01s"),
    "set of a bomb": weights(Call(Global("builtins.set"), ([bomb(40)],))),
    "counter of a bomb": weights(Call(Global("collections.Counter"), (bomb(40),))),
    "dict made of a bomb": weights(Call(Global("collections.OrderedDict"), ([(bomb(40), 1)],))),
    "keys with one hash": weights(same_hash(5000)),
    "tuples with one hash": weights(same_hash(5000, lambda i: code(i * SAME) + b"\x85")),
    "complex numbers with one hash": weights(same_hash(5000, lambda i: complex_number(-1_000_003 * i, i))),
    "set with one hash": weights(Call(Global("builtins.set"), ([i * SAME for i in range(300)],))),
    "dict of pairs with one hash": weights(DICT_OF_PAIRS),
    "quantised without a scale": as_weight(
        Call(
            Global("torch._utils._rebuild_tensor_v2"),
            (storage(count=12, kind="torch.QInt8Storage"), 0, (4, 3), (3, 1), False, DICT),
        )
    ),
    "key that is deep": Raw(b"}" + deep(300_000, b")", b"\x85").code + b"K\x01s"),
    "key that is a list": Raw(b"}]K\x01s"),
    "name that is a tuple": {"0.weight": tensor(), (1, 2): tensor()},
    "name whose text is long": Raw(b"}" + bomb(17).code + code(tensor()) + b"s"),
    "memo at 2^31": Raw(b"}r" + struct.pack("<I", 2**31)),
    "memo at 2^32": Raw(b"}r" + struct.pack("<I", 2**32 - 1)),
    "memo that is empty": Raw(b"}h\x07"),
    "many sets": Raw(b"(" + b"\x8f" * 400_000 + b"t"),
    "many dicts": Raw(b"(" + b"}" * 900_000 + b"t"),
    "many marks": Raw(b"(" * 900_000),
    "many puts": Raw(b"}" + b"".join(b"r" + struct.pack("<I", i) for i in range(750_000))),
    "end of no mark": Raw(b"t"),
    "tuple of nothing": Raw(b"\x87"),
    "text longer than the file": Raw(b"X\xff\xff\xff\x7fabc"),
    "text that is no utf-8": Raw(b"X\x02\x00\x00\x00\xff\xff"),
    "a number without digits": Raw(b"I\n"),
    "operand of protocol 5": Raw(b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "extension code": Raw(b"\x82\x01"),
    "instance of protocol 0": Raw(b"(ios\nsystem\n"),
    "no pickle": Raw(b"\xff\xff"),
    "a name of a megabyte": Raw(b"c" + b"a" * 10**6 + b"\nb\n"),
    "a name that steers a terminal": Raw(b"c\x1b[2J\x1b]0;x\x07\nb\n"),
    "a name without an end": Raw(b"cabc"),
    "ten thousand names": Raw(b"(" + b"".join(b"ca%d\nb\n" % i for i in range(10**4)) + b"t"),
    "dict within itself": Raw(b"}q\x00X\x05\x00\x00\x00modelh\x00s"),
    "a list as deep as it is long": Raw(b"]" * 200_000 + b"a" * 199_999),
    "keys of a megabyte": {"x" * 10**6: 1, "y" * 10**6: 2},
    "keys that steer a terminal": {"\x1b[2J" * 50: 1, "\r\n\0": 2},
    "nothing": {},
    "no tensors": {"a": 1},
    "a number": 3,
}  # fmt: skip


def sparse(kind: str, *parts: Any) -> dict[str, torch.Tensor]:
    if kind == "coo":
        made = torch.sparse_coo_tensor(*parts, check_invariants=False)
    else:
        made = torch.sparse_compressed_tensor(*parts, layout=getattr(torch, f"sparse_{kind}"), check_invariants=False)
    return {"0.weight": made}


def longs(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long)


ONE = torch.ones(1)
FULL = torch.ones(1, 1, 1)
SHAPE = (4, 3)
SPARSE: dict[str, Callable[[], Any]] = {
    "row 5 of 4": lambda: sparse("coo", longs([5], [2]), ONE, SHAPE),
    "row 10^9": lambda: sparse("coo", longs([10**9], [2]), ONE, SHAPE),
    "row -1": lambda: sparse("coo", longs([-1], [2]), ONE, SHAPE),
    "row -10^12": lambda: sparse("coo", longs([-(10**12)], [2]), ONE, SHAPE),
    "column 3 of 3": lambda: sparse("coo", longs([0], [3]), ONE, SHAPE),
    "rows of whole lines": lambda: sparse("coo", longs([4]), torch.ones(1, 3), SHAPE),
    "30000 x 30000": lambda: sparse("coo", longs([1], [1]), ONE, (30000, 30000)),
    "2^31 x 2^31": lambda: sparse("coo", longs([1], [1]), ONE, (2**31, 2**31)),
    "many large": lambda: {f"{i}": sparse("coo", longs([1], [1]), ONE, (1500, 1500))["0.weight"] for i in range(40)},
    "csr column 10^9": lambda: sparse("csr", longs(0, 1, 1, 1, 1), longs(10**9), ONE, SHAPE),
    "csr column -1": lambda: sparse("csr", longs(0, 1, 1, 1, 1), longs(-1), ONE, SHAPE),
    "csr rows that fall": lambda: sparse("csr", longs(0, 10**9, 1, 1, 1), longs(0), ONE, SHAPE),
    "csr rows that end late": lambda: sparse("csr", longs(0, 0, 0, 0, 10**9), longs(0), ONE, SHAPE),
    "csr rows that begin late": lambda: sparse("csr", longs(1, 1, 1, 1, 1), longs(0), ONE, SHAPE),
    "entries that repeat one": lambda: sparse("coo", longs([0], [0]).expand(2, 10**10), ONE.expand(10**10), SHAPE),
    "csr rows that repeat one": lambda: sparse("csr", longs(0).expand(10**9), longs(), torch.ones(0), (10**9 - 1, 3)),
    "csr 50000 x 50000": lambda: sparse(
        "csr", torch.zeros(50001, dtype=torch.long), longs(), torch.ones(0), (50000,) * 2
    ),
    "csr row of too many": lambda: sparse("csr", longs(0, 4, 4, 4, 4), longs(0, 1, 2, 0), torch.ones(4), SHAPE),
    "csc row 10^9": lambda: sparse("csc", longs(0, 1, 1, 1), longs(10**9), ONE, SHAPE),
    "csc columns that fall": lambda: sparse("csc", longs(0, 7, 1, 1), longs(0), ONE, SHAPE),
    "bsr column 10^9": lambda: sparse("bsr", longs(0, 1, 1, 1, 1), longs(10**9), FULL, SHAPE),
    "bsc row 10^9": lambda: sparse("bsc", longs(0, 1, 1, 1), longs(10**9), FULL, SHAPE),
    "bsr rows that fall": lambda: sparse("bsr", longs(0, 9, 1, 1, 1), longs(0), FULL, SHAPE),
    "nested": lambda: {"0.weight": torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)])},
    "meta": lambda: {"0.weight": torch.zeros(4, 3, device="meta")},
    "repeated 10^8": lambda: {"0.weight": torch.zeros(1, dtype=torch.double).expand(10**8, 3)},
    "repeated within": lambda: {"0.weight": torch.zeros(3).as_strided((10**8, 3), (0, 1))},
    "overlapping": lambda: {"0.weight": torch.zeros(20_000).as_strided((10_000, 10_000), (1, 1))},
    "many repeated": lambda: {f"{i}": torch.zeros(1).expand(10**6) for i in range(50)},
    "a whole module": lambda: nn.Linear(3, 4),
    "a list": lambda: [torch.zeros(3)],
    "a tensor": lambda: torch.zeros(4, 3),
    "a lazy parameter": lambda: nn.LazyLinear(4).state_dict(),
}


def shadowed(**attributes: Any) -> Callable[[], Any]:
    def make() -> Any:
        weight = nn.Parameter(torch.zeros(4, 3), requires_grad=bool(attributes.pop("trained", True)))
        for name, value in attributes.items():
            setattr(weight, name, value)
        return {"0.weight": weight}

    return make


LOADED: dict[str, Callable[[], Any]] = {  # nothing is wrong with these
    "full_tensor": shadowed(full_tensor=3, trained=False),
    "detach": shadowed(detach=True),
    "to and float": shadowed(to=None, float="x", numel=7, clone=0, dim=9),
    "to_dense": shadowed(to_dense=3, is_contiguous=False, size=(1, 2), stride=7),
    "own attribute": shadowed(comment="mine"),
    "sparse": lambda: sparse("coo", longs([3], [2]), ONE, SHAPE),
    "csr": lambda: sparse("csr", longs(0, 1, 1, 1, 1), longs(2), ONE, SHAPE),
    "bsr": lambda: sparse("bsr", longs(0, 1, 1), longs(2), torch.ones(1, 2, 1), SHAPE),
    "quantised": lambda: {"0.weight": torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8)},
    "quantised by channel": lambda: {
        "0.weight": torch.quantize_per_channel(torch.ones(4, 3), torch.ones(4), torch.zeros(4), 0, torch.qint8)
    },
    "repeated": lambda: {"0.weight": torch.zeros(1, 3).expand(4, 3)},
    "transposed": lambda: {"0.weight": torch.zeros(3, 4).T},
    "conjugate": lambda: {"0.weight": torch.zeros(4, 3, dtype=torch.complex64).conj()},
    "bytes and sets": lambda: {"0.weight": torch.zeros(4, 3), "x": [bytearray(b"abc"), b"abc", {1, 2}, 1 + 2j]},
    "numbers and tuples as keys": lambda: {
        "0.weight": torch.zeros(4, 3),
        "x": {**{(i, i + 1): i for i in range(500)}, **{2.0**i: i for i in range(500)}},
    },
    "a tuple of tuples": lambda: {"0.weight": torch.zeros(4, 3), "x": {((1, 2), (3, 4)): ((),) * 9}},
}


def saved(make: Callable[[], Any], *, new: bool = True) -> Write:
    def write(folder: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that sparse, nested and quantised tensors may change
            torch.save(make(), folder / "x.pt", _use_new_zipfile_serialization=new)
        return folder / "x.pt"

    return write


def of_zip(value: Any) -> Write:
    return lambda folder: zipped(folder, value)


def of_old(value: Any) -> Write:
    return lambda folder: old(folder, value)


OLD: dict[str, Write] = {
    "storage of 10 GB": lambda folder: old(folder, {"0.weight": tensor((10**9,), (1,), of=old_storage(count=10**9))}),
    "storage never read": lambda folder: old(folder, {"0.weight": tensor(of=old_storage())}, keys=()),
    "storage of no tensor": lambda folder: old(folder, {"0.weight": tensor(of=old_storage())}, keys=("0", "1")),
    "storage cut off": lambda folder: old(folder, {"0.weight": tensor(of=old_storage())}, data=b"\x0c" + bytes(20)),
    "storage of another size": lambda folder: old(
        folder, {"0.weight": tensor(of=old_storage())}, data=struct.pack("<q", 2**40) + bytes(48)
    ),
    "part beyond its storage": lambda folder: old(folder, {"0.weight": tensor(of=old_storage(view=("v", 6, 12)))}),
    "part before its storage": lambda folder: old(folder, {"0.weight": tensor(of=old_storage(view=("v", -6, 12)))}),
    "keys that are a bomb": lambda folder: old(folder, {"0.weight": tensor(of=old_storage())}, keys=b"\x80\x02K\x01."),
}

REFUSED: dict[str, Write] = {
    **{f"name {name}": of_zip(weights(Call(Global(name), given))) for name, given in STRANGERS.items()},
    **{f"old name {name}": of_old({"x": Call(Global(name), given)}) for name, given in STRANGERS.items()},
    **{f"pickle: {name}": of_zip(value) for name, value in CALLS.items()},
    **{f"old: {name}": write for name, write in OLD.items()},
    **{f"tensor: {name}": saved(make) for name, make in SPARSE.items()},
    **{
        f"old tensor: {name}": saved(SPARSE[name], new=False) for name in ("row 10^9", "30000 x 30000", "repeated 10^8")
    },
}
LOADS: dict[str, Write] = {
    **{f"tensor: {name}": saved(make) for name, make in LOADED.items()},
    **{f"old tensor: {name}": saved(LOADED[name], new=False) for name in ("detach", "sparse", "repeated")},
}
EITHER: dict[str, Write] = {
    "pickle: a thousand dimensions": of_zip(as_weight(tensor((1,) * 1000, (0,) * 1000))),
    "pickle: attribute names": of_zip(as_weight(typed(PLAIN, {"names": ("a", "b")}))),
    "pickle: value that is a bomb": of_zip(weights(bomb(40))),
    "pickle: conjugate of a real": of_zip(
        as_weight(Call(Global("torch._utils._rebuild_tensor_v2"), (*tensor().arguments, {"conj": True})))
    ),
    "pickle: channels of no axis": of_zip(
        as_weight(quantised((4, 3), (3, 1), (BY_CHANNEL, tensor(), tensor(), 10**9)))
    ),
    "pickle: channels of too few": of_zip(
        as_weight(quantised((4, 3), (3, 1), (BY_CHANNEL, tensor((1,), (1,)), tensor((1,), (1,)), 0)))
    ),
}
