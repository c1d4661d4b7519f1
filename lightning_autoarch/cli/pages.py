"""The HTML page beside a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_autoarch.report.source import ReportError


def page_path(
    report: str | None,  # None: beside the checkpoint; empty: no page
    output: str,  # the checkpoint
) -> Path | None:
    """Where the page goes; the directories of both are made, so that nothing fails behind hours of training."""
    page = Path(output).with_suffix(".html") if report is None else Path(report) if report else None
    for path in (Path(output), page):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    return page


def write_page(path: Path | None, write: Callable[[Path], Path]) -> None:
    """Write it and say so; where plotly is missing say how to get it."""
    if path is None:
        return
    try:
        print(f"Wrote {write(path)}")
    except ReportError as error:
        print(f"No page was written. {error}")
