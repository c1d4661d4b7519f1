"""The sensitivity of each layer to pruning as a figure: score against sparsity, one line for each layer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from lightning_autoarch.core.errors import PruneTypeError
from lightning_autoarch.core.optional import needed
from lightning_autoarch.report.plot import BLUE, GREEN, GREY, ORANGE, RED, figure, plain, scatter
from lightning_autoarch.training.sensitivity import COLUMNS

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

LOOKS = [(colour, dash) for dash in ("solid", "dash", "dot") for colour in (BLUE, ORANGE, GREEN, RED)]  # 12 layers


def plot_sensitivity(frame: pandas.DataFrame) -> go.Figure:
    """One line for each layer of the result of `sensitivity`, starting at the dense module; the dense score is a level.

    Raises:
        PruneTypeError: the frame has other columns.
        MissingPackageError: plotly is not installed.
    """
    needed("plotly", "A sensitivity plot", '"lightning-autoarch[report]"')
    missing = [column for column in COLUMNS if column not in getattr(frame, "columns", ())]
    if missing or not len(frame):
        what = f"without the column `{missing[0]}`" if missing else "without rows"
        raise PruneTypeError(f"Expected the table that `sensitivity` returns, got one {what}.")
    dense = float(frame.score.iloc[0] - frame.change.iloc[0])
    dense = float(frame.attrs.get("dense", dense))  # attrs are lost when a table is stored
    looks = itertools.cycle(LOOKS)
    lines = [_line(str(layer), rows, dense, *next(looks)) for layer, rows in frame.groupby("layer", sort=False)]
    level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": dense, "y1": dense}
    level["line"] = {"color": GREY, "width": 1, "dash": "dot"}
    return figure(
        lines,
        x="sparsity of the layer",
        y=plain(frame.attrs.get("monitor", "score")),
        xaxis={"tickformat": ".0%", "range": [-0.02, 1.02]},
        shapes=[level],
        showlegend=True,
    )


def _line(layer: str, rows: pandas.DataFrame, dense: float, colour: str, dash: str) -> Any:
    ordered = rows.sort_values("sparsity")
    return scatter(
        x=[0.0, *ordered.sparsity],
        y=[dense, *ordered.score],
        mode="lines+markers",
        name=plain(layer, 40),
        line={"color": colour, "dash": dash, "width": 2},
        marker={"size": 6},
        hovertemplate=f"{plain(layer)}<br>%{{x:.1%}} pruned: %{{y:.4g}}<extra></extra>",
    )
