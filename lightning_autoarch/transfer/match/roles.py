"""Two layers whose sizes mean something outside of the module: the first reads an input, the last names classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.names import Shape, compiled

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Roles:
    """Names of tensors."""

    first: str | None  # the weight of the first convolution, if its channels are not in groups
    head: frozenset[str]  # weight and bias of the output layer


def roles_of(module: nn.Module, names: Collection[str], head: str | None = None) -> Roles:
    """By the order of registration, which is nearly always that of the data; `head` is a pattern for where it is not.

    Raises:
        TransferError: `head` matches no name.
    """
    first: str | None = None
    last = ""
    for path, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
            last = f"{path}." if path else ""
            if first is None and isinstance(layer, CONVOLUTIONS):
                first = f"{last}weight" if layer.groups == 1 else ""
    if head is None:
        found = {f"{last}weight", f"{last}bias"} & set(names)
    else:
        (pattern,) = compiled([head], "head")
        found = {name for name in names if pattern.search(name)}
        if not found:
            raise TransferError(f"Expected `head` to match a name of the module, {head!r} matches none.")
    return Roles(first, frozenset(found))


def check_classes(
    classes: Mapping[int, int], head: Collection[str], sources: Mapping[str, Shape], targets: Mapping[str, Shape]
) -> None:
    """Raises TransferError unless rows `classes` are there, of source and module, and rows are of equal size.

    Args:
        classes: row of the source -> row of the module.
        head: names of the output layer.
        sources: shapes in the source, by the names of the module.
        targets: shapes in the module.
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
