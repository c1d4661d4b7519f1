"""All copies or none.

What can fail half way is done first and can be taken back: tensors of other classes, to other devices, under a mode
that intercepts calls. The rest, plain memory into plain memory of one device, allocates nothing and calls no Python; it
is one call, which an interrupt cannot part. So no second copy of the module is kept, which would cost its memory once
more and twice the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

PLAIN = (Tensor, nn.Parameter, nn.Buffer)


@dataclass(frozen=True)
class Write:
    """A copy that is due."""

    target: Tensor  # a module's own, or a view of it
    value: Tensor  # of the same shape, of any dtype that converts


def write_all(writes: Sequence[Write]) -> None:
    """Copy every value into its target.

    Raises:
        Whatever a copy raised; then every target is as it was, bit for bit.
    """
    with torch.no_grad():
        writes = _apart(writes)
        plain = [write for write in writes if _is_plain(write)]
        guarded = [write for write in writes if not _is_plain(write)]
        with _untouched():
            saved = [(write.target, _saved(write.target)) for write in guarded]
        before = plain[-1].target._version if plain else 0
        try:
            for write in guarded:
                write.target.copy_(write.value)
            if plain:
                torch._foreach_copy_([write.target for write in plain], [write.value for write in plain])
        except BaseException:
            if not plain or plain[-1].target._version == before:  # else all has landed, and an interrupt came after it
                _restore(saved)
            raise


def _is_plain(write: Write) -> bool:
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    same = write.target.device == write.value.device and write.target.layout is write.value.layout is torch.strided
    return same and type(write.target) in PLAIN and type(write.value) in PLAIN


def _apart(writes: Sequence[Write]) -> list[Write]:
    """With copies of those values that lie in memory which another copy writes to (a module loaded from itself)."""
    written = {storage for write in writes if (storage := _storage(write.target))}
    return [
        replace(write, value=write.value.clone()) if _storage(write.value) in written else write for write in writes
    ]


def _storage(tensor: Tensor) -> int | None:
    if type(tensor) not in PLAIN or tensor.is_meta or tensor.layout is not torch.strided:
        return None
    return tensor.untyped_storage().data_ptr() or None


def _saved(tensor: Tensor) -> Tensor:
    """A copy; of a GPU's tensor in the memory of the CPU, as there is more of it."""
    moved = tensor.is_cuda and type(tensor) in PLAIN
    return tensor.detach().cpu() if moved else tensor.detach().clone()


def _restore(saved: Sequence[tuple[Tensor, Tensor]]) -> None:
    with _untouched():
        for target, old in saved:
            with contextlib.suppress(Exception):  # the others come back all the same; the first error is raised
                target.copy_(old)


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """The tensors themselves, whatever a subclass or a mode makes of a call."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield
