"""A study as one HTML page: what was searched, how it went, what was found, and how good the surrogate was.

    study or file ─► source (opened, never made) ─► facts (a `Record`) ─► sections (words, tables, figures) ─► page

A pruning and a transfer have a page each, of the same looks: `write_pruning_report`, `write_transfer_report`.

A page needs no network: plotly.js is in it once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_autoarch.core.errors import ReportError, shown
from lightning_autoarch.report import influence, overview, progress, ranking, size, surrogate
from lightning_autoarch.report.facts import read_record
from lightning_autoarch.report.page import Plots, page
from lightning_autoarch.report.pruning import write_pruning_report
from lightning_autoarch.report.source import open_study, study_file
from lightning_autoarch.report.transferred import write_transfer_report
from lightning_autoarch.report.writing import check_plotly, destination, write

if TYPE_CHECKING:
    from optuna import Study

__all__ = [
    "open_study",
    "render_report",
    "write_pruning_report",
    "write_report",
    "write_transfer_report",
]

SECTIONS = (
    overview.summary,
    progress.convergence,
    progress.learning_curves,
    ranking.leaderboard,
    influence.influence,
    size.size,
    surrogate.surrogate,
    ranking.failures,
    overview.space,
)


def write_report(
    study: Study | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    study_name: str | None = None,
) -> Path:
    """Write the report of a study.

    The same study gives the same file, byte for byte. The study is only read.

    Args:
        study: an Optuna study, ours or any other with one objective; the path of an SQLite or journal file; or a
            storage URL.
        path: the HTML file to write, or a directory that receives `report.html`.
        study_name: which study, where the storage holds several.

    Returns:
        The file written.

    Raises:
        ReportError: the study cannot be read, `path` is the study itself, or plotly is not installed.
    """
    path = destination(path, "report.html")
    source = study_file(study)
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ReportError(f"The report would overwrite the study `{source}`: give another output path.")
    text = render_report(study, study_name=study_name)
    return write(path, text)


def render_report(study: Study | str | os.PathLike[str], *, study_name: str | None = None) -> str:
    """The report of a study as the text of an HTML page; see `write_report`."""
    check_plotly()
    opened, plots = open_study(study, study_name=study_name), Plots()
    try:
        record = read_record(opened)
        body = "\n".join(section(record, plots) for section in SECTIONS)
    except RecursionError as error:
        raise ReportError(
            f"Expected a space and architectures of a few levels in the study `{shown(opened.study_name)}`, got one "
            "that is nested too deeply to be shown."
        ) from error
    return page(record.name, body, plots)
