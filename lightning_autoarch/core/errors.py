"""Errors that the package raises on purpose. Each message says what was expected, what was given, and what to do."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable

CANDIDATES = 10_000  # names that `did_you_mean` looks at
LONGEST = 200  # characters of a name that is worth a suggestion


class AutoArchError(Exception):
    """Base class: catch it to catch everything that lightning-autoarch itself finds wrong.

    A message never holds control characters other than line breaks and tabs: part of it may come from a file of
    somebody else and be printed on a terminal.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in super().__str__())


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


class UnsupportedVersionError(AutoArchError, RuntimeError):
    """The installed Lightning or Optuna lacks something of its own that this package relies on."""


def shown(value: object, limit: int = 120) -> str:
    """A name or a value of a file, study or config as it may be in a message.

    Control characters, line breaks among them, are escaped, and the middle of what is long is left out. Whatever is
    neither text nor a plain number is named by its type: the `repr` of a small file's content can be of any length.

    Args:
        value: of any type; text is not put in quotes.
        limit: characters to show of it.

    >>> shown("layer.0.weight"), shown("\\x1b[2Jfine"), shown("a" * 1000, limit=9), shown(("a", "b"))
    ('layer.0.weight', '\\\\x1b[2Jfine', 'aaa...aaa', 'a tuple')
    """
    if isinstance(value, bytes):
        value = value[: limit + 1].decode("latin-1")
    elif value is None or isinstance(value, bool | float):
        return repr(value)
    elif isinstance(value, int):
        return str(value) if value.bit_length() < 256 else f"a number of {value.bit_length()} bits"
    elif not isinstance(value, str):
        kind = type(value).__name__[:limit]
        return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
    if len(value) > limit:
        part = (limit - 3) // 2
        value = f"{value[:part]}...{value[-part:]}"
    return "".join(c if c.isprintable() else _escaped(c) for c in value)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean `width`?"` for the nearest known name, or an empty string when none is near.

    Near are names below this one (`layers/norm` for `layers`), the same name after a prefix (`data.batch_size` for
    `batch_size`), similar spellings, and initials (`lr` for `learning_rate`, and the reverse). Only the first
    `CANDIDATES` names of up to `LONGEST` characters are compared: a file may have a million of them.
    """
    names = [other for other in itertools.islice(known, CANDIDATES) if len(other) <= LONGEST]
    near = [other for other in names if other.startswith(f"{name}/") or other.endswith(f".{name}")]
    if not near and len(name) <= LONGEST:
        near = difflib.get_close_matches(name, names, n=1) or [other for other in names if _abbreviates(name, other)]
    return f" Did you mean `{shown(near[0])}`?" if near else ""


def _abbreviates(one: str, other: str) -> bool:
    """Whether one of two names is the initials of the other, as `lr` of `learning_rate`."""
    initials = ["".join(part[:1] for part in name.split("_")) for name in (one, other)]
    return (len(initials[0]) > 1 and initials[0] == other) or (len(initials[1]) > 1 and initials[1] == one)


# What pruning finds wrong with a call: each is an `AutoArchError`, and the built-in error that one would expect.


class PruneTypeError(AutoArchError, TypeError):
    """An argument is of another kind than what is pruned, or than what says how."""


class PruneValueError(AutoArchError, ValueError):
    """An argument is of the right kind, but not one that can be used."""


class TracingError(AutoArchError, RuntimeError):
    """An operation was called where torch records a graph, which could not hold it."""
