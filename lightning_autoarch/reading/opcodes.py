"""What a pickle would do, without doing it: its opcodes followed on symbols, in time linear in its length.

What they would take is counted (`budget`). Every symbol is made once, however often it is used (`symbols`), so the walk
over what a hash would visit is bounded by a budget and not by a recursion. The memo of the pickle is a list here: an
unpickler in C has a table up to the largest index, which may be any number.
"""

from __future__ import annotations

import pickletools
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import IO, Any

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.budget import Budget, table_room
from lightning_autoarch.reading.symbols import PER_ITEM, Built, Items, Name, Stored, copied_bytes

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
COSTS = {  # bytes of memory of what an opcode makes, its items aside
    "EMPTY_SET": 216, "FROZENSET": 216, "EMPTY_DICT": 80, "EMPTY_LIST": 80, "TUPLE": 48, "TUPLE1": 48, "TUPLE2": 64,
    "TUPLE3": 64, "NEWOBJ": 200, "NEWOBJ_EX": 200, "REDUCE": 200,
}  # fmt: skip
SLOT = 9  # bytes of a place on the stack or in a list, which grows by an eighth
ON_MARK = 90  # bytes of a stack that was put aside
INDEX = 32  # bytes of the number of a place in the memo
GAP = 1000  # places that a memo may leave out at its begin: some picklers number from 1
MISSING = object()  # a place in the memo that was left out


