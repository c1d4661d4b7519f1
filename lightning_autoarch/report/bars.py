"""Horizontal bars with a name each, for any number of names of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_autoarch.report.page import Plots
from lightning_autoarch.report.plot import BLUE, figure, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROW = 24  # pixels
FRAME = 90  # of the axis below and a legend above
WIDEST_NAME = 44  # characters
LETTER = 7.5  # pixels, about
MOST_ROWS = 30  # before the frame scrolls


def bars(**trace: Any) -> go.Bar:
    """A trace of horizontal bars; plotly is imported when the first one is drawn."""
    import plotly.graph_objects as go

    return go.Bar(**{"orientation": "h", "marker": {"color": BLUE}, "cliponaxis": False, **trace})


def bar_figure(
    traces: Sequence[go.Bar],
    names: Sequence[str],  # from the top; each trace has a value for each
    *,
    x: str,  # HTML
    **layout: Any,
) -> go.Figure:
    """Every name is readable: one that is too long is cut in the middle, and told by a hover."""
    shown = [plain(name, WIDEST_NAME) for name in names]
    for trace in traces:
        trace.y = list(range(len(names)))
    axis = {
        "tickvals": list(range(len(names))),
        "ticktext": shown,
        "range": [len(names) - 0.4, -0.6],
        "showgrid": False,
        "ticklen": 0,
        "fixedrange": True,
    }
    layout = {"showlegend": False, "bargap": 0.3, "height": ROW * len(names) + FRAME, **layout}
    return figure(traces, x=x, y="", **{**layout, "yaxis": {**axis, **layout.get("yaxis", {})}})


def place_bars(plots: Plots, drawn: go.Figure, label: str) -> str:
    """The figure, in a frame that scrolls where it is very tall."""
    place = plots.place(drawn, label)
    return f'<div class="scroll tall">{place}</div>' if len(drawn.layout.yaxis.tickvals) > MOST_ROWS else place
