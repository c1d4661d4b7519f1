"""The symbols that stand for what a pickle would build.

    atoms     numbers, text, bytes, None: themselves
    tuple     a tuple
    Items     a list, a set, or a dict as keys and values in turn
    Name      a class or function that the file names; it is not imported
    Built     what a call would give: the function, its arguments, and states that were set later
    Stored    what a persistent id stands for

A symbol is made once, however often it is used, and takes less memory than what it stands for.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

PER_ITEM = 100  # bytes of a set or a dict for each item that it is made of
PER_NUMBER = 16  # bytes of a size for each dimension


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
    """What a call gives; `states` and `hashes` come with the first of them."""

    function: Any
    arguments: Any
    states: list[Any] | None = None
    hashes: Counter[int] | None = None

    @property
    def name(self) -> str:
        """Of the function that was called; empty where that is none."""
        return self.function.full if isinstance(self.function, Name) else ""

    def add(self, states: list[Any]) -> None:
        """Items that were put into it, or a state that was set on it."""
        if self.states is None:
            self.states = []
        self.states += states


@dataclass(slots=True, eq=False)
class Stored:
    """Bytes that lie in the file."""

    key: str
    size: int
    itemsize: int
    quantised: bool = False


def hash_of(symbol: object) -> int:
    """The hash of what a symbol stands for, as far as others can be made to share it."""
    if isinstance(symbol, Built) and symbol.name == "builtins.complex":
        return 0  # of two numbers, which can be chosen so that any hash comes out
    if isinstance(symbol, Built) and symbol.name == "torch.Size":
        return hash_of(symbol.arguments)
    if isinstance(symbol, tuple):
        return hash(tuple(map(hash_of, symbol)))
    return 0 if isinstance(symbol, Items) else hash(symbol)


def copied_bytes(symbol: object) -> int:
    """Bytes that a call may take for a copy of what it is given: a set of a list, bytes of a text."""
    if isinstance(symbol, str | bytes):
        return sys.getsizeof(symbol)
    if isinstance(symbol, tuple):
        return PER_NUMBER * len(symbol)
    if isinstance(symbol, Items):
        return PER_ITEM * len(symbol)
    return copied_bytes(symbol.arguments[0]) if isinstance(symbol, Built) and _is_copy(symbol) else 0


def _is_copy(symbol: Built) -> bool:
    """Whether it is as large as its first argument, which is no such call itself."""
    arguments = symbol.arguments
    return isinstance(arguments, tuple) and len(arguments) > 0 and not isinstance(arguments[0], Built)
