"""The HTML page that is written beside a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_autoarch.core.errors import AutoArchError, ReportError
from lightning_autoarch.core.files import check_writable


def page_path(
    report: str | None,  # the path of the page; None: beside the checkpoint; empty: no page
    output: str,  # the path of the checkpoint
) -> Path | None:
    """Return the path of the page. Check before training that the page and the checkpoint are writable.

    Raises:
        AutoArchError: one of them is not writable, or both are the same file.
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
    """Write the page and print its path, or why it cannot be written, for example how to install plotly."""
    if path is None:
        return
    try:
        print(f"Wrote {write(path)}")
    except ReportError as error:
        print(f"No page was written. {error}")
