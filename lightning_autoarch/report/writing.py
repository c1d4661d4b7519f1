"""Where a page goes, and what it needs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from lightning_autoarch.core.errors import ReportError


def check_plotly() -> None:
    """Raises ReportError where plotly is not installed."""
    if importlib.util.find_spec("plotly") is None:
        raise ReportError('A report needs plotly: pip install "lightning-autoarch[report]"')


def destination(path: str | os.PathLike[str], name: str) -> Path:
    """The file, or `name` in a directory."""
    path = Path(path)
    return path / name if path.is_dir() else path


def write(path: Path, text: str) -> Path:
    """Write the page; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", errors="replace"))
    return path
