"""How the program exits: an error of this package is one line and an exit code, any other error has its traceback."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from lightning_autoarch.core.errors import AutoArchError, SpaceError

USAGE, FAILURE, INTERRUPTED = 2, 1, 130  # exit codes of jsonargparse, of Python, and of shells for Ctrl-C
_NEEDED = ("jsonargparse", "docstring_parser", "typeshed_client")
_MISSING = 'The command line needs jsonargparse: pip install "lightning-autoarch[cli]"'


def check_installed() -> None:
    """End the program if a package of the extra `cli` is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        fail(f"{_MISSING} (not installed: {', '.join(missing)})", USAGE)


@contextlib.contextmanager
def in_short(runs: Callable[[], bool]) -> Iterator[None]:
    """Print errors of this package, also if jsonargparse wrapped them, and Ctrl-C as one line, and end the program."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except Exception as error:
        ours = _cause(error)
        if ours is None or os.environ.get("JSONARGPARSE_DEBUG", "").lower() == "true":
            raise
        fail(str(ours), FAILURE if runs() and not isinstance(ours, SpaceError) else USAGE)


def fail(message: str, code: int) -> NoReturn:
    """Print an error and end the program with an exit code."""
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def _cause(error: BaseException | None) -> AutoArchError | None:
    while error is not None and not isinstance(error, AutoArchError):
        error = error.__cause__
    return error
