"""Either all copies are made or none.

What can fail half way is done first and can be undone: tensors of other classes, to other devices, under a mode that
intercepts calls. The rest, plain memory into plain memory of one device, allocates nothing and calls no Python; it is
one call, which an interrupt cannot split. So no second copy of the module is kept, which would cost its memory once
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
    """A copy to make.

    Attributes:
        target: A tensor of a module, or a view of it.
        value: Its new value, of the same shape and any dtype that can be converted.
    """

    target: Tensor
    value: Tensor


def write_all(writes: Sequence[Write]) -> None:
    """Copy every value into its target. If a copy raises, all targets are restored bit for bit."""
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
            if not plain or plain[-1].target._version == before:  # otherwise everything was copied before the interrupt
                _restore(saved)
            raise


def _is_plain(write: Write) -> bool:
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    same = write.target.device == write.value.device and write.target.layout is write.value.layout is torch.strided
    return same and type(write.target) in PLAIN and type(write.value) in PLAIN


def _apart(writes: Sequence[Write]) -> list[Write]:
    """Replace values that share memory with a target by copies, as when a module is loaded from itself."""
    written = {storage for write in writes if (storage := _storage(write.target))}
    return [
        replace(write, value=write.value.clone()) if _storage(write.value) in written else write for write in writes
    ]


def _storage(tensor: Tensor) -> int | None:
    if type(tensor) not in PLAIN or tensor.is_meta or tensor.layout is not torch.strided:
        return None
    return tensor.untyped_storage().data_ptr() or None


def _saved(tensor: Tensor) -> Tensor:
    """A copy; that of a GPU tensor is in CPU memory, of which there is more."""
    moved = tensor.is_cuda and type(tensor) in PLAIN
    return tensor.detach().cpu() if moved else tensor.detach().clone()


def _restore(saved: Sequence[tuple[Tensor, Tensor]]) -> None:
    with _untouched():
        for target, old in saved:
            with contextlib.suppress(Exception):  # restore the others nevertheless; the first error is raised
                target.copy_(old)


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """Access the tensors themselves, without subclasses and modes that intercept calls."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield
