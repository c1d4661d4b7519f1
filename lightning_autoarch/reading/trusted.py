"""Classes that the user trusts, for the time that one file is read."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Collection, Iterator
from typing import Any

import torch

from lightning_autoarch.core.errors import CheckpointError, shown


@contextlib.contextmanager
def trusting(classes: Collection[type | str]) -> Iterator[None]:
    """Let files hold objects of these classes within the block; afterwards it is as it was before.

    Args:
        classes: themselves, or as "package.module.Class", which is imported.

    Raises:
        CheckpointError: there is no such class.
    """
    if isinstance(classes, str):
        raise CheckpointError(f"Expected a list of classes as `trusted`, got '{shown(classes)}'.")
    known = torch.serialization.get_safe_globals()
    added: list[Any] = [each for each in map(_found, classes) if each not in known]
    with torch.serialization.safe_globals(added) if added else contextlib.nullcontext():
        yield


def _found(named: type | str) -> type:
    if isinstance(named, type):
        return named
    module, _, name = str(named).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"Expected a class as `package.module.Class` in `trusted`, got '{shown(named)}': {shown(str(error), 200)}."
        ) from error
    if not isinstance(found, type):
        raise CheckpointError(f"Expected a class in `trusted`, got '{shown(named)}', which is none.")
    return found
