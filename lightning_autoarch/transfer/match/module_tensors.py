"""The tensors of a module that a transfer can write, and what is known about them from the layers that own them.

    ModuleTensor    a parameter or persistent buffer, and which of them share memory
    Roles           the first convolution, which reads the input, and the output layer, whose rows are classes
    stacks_of       tensors that hold several matrices on top of one another

"slice" cuts each part of a stack separately, because the leading rows of a stack are not those of its parts:

    LSTM, GRU                       4 or 3 gates in the rows; 2 inputs in the columns of later bidirectional layers
    MultiheadAttention, `qkv`       queries, keys and values in the rows
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.transfer.read.state_dicts import Shape
from lightning_autoarch.transfer.tune.trainable import names_matching

Parts: TypeAlias = dict[int, int]  # dimension -> the number of parts that it holds

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.RNN: 1}
FUSED = ("qkv", "to_qkv", "Wqkv")


@dataclass(frozen=True)
class ModuleTensor:
    """A tensor of a module.

    Attributes:
        name: Its name in the state_dict.
        tensor: The tensor itself.
        is_parameter: Whether it is a parameter; otherwise it is a persistent buffer.
        tied_to: The first name of the same memory; None for the first one itself.
    """

    name: str
    tensor: Tensor
    is_parameter: bool
    tied_to: str | None = None

    @property
    def shape(self) -> Shape:
        """Its shape; () for a lazy parameter."""
        return () if is_lazy(self.tensor) else tuple(self.tensor.shape)

    @property
    def numel(self) -> int:
        """The number of its elements; 0 if it shares the memory of an earlier tensor."""
        return 0 if self.tied_to or is_lazy(self.tensor) else self.tensor.numel()


def tensors_of(module: nn.Module) -> dict[str, ModuleTensor]:
    """Parameters and persistent buffers in the order of the state_dict; tied ones under each of their names."""
    found: dict[str, ModuleTensor] = {}
    first: dict[object, str] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        kept = {k: v for k, v in owner._buffers.items() if k not in owner._non_persistent_buffers_set}
        for leaf, tensor in [*owner._parameters.items(), *kept.items()]:
            if tensor is not None:
                name = f"{path}.{leaf}" if path else leaf
                tied = first.setdefault(_memory(tensor), name)
                found[name] = ModuleTensor(name, tensor, leaf in owner._parameters, tied if tied != name else None)
    return found


def check_writable(target: ModuleTensor) -> None:
    """Raise TransferError for a tensor that cannot be copied into."""
    tensor, name = target.tensor, target.name
    if is_lazy(tensor):
        raise TransferError(
            f"Expected `{name}` with a shape, got a lazy parameter; run a batch through the module first."
        )
    if tensor.is_meta:
        raise TransferError(
            f"Expected `{name}` with memory, got one on the meta device; call `module.to_empty(...)` first."
        )
    if tensor.is_inference():
        raise TransferError(
            f"Expected `{name}` to be writable, got one made under `torch.inference_mode`; build the module outside."
        )
    if tensor.layout is not torch.strided:
        return
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise TransferError(
            f"Expected `{name}` with memory for each element, got an expanded view; `clone()` it first."
        )


def _memory(tensor: Tensor) -> object:
    if is_lazy(tensor) or tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter) or not tensor.numel():
        return id(tensor)
    if tensor.layout is not torch.strided:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


@dataclass(frozen=True)
class Roles:
    """Layers whose sizes are fixed by the data.

    Attributes:
        first: Name of the weight of the first convolution, if it is not a grouped one.
        head: Names of the output layer's weight and bias.
    """

    first: str | None
    head: frozenset[str]


def roles_of(module: nn.Module, names: Collection[str], head: Patterns = ()) -> Roles:
    """The first convolution and the output layer.

    Layers are assumed to be registered in the order in which data pass through them; `head` is for modules where they
    are not.

    Raises:
        TransferError: A pattern of `head` matches no name.
    """
    first: str | None = None
    last = ""
    for path, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
            last = f"{path}." if path else ""
            if first is None and isinstance(layer, CONVOLUTIONS):
                first = f"{last}weight" if layer.groups == 1 else ""
    found = names_matching(head, names, "head") or {f"{last}weight", f"{last}bias"} & set(names)
    return Roles(first, frozenset(found))


def check_classes(
    classes: Mapping[int, int], head: Collection[str], sources: Mapping[str, Shape], targets: Mapping[str, Shape]
) -> None:
    """Raise TransferError unless source and module have all rows of `classes`, and their rows have one size.

    Args:
        classes: Row of the source -> row of the module.
        head: Names of the output layer.
        sources: Shapes in the source, by the names of the module.
        targets: Shapes in the module.
    """
    found = [name for name in head if name in sources]
    if not found:
        raise TransferError(f"Expected an output layer in the source for `classes`, got none of {sorted(head)}.")
    for name in found:
        old, new = sources[name], targets[name]
        if old[1:] != new[1:] or not old:
            raise TransferError(f"Expected `classes` for rows of equal size, got {old} and {new} for `{name}`.")
        for row, size, where in ((max(classes), old[0], "source"), (max(classes.values()), new[0], "module")):
            if row >= size:
                raise TransferError(f"Expected `classes` below {size} in the {where} for `{name}`, got {row}.")


def stacks_of(module: nn.Module) -> dict[str, Parts]:
    """Name of each tensor that is a stack -> its parts."""
    found: dict[str, Parts] = {}
    for path, layer in module.named_modules():
        dot = f"{path}." if path else ""
        for leaf, _ in layer.named_parameters(recurse=False):
            parts = _parts(path, layer, leaf)
            if any(count > 1 for count in parts.values()):
                found[f"{dot}{leaf}"] = parts
    return found


def _parts(path: str, layer: nn.Module, leaf: str) -> Parts:
    gates = next((count for kind, count in GATES.items() if isinstance(layer, kind)), 0)
    if gates and not leaf.startswith("weight_hr"):
        both = getattr(layer, "bidirectional", False) and leaf.startswith("weight_ih") and "_l0" not in leaf
        return {0: gates} | ({1: 2} if both else {})
    if isinstance(layer, nn.MultiheadAttention) and leaf.startswith("in_proj"):
        return {0: 3}
    if isinstance(layer, nn.Linear) and path.rpartition(".")[2] in FUSED:
        return {0: 3} if layer.out_features == 3 * layer.in_features else {}  # not with fewer keys than queries
    return {}


def shared_values(module: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy` with which a copy shares whatever is neither module, tensor nor container.

    A Trainer that a module refers to, for example, is not copied.
    """
    values = (value for each in module.modules() for value in vars(each).values())
    return {
        id(value): value for value in values if not isinstance(value, nn.Module | Tensor | dict | list | tuple | set)
    }
