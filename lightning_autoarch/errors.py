"""The errors that the package raises on purpose. Each message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutoArchError(Exception):
    """Base class: catch it to catch everything that lightning-autoarch itself finds wrong."""


class SpaceError(AutoArchError, ValueError):
    """A search space, or an architecture given for it, is not well formed."""


class SearchError(AutoArchError, RuntimeError):
    """A search cannot start, continue or end with a winner."""


class SpaceExhausted(SearchError):
    """Every architecture of a finite space has been proposed already: there is nothing left to try."""


class StructureError(AutoArchError, RuntimeError):
    """The channels of a module cannot be found, removed or widened as asked."""


class CheckpointError(AutoArchError, RuntimeError):
    """A checkpoint cannot be read, or is not what it says that it is."""


class TransferError(AutoArchError, ValueError):
    """Weights cannot be taken over as asked; the module is as it was."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean `width`?"` for the nearest known name, or an empty string when none is near."""
    names = list(known)
    near = [other for other in names if other.startswith(f"{name}/")] or difflib.get_close_matches(name, names, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""
