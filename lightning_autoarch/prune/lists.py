"""What is passed as a list: refused where it is one thing, or would be walked through by mistake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneTypeError

T = TypeVar("T")


def listed(given: Iterable[T], name: str, of: str) -> list[T]:
    """The items.

    Args:
        given: any iterable that is not itself a tensor, a mask, a module (an `nn.ParameterList` is a list) or a dict.
        name: of the argument, for errors.
        of: what it is a list of, for errors.

    Raises:
        PruneTypeError: it is one of these, or nothing that can be walked through.

    >>> import torch
    >>> listed(torch.ones(2, 3), "scores", "tensors")
    Traceback (most recent call last):
    lightning_autoarch.core.errors.PruneTypeError: Expected `scores` to be a list of tensors, got one tensor: \
pass `[tensor]`, or `list(tensor)` of a stack.
    """
    if not _walkable(given):
        raise PruneTypeError(f"Expected `{name}` to be a list of {of}, got {_what(given)}.")
    return list(given)


def no_tensor(item: object, name: str) -> PruneTypeError:
    """The error that `item` is none."""
    hint = ""
    if isinstance(item, nn.Module):
        hint = ": pass its parameters, such as `module.weight`"
    elif isinstance(item, np.ndarray):
        hint = ": pass `torch.from_numpy(array)`"
    kind = "None" if item is None else type(item).__qualname__
    return PruneTypeError(f"Expected `{name}` to be a torch.Tensor or Parameter, got {kind}{hint}.")


def _walkable(given: object) -> bool:
    if isinstance(given, nn.Module):
        return isinstance(given, nn.ParameterList)
    return isinstance(given, Iterable) and not isinstance(given, Tensor | np.ndarray | Mapping | str | bytes)


def _what(given: object) -> str:
    """What was given instead of a list, and what to pass."""
    if isinstance(given, Tensor):
        return "one tensor: pass `[tensor]`, or `list(tensor)` of a stack"
    kind = type(given).__qualname__
    if isinstance(given, nn.Module):
        return f"the module {kind}: pass `module.parameters()`, or `[module.weight]`"
    if isinstance(given, Mapping):
        return f"a {kind}: pass its `.values()`"
    return "None" if given is None else f"one {kind}: pass a list with it"
