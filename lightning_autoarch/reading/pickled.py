"""What `torch.save` writes into its pickle, and nothing else: each call that torch would make is checked beforehand.

`torch.load(weights_only=True)` calls no function of a stranger, but those that it calls it calls with any argument:
`bytearray(10**10)`, a storage of any size, a tensor with more elements than its storage, which is then enlarged, or an
attribute that hides a method. Here a storage lies within the file, and every call is one that `torch.save` writes, with
such arguments (`calls`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Any

import torch

from lightning_autoarch.core.errors import CheckpointError, UnknownNames, shown
from lightning_autoarch.reading.budget import Budget
from lightning_autoarch.reading.opcodes import OF_TORCH, Machine
from lightning_autoarch.reading.symbols import Built, Items, Name, Stored
from lightning_autoarch.reading.torch_calls import CALLS, TENSORS, VALUES, is_count, is_dtype, itemsize, text

OWN = (
    "torch.distributed.",
    "torch.nested.",
    "torch._dynamo.",
)  # of what torch itself calls safe, which needs more care
SHOWN = 8  # names in an error
OF_TENSOR = 170  # bytes that a tensor takes more than any other call
OF_STORAGE = 620  # bytes of a storage beside its numbers, and of what torch keeps of it while it loads
OF_OLD_STORAGE = 1070  # the same of files of before torch 1.6, whose storages have memory of their own


class TorchPickle:
    """Follows the pickles of one file of `torch.save`.

    Args:
        origin: the file, for errors.
        size: its bytes.
        records: the bytes of each storage; None where they follow the pickles.
        held: bytes of the pickle, where it is read as a whole.

    Attributes:
        storages: key and bytes of all storages that tensors are in.
    """

    def __init__(self, origin: str, size: int, records: Mapping[str, int] | None = None, held: int = 0) -> None:
        self.storages: dict[str, int] = {}
        self._total = 0  # of their bytes
        self._origin = origin
        self._size = size
        self._records = records
        self._trusted = _trusted()
        self._budget = Budget(origin, size)
        self._budget.spend(held)
        self._machine = Machine(
            origin,
            self._budget,
            opcodes=OF_TORCH,
            called=self._check_call,
            state_set=self._check_state,
            stored=self._check_storage,
        )

    def follow(self, file: IO[bytes]) -> Any:
        """The symbol of the next pickle.

        Raises:
            CheckpointError: it names what could run code, or does what `torch.save` never writes.
        """
        try:
            return self._machine.follow(file)
        finally:
            self._check_names()

    def _check_names(self) -> None:
        blocked = sorted(name for name in self._machine.names if not self._is_known(name))
        if blocked:
            names = ", ".join(f"`{shown(name)}`" for name in blocked[:SHOWN])
            more = f" and {len(blocked) - SHOWN} more" if len(blocked) > SHOWN else ""
            raise UnknownNames(
                f"Expected tensors and plain containers in {self._origin}, got {names}{more}, which could run code "
                "when it is loaded. Save the `state_dict()` alone; if you trust the file and its classes, name them "
                "by `trusted`, or to `torch.serialization.add_safe_globals`.",
                blocked,
            )

    def _is_known(self, name: str) -> bool:
        return name in CALLS or name in VALUES or name in self._trusted or bool(itemsize(name)) or is_dtype(name)

    def _check_call(self, built: Built) -> None:
        if built.name in self._trusted or not self._is_known(built.name):
            return  # the user says so; or it will be refused by its name
        rule = CALLS.get(built.name)
        arguments = built.arguments
        if rule is None or not isinstance(arguments, tuple) or not rule(arguments, self._trusted):
            raise self._strange(f"a call of `{shown(built.name)}`" if built.name else "a call of what is no function")
        if built.name in TENSORS:
            self._budget.spend(OF_TENSOR)

    def _check_state(self, target: Any, state: Any) -> None:
        if isinstance(target, Built) and target.name in self._trusted:
            return
        if isinstance(target, Built) and not self._is_known(target.name):
            return
        plain = isinstance(target, Built) and target.name == "collections.OrderedDict" and isinstance(state, Items)
        if not plain or any(not isinstance(key, str) or hasattr(OrderedDict, key) for key in state[::2]):
            raise self._strange("a state that it sets on an object")

    def _check_storage(self, identity: Any) -> Stored:
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or text(identity[0]) != "storage":
            raise self._strange("a persistent id that names no storage")
        _, kind, key, _, count = identity[:5]
        width = itemsize(kind.full) if isinstance(kind, Name) else 0
        key = text(key)
        if not width or not key or not is_count(count):
            raise self._strange("a storage without a type, key or size")
        size = count * width
        if key not in self.storages:
            self._budget.spend(OF_OLD_STORAGE if self._records is None else OF_STORAGE)
            self.storages[key] = size
            self._total += size
        if self.storages[key] != size:
            raise self._strange(f"the storage `{shown(key)}` in two sizes")
        room = self._size if self._records is None else self._records.get(key, -1)
        if size > room or (self._records is None and self._total > self._size):
            raise CheckpointError(
                f"Expected a whole file, got {self._origin}, in which the storage `{shown(key)}` of {size:,} bytes is "
                "missing or cut off: copy it again."
            )
        view = identity[5] if len(identity) == 6 else None
        size = size if view is None else self._viewed(view, count) * width
        return Stored(key, size, width, quantised=".Q" in kind.full)

    def _viewed(self, view: Any, count: int) -> int:
        """Elements of a storage that is a part of another, as files of before torch 1.6 have them."""
        ok = isinstance(view, tuple) and len(view) == 3 and is_count(view[1]) and is_count(view[2])
        if not ok or view[1] + view[2] > count:
            raise self._strange("a part of a storage that is not within it")
        return int(view[2])

    def _strange(self, what: str) -> CheckpointError:
        return CheckpointError(f"Expected what torch.save writes, got {self._origin} with {what}: not loaded.")


def _trusted() -> frozenset[str]:
    """Names of what the user has declared safe."""
    named = (
        each[1] if isinstance(each, tuple) else f"{each.__module__}.{each.__qualname__}"
        for each in torch.serialization.get_safe_globals()
    )
    return frozenset(name for name in named if not name.startswith(OWN))
