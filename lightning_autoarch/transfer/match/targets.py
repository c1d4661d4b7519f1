"""What of a module can be written: its parameters and persistent buffers, and which of them are the same memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.errors import TransferError


@dataclass(frozen=True)
class Target:
    """A tensor of a module, as its state_dict names it."""

    name: str
    tensor: Tensor
    is_parameter: bool
    tied_to: str | None = None  # the first name of the same memory

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor; () of one that has none yet."""
        return () if is_lazy(self.tensor) else tuple(self.tensor.shape)

    @property
    def numel(self) -> int:
        """Elements that are this tensor's alone."""
        return 0 if self.tied_to or is_lazy(self.tensor) else self.tensor.numel()


def targets_of(module: nn.Module) -> dict[str, Target]:
    """Parameters and persistent buffers in the order of the state_dict; tied ones under each of their names."""
    found: dict[str, Target] = {}
    first: dict[object, str] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        kept = {k: v for k, v in owner._buffers.items() if k not in owner._non_persistent_buffers_set}
        for leaf, tensor in [*owner._parameters.items(), *kept.items()]:
            if tensor is not None:
                name = f"{path}.{leaf}" if path else leaf
                tied = first.setdefault(_memory(tensor), name)
                found[name] = Target(name, tensor, leaf in owner._parameters, tied if tied != name else None)
    return found


def check_writable(target: Target) -> None:
    """Raises TransferError for a tensor that cannot be copied into."""
    tensor, name = target.tensor, target.name
    if is_lazy(tensor):
        raise TransferError(
            f"Expected `{name}` with a shape, got a lazy parameter; run a batch through the module first."
        )
    if tensor.is_meta:
        raise TransferError(
            f"Expected `{name}` with memory, got one on the meta device; `module.to_empty(...)` it first."
        )
    if tensor.is_inference():
        raise TransferError(
            f"Expected `{name}` to be writable, got one made under `torch.inference_mode`; build outside."
        )
    if tensor.layout is not torch.strided:
        return
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise TransferError(f"Expected `{name}` with memory for each element, got an expanded view; `clone()` it.")


def _memory(tensor: Tensor) -> object:
    if is_lazy(tensor) or tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter) or not tensor.numel():
        return id(tensor)
    if tensor.layout is not torch.strided:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
