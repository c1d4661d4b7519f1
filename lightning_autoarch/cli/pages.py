"""The HTML page beside a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_autoarch.core.errors import AutoArchError, ReportError
from lightning_autoarch.core.files import check_writable


def page_path(
    report: str | None,  # None: beside the checkpoint; empty: no page
    output: str,  # the checkpoint
) -> Path | None:
    """Where the page goes. That both can be written is seen now, so that nothing fails behind hours of training.

    Raises:
        AutoArchError: one cannot, or both are the same file.
    """
    check_writable(Path(output), "output")
    page = Path(output).with_suffix(".html") if report is None else Path(report) if report else None
    if page is not None and page.is_dir():
        check_writable(page / "report.html", "report")
    elif page is not None:
        if page.resolve() == Path(output).resolve():
            raise AutoArchError(
                f"Expected one file for the checkpoint and another for the page, got {output} for both."
            )
        check_writable(page, "report")
    return page


def write_page(path: Path | None, write: Callable[[Path], Path]) -> None:
    """Write it and say so; where plotly is missing say how to get it."""
    if path is None:
        return
    try:
        print(f"Wrote {write(path)}")
    except ReportError as error:
        print(f"No page was written. {error}")
