"""Horizontal bars, each with a name, for any number of names of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_autoarch.report.page import Plots
from lightning_autoarch.report.plot import BLUE, figure, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROW = 24  # pixels
FRAME = 78  # of the axis below
WIDEST_NAME = 36  # characters
LETTER = 7  # pixels, about
SPACE_FOR_BARS = 190  # pixels at least; a narrower page scrolls sideways
MOST_ROWS = 30  # before the frame scrolls


def bars(**trace: Any) -> go.Bar:
    """A trace of horizontal bars; plotly is imported when the first one is drawn."""
    import plotly.graph_objects as go

    looks = {"orientation": "h", "marker": {"color": BLUE}, "cliponaxis": False, "constraintext": "none"}
    return go.Bar(**{**looks, "textfont": {"size": 12}, **trace})


def bar_figure(
    traces: Sequence[go.Bar],
    names: Sequence[str],  # from the top; each trace has a value for each
    *,
    x: str,  # HTML
    **layout: Any,
) -> go.Figure:
    """Bars whose names can all be distinguished: see `short_names`."""
    rows = list(range(len(names)))
    for trace in traces:
        trace.y = rows
    axis = {
        "tickvals": rows,
        "ticktext": [plain(name, WIDEST_NAME) for name in short_names(names)],
        "range": [len(names) - 0.4, -0.6],
        "showgrid": False,
        "ticklen": 0,
        "fixedrange": True,
    }
    return figure(
        traces,
        x=x,
        y="",
        yaxis=axis,
        bargap=0.3,
        showlegend=False,
        height=ROW * len(names) + FRAME,
        **layout,
    )


def place_bars(
    plots: Plots,
    drawn: go.Figure,
    label: str,  # what a screen reader says
) -> str:
    """The figure, in a scrolling frame if it is very tall."""
    names = drawn.layout.yaxis.ticktext
    place = plots.place(drawn, label, min_width=LETTER * max(map(len, names)) + SPACE_FOR_BARS)
    return f'<div class="scroll tall">{place}</div>' if len(names) > MOST_ROWS else place


def short_names(names: Sequence[str]) -> list[str]:
    """Dotted names without the first parts that all long names share.

    >>> short_names(["net.encoder.layers.0.weight", "head.weight"])
    ['net.encoder.layers.0.weight', 'head.weight']
    >>> short_names(["net.encoder.layers.0.attention.out_proj.weight", "net.encoder.layers.1.attention.in_proj.weight"])
    ['…0.attention.out_proj.weight', '…1.attention.in_proj.weight']
    """
    long = [name.split(".") for name in names if len(name) > WIDEST_NAME]
    shared = ""
    for parts in zip(*(name[:-1] for name in long), strict=False):
        if len(set(parts)) > 1:
            break
        shared += f"{parts[0]}."
    return ["…" + name.removeprefix(shared) if shared and name.startswith(shared) else name for name in names]
