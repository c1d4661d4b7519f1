"""What a pickle would do, without doing it: its opcodes followed on symbols, in time linear in its length.

An unpickler that refuses to run code can still be kept busy for ever, or made to fill the memory, by some hundred
bytes: a tuple that holds one tuple twice, forty times over, has a hash of 2^40 steps; an empty set is one byte in the
file and 216 in memory; an index of the memo can be any number; and multiples of 2^61 - 1 all have the same hash, so
that a dict of them is built in quadratic time. Here each of these is an error before anything is built.

    symbol    of
    atoms     numbers, text, bytes, None: themselves
    tuple     a tuple
    Items     a list, a set, or a dict as keys and values in turn
    Name      a class or function that the file names; it is not imported
    Built     what a call would give: the function, its arguments, and states that were set later
    Stored    what a persistent id stands for

Every symbol is created once however often it is used, so the walk over what a hash would visit is bounded by a budget
and not by a recursion.
"""

from __future__ import annotations

import pickletools
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any

from lightning_autoarch.errors import CheckpointError, shown

BYTES = 40 << 20  # of memory that any pickle may take
BYTES_TIMES = 4  # the size of its file, beyond
HASHES = 1_000_000  # symbols that any pickle may have hashed
HASHES_TIMES = 8  # the size of its file, beyond
DEPTH = 100  # of tuples within a key: a hash is a recursion
SAME_HASH = 200  # keys of one container that may have the same hash: each is compared with all before it

ATOMS = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "SHORT_BINSTRING", "BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
})  # fmt: skip
OF_TORCH = frozenset({
    "PROTO", "STOP", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MARK", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET",
    "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID", "BINGET", "LONG_BINGET",
    "BINPUT", "LONG_BINPUT", "LONG1",
})  # fmt: skip
ANY = OF_TORCH | ATOMS | {"FRAME", "MEMOIZE", "STACK_GLOBAL", "NEWOBJ_EX", "ADDITEMS", "FROZENSET", "POP", "POP_MARK"}
COSTS = {  # bytes of memory, roughly, where they are many more than those in the file
    "EMPTY_SET": 216, "FROZENSET": 216, "EMPTY_DICT": 64, "EMPTY_LIST": 64, "MARK": 64, "TUPLE": 56, "TUPLE1": 48,
    "TUPLE2": 56, "TUPLE3": 64, "REDUCE": 200, "NEWOBJ": 200, "NEWOBJ_EX": 200, "BINPERSID": 100, "GLOBAL": 100,
    "STACK_GLOBAL": 100,
}  # fmt: skip


class Items(list[Any]):
    """A list, a set, or a dict as keys and values in turn.

    Attributes:
        hashes: how many keys have which hash; set with the first key whose hash others can share.
    """

    __slots__ = ("hashes",)
    hashes: Counter[int]


@dataclass(slots=True, eq=False)
class Name:
    """A class or function, as `module.name`."""

    full: str


