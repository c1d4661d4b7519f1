"""Example inputs of a forward: where they come from, how a module is called with them, and on which device.

`example_inputs` are a tensor (the only argument), a tuple or a list (positional arguments) or a dict (keyword
arguments). Where a caller gives none, a LightningModule's `example_input_array` is used, and where there is neither, a
batch of the training data: the forward takes its first part, its entries by name, or the whole (`WAYS`, in this order).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_autoarch.core.errors import AutoArchError

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]  # positional, by keyword

CPU, META = torch.device("cpu"), torch.device("meta")


def example_of(module: nn.Module) -> Any:
    """The `example_input_array` of a LightningModule, or None."""
    return getattr(module, "example_input_array", None)


def needed_example(
    module: nn.Module,
    given: object,  # by the caller
    purpose: str,  # for the error: "ONNX"
    error: type[AutoArchError],
) -> Any:
    """What the caller has given, or else the example of the module.

    Raises:
        AutoArchError: of the class `error`: there is neither.
    """
    inputs = example_of(module) if given is None else given
    if inputs is None:
        raise error(
            f"Expected `example_inputs` for {purpose}, which runs the forward of {type(module).__name__}: a tensor, a "
            "tuple of arguments or a dict of keyword arguments. A LightningModule may set `self.example_input_array` "
            "instead."
        )
    return inputs


def arguments_of(example_inputs: object) -> Arguments:
    """Positional and keyword arguments of a call.

    >>> arguments_of([1, 2]), arguments_of({"x": 1}), arguments_of(3)
    (((1, 2), {}), ((), {'x': 1}), ((3,), {}))
    """
    if isinstance(example_inputs, list):
        return tuple(example_inputs), {}
    return arguments_of_array(example_inputs)


def arguments_of_array(example: object) -> Arguments:
    """As Lightning calls `forward` with `example_input_array`, to which a list is one argument."""
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example,), {}


def batch_first(batch: Any) -> Arguments:
    """The first part of a batch, as of (inputs, targets)."""
    return (batch[0],), {}


def batch_as_keywords(batch: Any) -> Arguments:
    """All entries of a batch that is a mapping, by name."""
    return (), dict(batch)


def batch_whole(batch: object) -> Arguments:
    """The batch as the only argument."""
    return (batch,), {}


WAYS = (batch_first, batch_as_keywords, batch_whole)  # to call a forward with a batch, in the order to try them


def device_of(module: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU where there is none."""
    return next((tensor.device for tensors in (module.parameters(), module.buffers()) for tensor in tensors), CPU)


def moved_to(inputs: object, device: torch.device) -> Any:
    """Inputs with every tensor on a device; on "meta", these are shapes without values."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)


def tensors_in(value: object) -> list[Tensor]:
    """The tensors of inputs or outputs, from mappings, lists and tuples, in their order.

    >>> [t.item() for t in tensors_in({"a": torch.tensor(1), "b": (torch.tensor(2), None)})]
    [1, 2]
    """
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "values") and callable(value.values):  # a dict, or an output class that is like one
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, list | tuple) else []
