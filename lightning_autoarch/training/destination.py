"""Where a result goes that comes behind hours of training: whether it can be written is seen before."""

from __future__ import annotations

from pathlib import Path

from lightning_autoarch.errors import AutoArchError


def check_writable(path: Path, name: str) -> None:
    """Make the folder of a file, and see that the file can be written there.

    Args:
        path: of the file, which need not be there yet.
        name: of the argument, for the error.

    Raises:
        AutoArchError: it cannot.
    """
    try:
        if path.is_dir():
            raise AutoArchError(f"Expected `{name}` to name a file, got the directory {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:
            path.open("xb").close()  # its name may be what cannot be written
            path.unlink()
    except OSError as error:
        raise AutoArchError(f"Expected to write `{name}` to {path}, cannot: {error.strerror or error}.") from error
