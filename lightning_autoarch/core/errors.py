"""All errors that the package raises on purpose. A message says what was expected, what was given and what to do."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence

CANDIDATES = 10_000  # names that `did_you_mean` looks at
LONGEST = 200  # characters of a name that is worth a suggestion


class AutoArchError(Exception):
    """Base class of all errors that lightning-autoarch raises on purpose: catch it to catch every one of them.

    A message holds no control characters other than line breaks and tabs, because parts of it may come from a file of
    unknown origin and be printed on a terminal.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in super().__str__())


class SpaceError(AutoArchError, ValueError):
    """A search space, or an architecture given for it, is not well formed."""


class SearchError(AutoArchError, RuntimeError):
    """A search cannot start, continue or end with a winner."""


class SpaceExhausted(SearchError):
    """Every architecture of a finite space has been proposed already."""


class MonitorMissing(SearchError):
    """The monitored metric was never logged."""


class CheckpointNotPlain(SearchError):
    """The checkpoint of a trial would hold an object that cannot be read back as plain data."""


class CheckpointUnwritable(SearchError):
    """The checkpoint of a trial cannot be written."""


class StructureError(AutoArchError, RuntimeError):
    """The channels of a module cannot be found, removed or widened as requested."""


class ResizeError(StructureError):
    """The forward of a resized module is not the one that was planned; the module is unchanged.

    Attributes:
        position: mode and number of the step that differs; None where the forward followed the plan but raised.
        groups: names of the channel groups that may be the cause.
    """

    def __init__(self, message: str, position: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.position = position
        self.groups: tuple[str, ...] = ()


class CheckpointError(AutoArchError, RuntimeError):
    """A checkpoint cannot be read, or its content is not what its format requires."""


class UnknownNames(CheckpointError):
    """A file refers to classes or functions that are neither torch's nor declared safe.

    Attributes:
        names: all of them, with their modules.
    """

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class TransferError(AutoArchError, ValueError):
    """Weights cannot be transferred as requested; the module is unchanged."""


class PruneTypeError(AutoArchError, TypeError):
    """An argument of a pruning function has the wrong type."""


class PruneValueError(AutoArchError, ValueError):
    """An argument of a pruning function has the right type, but a value that cannot be used."""


class TracingError(AutoArchError, RuntimeError):
    """An operation was called while torch records a graph, which could not contain it."""


class ExportError(AutoArchError, RuntimeError):
    """A module cannot be exported, or the exported file does not reproduce its output."""


class ReportError(AutoArchError, RuntimeError):
    """A report cannot be made: the study is missing or is not a study, or plotly is not installed."""


class MissingPackageError(AutoArchError, ImportError):
    """The call needs a package that is not installed."""


class UnsupportedVersionError(AutoArchError, RuntimeError):
    """The installed Lightning or Optuna lacks something of its own that this package relies on."""


def shown(value: object, limit: int = 120) -> str:
    """A name or a value from a file, study or config, made safe for a message.

    Control characters and line breaks are escaped, and long text loses its middle. Anything but text and plain numbers
    is named by its type, because the `repr` of a small file's content can have any length.

    Args:
        value: of any type; text is not quoted.
        limit: most characters to show.

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
    """`" Did you mean `width`?"` for the closest known name, or an empty string if none is close.

    Candidates are names below this one (`layers/norm` for `layers`), the same name with a prefix (`data.batch_size` for
    `batch_size`), similar spellings, and initials (`lr` for `learning_rate`, and the reverse). Only the first
    `CANDIDATES` names of up to `LONGEST` characters are compared, because a file may contain a million names.
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
