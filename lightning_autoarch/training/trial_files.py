"""The files of a trial: where they may be, and how they are read.

A study and its directory may come from somebody else. No path in a study is followed out of the directory that the user
named: neither an absolute path, nor `..`, nor a symbolic link. Checkpoints are read as data; no code in them is run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning_autoarch.core.errors import CheckpointError, SearchError
from lightning_autoarch.core.schema import described
from lightning_autoarch.reading.archive import read_archive

LAST, BEST = "last.ckpt", "best.ckpt"


def trial_directory(directory: Path, number: int) -> Path:
    """Where a trial's checkpoints are."""
    return directory / "trials" / f"{number:04d}"


def own_directory(directory: Path, number: int) -> Path:
    """The directory of a trial, created if it does not exist.

    Raises:
        SearchError: a symbolic link leads out of the search's directory.
    """
    return make_inside(directory, trial_directory(directory, number))


def make_inside(directory: Path, path: Path) -> Path:
    """Create a directory inside of another one, if it does not exist.

    Raises:
        SearchError: a symbolic link leads elsewhere.
    """
    if inside(directory, path) is None:
        raise SearchError(
            f"Expected {path} inside of {directory}, but a symbolic link leads from there to {os.path.realpath(path)}: "
            "nothing is read or written there. Remove the link."
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def inside(directory: Path, path: object) -> Path | None:
    """A path with all links resolved if that is in the directory, else None; relative paths start in the directory.

    >>> inside(Path("study"), "../secret.ckpt") is inside(Path("study"), "/etc/passwd") is None
    True
    """
    if not isinstance(path, str | os.PathLike):
        return None
    root = os.path.realpath(directory)
    given = os.fspath(path) if isinstance(path, str) else os.path.abspath(path)
    try:
        found = Path(os.path.realpath(os.path.join(root, given)))
    except (OSError, ValueError):  # a null character, or a name too long for the system
        return None
    return found if found.is_relative_to(root) else None


def kept_checkpoint(directory: Path, number: int, stored: object) -> Path | None:
    """The checkpoint of a trial's best epoch: its own, or the one that the study names; None if neither is inside.

    Args:
        directory: of the search.
        number: of the trial.
        stored: the trial's attribute `checkpoint`, which is not trusted.
    """
    places = (inside(directory, trial_directory(directory, number) / BEST), inside(directory, stored))
    return next((place for place in places if place is not None and _is_file(place)), None)


def weights_of(directory: Path, number: int, stored: object) -> Path:
    """The checkpoint of a winner's best epoch.

    Raises:
        SearchError: it is not in the search's directory; the message says which path the study names, and what to do.
    """
    found = kept_checkpoint(directory, number, stored)
    if found is not None:
        return found
    expected = trial_directory(directory, number) / BEST
    says = ""
    if stored is not None and inside(directory, stored) is None:
        says = f" The study names {described(stored)}, outside of {directory}, where nothing is read."
    raise SearchError(
        f"The weights of the winner, trial #{number}, are not here: expected {expected}.{says} If another machine or "
        'another directory has them, and you trust the file, copy it there; `after="train"` trains the winner anew.'
    )


def last_checkpoint(directory: Path) -> Path | None:
    """The checkpoint from which a trial with this directory continues; None where there is none.

    Raises:
        CheckpointError: it is a symbolic link that leads elsewhere.
    """
    path = directory / LAST
    if not os.path.lexists(path):
        return None
    if inside(directory, path) is None:
        raise CheckpointError(f"Expected a checkpoint at {path}, got a symbolic link that leads out of {directory}.")
    return path if _is_file(path) else None


def read_lightning(path: Path) -> dict[str, Any]:
    """The content of a Lightning checkpoint, with its tensors memory-mapped. No code in it is run.

    Raises:
        CheckpointError: the file is damaged, is no Lightning checkpoint, or holds more than data.
    """
    try:
        content = read_archive(path)
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error
    return checked_lightning(content, str(path))


def checked_lightning(content: object, name: str) -> dict[str, Any]:
    """Check that what was read has the form of a Lightning checkpoint, and return it.

    Raises:
        CheckpointError: it has not; `name` is that of the file.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"Expected a Lightning checkpoint, a dict, got {described(content)} in {name}.")
    for part in ("state_dict", "callbacks"):
        if not isinstance(content.get(part, {}), dict):
            raise CheckpointError(f"Expected `{part}` of {name} to be a dict, got {described(content[part])}.")
    return content


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
