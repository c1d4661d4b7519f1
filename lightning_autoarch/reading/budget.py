"""What a pickle may take: memory and time in proportion to the size of its file.

An unpickler that refuses to run code can still be kept busy for ever, or made to fill the memory, by some hundred
bytes: a tuple that holds one tuple twice, forty times over, has a hash of 2^40 steps; an empty set is one byte in the
file and 216 in memory; a set can be made of one long list again and again; and multiples of 2^61 - 1 all have the same
hash, so that a dict of them is built in quadratic time. Each of these is an error before anything is built.

The memory that is counted is that of `torch.load(weights_only=True)` at its peak, as it was measured (CPython 3.11,
torch 2.13): a tensor in a file takes about 2.1 kB, of which 1.2 kB are the tensor and its storage and the rest is what
the unpickler keeps meanwhile. So about 50,000 tensors of a few bytes each are as many as fit into the limit; of tensors
of 600 bytes and more there may be any number.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.reading.symbols import Built, Items, hash_of

BYTES = 64 << 20  # of memory that any pickle may take
BYTES_TIMES = 3  # the size of its file, beyond
HASHES = 1_000_000  # symbols that any pickle may have hashed
HASHES_TIMES = 8  # the size of its file, beyond
DEPTH = 100  # of tuples within a key: a hash is a recursion
SAME_HASH = 200  # keys of one container that may have the same hash: each is compared with all before it
PER_KEY = 100  # bytes of a key that is counted by its hash


class Budget:
    """What is left of memory and time for the pickles of one file.

    Args:
        origin: the file, for errors.
        size: of the file, in bytes.
    """

    def __init__(self, origin: str, size: int) -> None:
        self._origin = origin
        self._bytes = BYTES + BYTES_TIMES * size
        self._hashes = HASHES + HASHES_TIMES * size

    def spend(self, count: int) -> None:
        """Take bytes of memory. Raises CheckpointError where there are not as many left."""
        self._bytes -= count
        if self._bytes < 0:
            raise CheckpointError(
                f"Expected objects in proportion to the size of {self._origin}, got many more: not loaded."
            )

    def grow(self, before: int, after: int) -> None:
        """Take the memory of a dict that gets more keys. A table that is outgrown is there beside the new one."""
        old, new = table_bytes(before), table_bytes(after)
        if new > old:
            self.spend(new)
            self._bytes += old

    def check_hash(self, value: object) -> None:
        """Raises CheckpointError for a value whose hash takes too long, or too deep a recursion."""
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
                todo += [(part, depth + 1) for part in (symbol.arguments, *(symbol.states or ()))]

    def check_keys(self, holder: Items | Built, keys: Iterable[Any]) -> None:
        """Raises CheckpointError for many keys with one hash in one container.

        Those of text and bytes are random in each process, and so none that a file can choose.
        """
        for key in keys:
            if isinstance(key, str | bytes) or (isinstance(key, int) and abs(key) < sys.hash_info.modulus):
                continue
            if getattr(holder, "hashes", None) is None:
                holder.hashes = Counter()
            assert holder.hashes is not None
            hashed = hash_of(key)
            holder.hashes[hashed] += 1
            self.spend(PER_KEY)
            if holder.hashes[hashed] > SAME_HASH:
                raise CheckpointError(
                    f"Expected plain keys in {self._origin}, got many with the same hash: not loaded."
                )


def table_bytes(count: int) -> int:
    """Bytes of the hash table of a dict with so many keys, beside those of an empty one."""
    if not count:
        return 0
    size = _table_size(count)
    return size * (1 if size <= 256 else 2 if size <= 65_536 else 4) + 24 * (size * 2 // 3)


def table_room(count: int) -> int:
    """Keys for which the hash table of a dict with so many keys has room."""
    return _table_size(count) * 2 // 3


def _table_size(count: int) -> int:
    size = 8
    while size * 2 // 3 < count:
        size *= 2
    return size
