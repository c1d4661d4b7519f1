"""Where the program `autoarch` finds the modules that a config names: beside the config, as a script finds its own.

The current folder and those of the configs are added *behind* what is installed: a file in them cannot stand in for an
installed package. A config names classes that are imported and called, so only run one that you would run as a script.
Nothing is added in other programs, for subcommands without a config, or where Python runs with `-P`.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_OPTIONS = ("--config", "-c")


def config_files(words: Sequence[str]) -> list[Path]:
    """The files that the words of a command line give as configs, where they exist."""
    given = [word.partition("=")[2] for word in words if word.startswith(tuple(f"{option}=" for option in _OPTIONS))]
    given += [after for word, after in itertools.pairwise(words) if word in _OPTIONS]
    return [Path(name) for name in given if Path(name).is_file()]


@contextlib.contextmanager
def modules_beside(words: Sequence[str]) -> Iterator[None]:
    """The current folder, then those of the configs, can be imported from."""
    files = config_files(words)
    folders = [str(folder) for folder in (Path.cwd(), *(file.resolve().parent for file in files))] if files else []
    added = [] if sys.flags.safe_path else [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):  # somebody has removed it
                sys.path.remove(folder)
