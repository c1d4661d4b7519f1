"""What pruning finds wrong with a call: each is an `AutoArchError`, and the built-in error that one would expect."""

from __future__ import annotations

from lightning_autoarch.errors import AutoArchError


class PruneTypeError(AutoArchError, TypeError):
    """An argument is of another kind than what is pruned, or than what says how."""


class PruneValueError(AutoArchError, ValueError):
    """An argument is of the right kind, but not one that can be used."""


class TracingError(AutoArchError, RuntimeError):
    """An operation was called where torch records a graph, which could not hold it."""
