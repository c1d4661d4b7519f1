"""Makes modules beside a config importable for the program `autoarch`, as modules beside a script are.

The current folder and the folders of the configs are appended to `sys.path`, so a file in them cannot replace an
installed package. A config names classes that are imported and called: only use one that you would run as a script.
Nothing is added in other programs, for subcommands without a config, or if Python runs with `-P`.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_OPTIONS = ("--config", "-c")


def config_files(words: Sequence[str]) -> list[Path]:
    """The existing files that a command line gives as configs."""
    given = [word.partition("=")[2] for word in words if word.startswith(tuple(f"{option}=" for option in _OPTIONS))]
    given += [after for word, after in itertools.pairwise(words) if word in _OPTIONS]
    return [Path(name) for name in given if Path(name).is_file()]


@contextlib.contextmanager
def modules_beside(words: Sequence[str]) -> Iterator[None]:
    """Add the current folder and those of the configs to the end of `sys.path`."""
    files = config_files(words)
    folders = [str(folder) for folder in (Path.cwd(), *(file.resolve().parent for file in files))] if files else []
    added = [] if sys.flags.safe_path else [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):  # it was removed meanwhile
                sys.path.remove(folder)