class Machine:
    """Follows the opcodes of a pickle.

    Args:
        origin: the file, for errors.
        budget: what its pickles may take.
        opcodes: names of those that may stand in it.
        called: is given what each call would give, to object to it.
        state_set: is given an object and the state that is set on it.
        stored: what a persistent id stands for; None where there may be none.
    """

    def __init__(
        self,
        origin: str,
        budget: Budget,
        *,
        opcodes: frozenset[str] = ANY,
        called: Callable[[Built], None] | None = None,
        state_set: Callable[[Any, Any], None] | None = None,
        stored: Callable[[Any], Stored] | None = None,
    ) -> None:
        self.names: dict[str, Name] = {}  # all that were named, in the order of the file
        self._origin = origin
        self._budget = budget
        self._called = called
        self._state_set = state_set
        self._stored = stored
        self._steps = {name: (COSTS.get(name, 0), self._step_of(name)) for name in opcodes}

    def follow(self, file: IO[bytes]) -> Any:
        """The symbol that one pickle ends with; the file is then behind it.

        Raises:
            CheckpointError: a broken pickle, an opcode that may not be there, or more of anything than it is large.
        """
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: list[Any] = []
        self._room = 0  # in the table that an unpickler's memo has
        self._below = 0  # symbols in the stacks that were put aside
        self._highest = 0  # of all symbols on stacks
        self._most_marks = 0
        try:
            return self._followed(file)
        except (ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError) as error:
            raise CheckpointError(
                f"Expected a whole pickle in {self._origin}, which is broken or not one: {shown(str(error), 200)}."
            ) from error
        finally:
            self._stack, self._marks, self._memo = [], [], []

    def _followed(self, file: IO[bytes]) -> Any:
        steps, spend = self._steps, self._budget.spend
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name not in steps:
                raise CheckpointError(
                    f"Expected a file of torch.save, got {self._origin}, a pickle as it writes none "
                    f"(it has the operand {ord(opcode.code)})."
                )
            cost, step = steps[opcode.name]
            if cost:
                spend(cost)
            step(argument)
            height = len(self._stack) + self._below
            if height > self._highest:
                spend(SLOT * (height - self._highest))
                self._highest = height
        return self._stack.pop()

    def _step_of(self, name: str) -> Callable[[Any], None]:
        if name in ATOMS:
            return self._atom
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            return self._remember
        if name in ("BINGET", "LONG_BINGET"):
            return self._recall
        if name in CONSTANTS:
            constant = CONSTANTS[name]
            return lambda _: self._stack.append(constant)
        if name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            return lambda _: self._stack.append(Items())
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            return lambda _: self._tuple_of(count)
        if name in ("PROTO", "FRAME", "STOP"):
            return lambda _: None
        step: Callable[[Any], None] = getattr(self, f"_{name.lower()}")
        return step

    def _atom(self, value: object) -> None:
        if type(value) is not int or not 0 <= value <= 256:
            self._budget.spend(sys.getsizeof(value))
        self._stack.append(value)

    def _remember(self, index: int | None) -> None:
        count = len(self._memo)
        index = count if index is None else index
        if index > 2 * count + GAP:
            raise CheckpointError(f"Expected a memo without gaps in {self._origin}, got the index {shown(index)}.")
        if index >= count:
            new = index + 1 - count
            self._budget.spend(INDEX * new)
            if index >= self._room:
                self._budget.grow(count, index + 1)
                self._room = table_room(index + 1)
            self._memo += [MISSING] * new
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        if self._memo[index] is MISSING:
            raise KeyError(index)
        self._stack.append(self._memo[index])

    def _mark(self, _: object) -> None:
        self._marks.append(self._stack)
        self._below += len(self._stack)
        self._stack = []
        if len(self._marks) > self._most_marks:
            self._budget.spend(ON_MARK)
            self._most_marks += 1

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        self._below -= len(self._stack)
        return items

    def _tuple(self, _: object) -> None:
        items = tuple(self._since_mark())
        self._budget.spend(8 * len(items))
        self._stack.append(items)

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("a tuple of more than there is")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _add(self, items: list[Any], *, hashed: int) -> None:
        """Put items into what is on top; every `hashed`-th of them is hashed, none for 0."""
        target = self._stack[-1]
        if hashed:
            keys = [key for key in items[::hashed] if not isinstance(key, str)]
            for key in keys:
                self._budget.check_hash(key)
            if isinstance(target, Items | Built):
                self._budget.check_keys(target, keys)
        if isinstance(target, Items):
            target += items
        elif isinstance(target, Built):
            target.add(items)
        else:
            raise TypeError("items of what holds none")

    def _append(self, _: object) -> None:
        item = self._stack.pop()
        self._budget.spend(SLOT)
        self._add([item], hashed=0)

    def _appends(self, _: object) -> None:
        items = self._since_mark()
        self._budget.spend(SLOT * len(items))
        self._add(items, hashed=0)

    def _setitem(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self, _: object) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target, new = self._stack[-1], len(items) // 2
        before = len(target) // 2 if isinstance(target, Items) else 0
        ordered = PER_ITEM * new if isinstance(target, Built) else 0
        self._budget.grow(before, before + new)
        self._budget.spend(ordered)
        self._add(items, hashed=2)

    def _additems(self, _: object) -> None:
        items = self._since_mark()
        self._budget.spend(PER_ITEM * len(items))
        self._add(items, hashed=1)

    def _frozenset(self, _: object) -> None:
        items = self._since_mark()
        self._budget.spend(PER_ITEM * len(items))
        self._stack.append(Items())
        self._add(items, hashed=1)

    def _pop(self, _: object) -> None:
        self._stack.pop()

    def _pop_mark(self, _: object) -> None:
        self._since_mark()

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._named(module, name)

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no text")
        self._named(module, name)

    def _named(self, module: str, name: str) -> None:
        if (module, name) in NAME_MAPPING:  # of Python 2
            module, name = NAME_MAPPING[module, name]
        full = f"{IMPORT_MAPPING.get(module, module)}.{name}"
        if full not in self.names:
            self._budget.spend(len(full) + 100)
        self._stack.append(self.names.setdefault(full, Name(full)))

    def _reduce(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments)

    def _newobj(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments)

    def _newobj_ex(self, _: object) -> None:
        keywords, arguments, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._budget.check_hash(keywords)
        self._call(function, arguments)

    def _call(self, function: Any, arguments: Any) -> None:
        built = Built(function, arguments)
        if self._called is not None:
            self._called(built)
        self._budget.check_hash(arguments)  # a set, a counter, a dict are made of them
        for part in arguments if isinstance(arguments, tuple) else ():
            self._budget.spend(copied_bytes(part))
            if isinstance(part, Items):
                self._budget.check_keys(built, (item for item in part if not isinstance(item, Items)))
                pairs = (item for item in part if isinstance(item, tuple | Items) and item)
                self._budget.check_keys(built, (pair[0] for pair in pairs))
        self._stack.append(built)

    def _build(self, _: object) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if self._state_set is not None:
            self._state_set(target, state)
        if isinstance(target, Built):
            self._budget.spend(copied_bytes(state))
            target.add([state])

    def _binpersid(self, _: object) -> None:
        identity = self._stack.pop()
        if self._stored is None:
            raise TypeError("a persistent id, which means nothing here")
        self._stack.append(self._stored(identity))


CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
