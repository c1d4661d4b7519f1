"""The HTML page beside a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_autoarch.errors import AutoArchError, CheckpointError
from lightning_autoarch.report.source import ReportError


def page_path(
    report: str | None,  # None: beside the checkpoint; empty: no page
    output: str,  # the checkpoint
) -> Path | None:
    """Where the page goes; the directories of both are made, so that nothing fails behind hours of training.

    Raises:
        CheckpointError, ReportError: there is no place for a file, or it is the same for both.
    """
    page = Path(output).with_suffix(".html") if report is None else Path(report) if report else None
    _make_place(Path(output), "output", CheckpointError)
    if page is not None:
        _make_place(page, "report", ReportError)
        if page.resolve() == Path(output).resolve():
            raise ReportError(f"`{output}` would be the checkpoint and its page too: give another `--report`.")
    return page


def _make_place(path: Path, option: str, kind: type[AutoArchError]) -> None:
    if path.is_dir():
        raise kind(f"Expected a file as `--{option}`, got the directory `{path}`.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise kind(f"`--{option} {path}` cannot be written: {error}") from error


def write_page(path: Path | None, write: Callable[[Path], Path]) -> None:
    """Write it and say so; where plotly is missing say how to get it."""
    if path is None:
        return
    try:
        print(f"Wrote {write(path)}")
    except ReportError as error:
        print(f"No page was written. {error}")
