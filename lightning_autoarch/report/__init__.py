"""Reports a study as one HTML page: what was searched, how the search went, its result, and the surrogate's quality.

    study or file ─► source (opens, never creates) ─► a `Record` ─► sections (text, tables, figures) ─► page

`write_pruning_report` and `write_transfer_report` write pages in the same style for a pruning and for a transfer.

A page needs no network, as it contains plotly.js.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_autoarch.core.errors import ReportError, shown
from lightning_autoarch.report import calibration, curves, influence, overview, ranking
from lightning_autoarch.report.page import Plots, check_plotly, destination, page, write
from lightning_autoarch.report.pruning import write_pruning_report
from lightning_autoarch.report.record import read_record
from lightning_autoarch.report.source import open_study, study_file
from lightning_autoarch.report.transferred import write_transfer_report

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
    curves.convergence,
    curves.learning_curves,
    ranking.leaderboard,
    influence.influence,
    curves.size,
    calibration.surrogate,
    ranking.failures,
    overview.space,
)


def write_report(
    study: Study | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    study_name: str | None = None,
) -> Path:
    """Write the report of a study as an HTML page.

    The same study gives the same file, byte for byte. The study is not changed.

    Args:
        study: any Optuna study with one objective, the path of an SQLite or journal file, or a storage URL.
        path: the HTML file to write, or a directory in which to write `report.html`. Missing parents are created.
        study_name: the study to report, where the storage holds several. Default: the only one.

    Returns:
        The path of the file.

    Raises:
        ReportError: the study cannot be read, `path` is the study's own file, or plotly is not installed.
    """
    path = destination(path, "report.html")
    source = study_file(study)
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ReportError(f"The report would overwrite the study `{source}`: give another output path.")
    text = render_report(study, study_name=study_name)
    return write(path, text)


def render_report(study: Study | str | os.PathLike[str], *, study_name: str | None = None) -> str:
    """Return the report of a study as HTML; see `write_report`."""
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