@dataclass(slots=True, eq=False)
class Built:
    """What a call gives."""

    function: Any
    arguments: Any
    states: list[Any] = field(default_factory=list)
    hashes: Counter[int] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Of the function that was called; empty where that is none."""
        return self.function.full if isinstance(self.function, Name) else ""


@dataclass(slots=True, eq=False)
class Stored:
    """Bytes that lie in the file."""

    key: str
    size: int
    itemsize: int
    quantised: bool = False


class Machine:
    """Follows the opcodes of a pickle.

    Args:
        origin: the file, for errors.
        size: of the file, in bytes, to which memory and time are in proportion.
        opcodes: names of those that may stand in it.
        called: is given what each call would give, to object to it.
        state_set: is given an object and the state that is set on it.
        stored: what a persistent id stands for; None where there may be none.
    """

    def __init__(
        self,
        origin: str,
        size: int,
        *,
        opcodes: frozenset[str] = ANY,
        called: Callable[[Built], None] | None = None,
        state_set: Callable[[Any, Any], None] | None = None,
        stored: Callable[[Any], Stored] | None = None,
    ) -> None:
        self.names: dict[str, Name] = {}  # all that were named, in the order of the file
        self._origin = origin
        self._opcodes = opcodes
        self._called = called
        self._state_set = state_set
        self._stored = stored
        self._bytes = BYTES + BYTES_TIMES * size
        self._hashes = HASHES + HASHES_TIMES * size

    def follow(self, file: IO[bytes]) -> Any:
        """The symbol that one pickle ends with; the file is then behind it.

        Raises:
            CheckpointError: a broken pickle, an opcode that may not be there, or more of anything than it is large.
        """
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self._spend(COSTS.get(opcode.name, 8))
                if opcode.name not in self._opcodes:
                    raise CheckpointError(
                        f"Expected a file of torch.save, got {self._origin}, a pickle as it writes none "
                        f"(it has the operand {ord(opcode.code)})."
                    )
                self._step(opcode.name, argument)
            return self._stack.pop()
        except (ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError) as error:
            raise CheckpointError(
                f"Expected a whole pickle in {self._origin}, which is broken or not one: {shown(str(error), 200)}."
            ) from error

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ATOMS:
            self._spend(sys.getsizeof(argument))
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._remember(len(self._memo) if argument is None else argument)
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name == "MARK":
            self._marks.append(stack)
            self._stack = []
        elif name.startswith("TUPLE"):
            self._tuple(name)
        elif name.startswith("EMPTY"):
            stack.append(() if name == "EMPTY_TUPLE" else Items())
        elif name not in ("PROTO", "FRAME", "STOP"):
            getattr(self, f"_{name.lower()}")(argument)

    def _spend(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise CheckpointError(
                f"Expected objects in proportion to the size of {self._origin}, got many more: not loaded."
            )

    def _hash(self, value: Any) -> None:
        """Objects to a value whose hash takes too long, or too deep a recursion."""
        todo = [(value, 0)]
        while todo:
            symbol, depth = todo.pop()
            self._hashes -= 1
            if self._hashes < 0 or depth > DEPTH:
                raise CheckpointError(f"Expected plain keys in {self._origin}, got tuples nested without end.")
            if isinstance(symbol, tuple | Items):
                todo += [(part, depth + 1) for part in symbol if not isinstance(part, str)]
                self._hashes -= len(symbol)
            elif isinstance(symbol, Built):
                todo += [(part, depth + 1) for part in (symbol.arguments, *symbol.states)]

    def _check_hashes(self, holder: Items | Built, keys: Iterable[Any]) -> None:
        """Objects to many keys with one hash in one container. Those of text and bytes are random in each process."""
        for key in keys:
            if isinstance(key, str | bytes) or (isinstance(key, int) and abs(key) < sys.hash_info.modulus):
                continue
            if isinstance(holder, Items) and not hasattr(holder, "hashes"):
                holder.hashes = Counter()
            hashed = _hash_of(key)
            holder.hashes[hashed] += 1
            if holder.hashes[hashed] > SAME_HASH:
                raise CheckpointError(
                    f"Expected plain keys in {self._origin}, got many with the same hash: not loaded."
                )

    def _remember(self, index: int) -> None:
        if index > 2 * len(self._memo) + 1000:  # an unpickler in C has a table up to there
            raise CheckpointError(f"Expected a memo without gaps in {self._origin}, got the index {shown(index)}.")
        if index not in self._memo:
            self._spend(104)
        self._memo[index] = self._stack[-1]

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        self._spend(8 * len(items))
        return items

    def _tuple(self, name: str) -> None:
        if name == "TUPLE":
            items = tuple(self._since_mark())
            self._stack.append(items)
            return
        count = int(name[-1])
        if len(self._stack) < count:
            raise IndexError("a tuple of more than there is")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _add(self, items: list[Any], *, hashed: int) -> None:
        """Put items into what is on top; every `hashed`-th of them is hashed, none for 0."""
        target = self._stack[-1]
        if hashed:
            keys = [key for key in items[::hashed] if not isinstance(key, str)]
            for key in keys:
                self._hash(key)
            if isinstance(target, Items | Built):
                self._check_hashes(target, keys)
        if isinstance(target, Items):
            target += items
        elif isinstance(target, Built):
            target.states += items
        else:
            raise TypeError("items of what holds none")

    def _append(self, _: Any) -> None:
        item = self._stack.pop()
        self._add([item], hashed=0)

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        self._add(items, hashed=0)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._spend(64)
        self._add([key, value], hashed=2)

    def _setitems(self, _: Any) -> None:
        items = self._since_mark()
        self._spend(32 * len(items))
        self._add(items, hashed=2)

    def _additems(self, _: Any) -> None:
        items = self._since_mark()
        self._spend(64 * len(items))
        self._add(items, hashed=1)

    def _frozenset(self, _: Any) -> None:
        items = self._since_mark()
        self._spend(64 * len(items))
        self._stack.append(Items())
        self._add(items, hashed=1)

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._named(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no text")
        self._named(module, name)

    def _named(self, module: str, name: str) -> None:
        if (module, name) in NAME_MAPPING:  # of Python 2
            module, name = NAME_MAPPING[module, name]
        full = f"{IMPORT_MAPPING.get(module, module)}.{name}"
        self._spend(len(full))
        self._stack.append(self.names.setdefault(full, Name(full)))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments)

    def _newobj(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments)

    def _newobj_ex(self, _: Any) -> None:
        keywords, arguments, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._hash(keywords)
        self._call(function, arguments)

    def _call(self, function: Any, arguments: Any) -> None:
        built = Built(function, arguments)
        if self._called is not None:
            self._called(built)
        self._hash(arguments)  # a set, a counter, a dict are made of them
        for part in arguments if isinstance(arguments, tuple) else ():
            if isinstance(part, Items):
                self._check_hashes(built, (item for item in part if not isinstance(item, Items)))
                self._check_hashes(built, (item[0] for item in part if isinstance(item, tuple | Items) and item))
        self._stack.append(built)

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if self._state_set is not None:
            self._state_set(target, state)
        if isinstance(target, Built):
            target.states.append(state)

    def _binpersid(self, _: Any) -> None:
        identity = self._stack.pop()
        if self._stored is None:
            raise TypeError("a persistent id, which means nothing here")
        self._stack.append(self._stored(identity))


def _hash_of(symbol: Any) -> int:
    """The hash of what a symbol stands for, as far as others can be made to share it."""
    if isinstance(symbol, Built) and symbol.name == "builtins.complex":
        return 0  # of two numbers, which can be chosen so that any hash comes out
    if isinstance(symbol, Built) and symbol.name == "torch.Size":
        return _hash_of(symbol.arguments)
    if isinstance(symbol, tuple):
        return hash(tuple(map(_hash_of, symbol)))
    return 0 if isinstance(symbol, Items) else hash(symbol)
