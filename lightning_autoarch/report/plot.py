"""The common style of all figures: their colours, and axes that ignore diverged trials.

Plotly reads texts as HTML, so names and choices, which come from users, pass through `plain`. Colours and grid have a
medium lightness and backgrounds are transparent, so that a figure suits the light and the dark page as well as print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from html import escape
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from lightning_autoarch.search.leaderboard import architecture_of, in_one_line, real, score_text

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.trial import FrozenTrial

BLUE, ORANGE, GREEN, RED, GREY = "#3b82c4", "#e08a00", "#2f9e6e", "#cf4f3e", "#8d95a3"
GRID, FAINT = "rgba(128,128,128,0.22)", "rgba(128,128,128,0.45)"


def figure(traces: Sequence[go.Scatter], *, x: str, y: str, **layout: Any) -> go.Figure:
    """A figure of these traces; `x` and `y` are the titles of the axes (HTML)."""
    import plotly.graph_objects as go

    layout["xaxis"] = {**layout.get("xaxis", {}), "title": {"text": x}}
    layout["yaxis"] = {**layout.get("yaxis", {}), "title": {"text": y}}
    return styled(go.Figure(list(traces)), **layout)


def styled(figure: go.Figure, *, height: int = 400, **layout: Any) -> go.Figure:
    """Apply the common style to a figure, then `layout`, and return it."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    figure.update_layout(
        template="none",
        title=None,
        height=height,
        margin={"l": 60, "r": 16, "t": 40 if layout.get("showlegend", True) else 12, "b": 48},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#555"},
        hoverlabel={"align": "left"},
        xaxis=axis,
        yaxis=axis,
    )
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"})
    return figure.update_layout(**layout)


def scatter(**trace: Any) -> go.Scatter:
    """A scatter trace. Plotly is imported here, when it is first needed."""
    import plotly.graph_objects as go

    return go.Scatter(**trace)


def plain(
    text: object,
    width: int | None = None,  # in characters; the middle of a longer text is left out
) -> str:
    """Escape a text so that plotly shows it literally. Plotly knows `&amp;`, `&lt;` and `&gt;`, but not `&quot;`."""
    text = str(text)
    if width is not None and len(text) > width:
        text = text[: width // 2 - 1] + "..." + text[-(width - width // 2 - 2) :]
    return escape(text, quote=False)


def points(
    trials: Sequence[FrozenTrial],
    name: str,
    colour: str,
    x: Callable[[FrozenTrial], float] = lambda trial: trial.number,
) -> go.Scatter:
    """A trace of scores with their standard errors."""
    errors = [stderr_of(trial) for trial in trials]
    bars = {"array": errors, "color": FAINT, "thickness": 1.2, "width": 0}
    return scatter(
        x=[x(trial) for trial in trials],
        y=[score_of(trial) for trial in trials],
        mode="markers",
        name=plain(name, 32),
        marker={"color": colour, "size": 8, "opacity": 0.85},
        error_y=bars if any(errors) else None,
        hovertext=[hover(trial) for trial in trials],
        hoverinfo="text",
    )


def hover(trial: FrozenTrial) -> str:
    """The hover text of a trial: number, score and architecture, escaped and wrapped."""
    lines = textwrap.wrap(in_one_line(architecture_of(trial)), 70, max_lines=8, placeholder=" ...")
    score = f": {score_text(trial)}" if trial.value is not None else ""
    return "<br>".join([f"trial {trial.number}{score}", *map(plain, lines)])


def robust_range(values: Sequence[float], maximize: bool) -> list[float]:
    """The range of an axis that leaves out outliers on the bad side, such as the scores of diverged trials.

    >>> robust_range([0.1, 0.2, 0.3, 0.4, 1e9], maximize=False)[1] < 3
    True
    """
    low, high = min(values), max(values)
    if len(values) >= 4:
        first, _, third = quantiles(values, n=4, method="inclusive")
        reach = 8 * (third - first)
        if reach > 0 and maximize:
            low = max(low, first - reach)
        elif reach > 0:
            high = min(high, third + reach)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return [low - pad, high + pad]


def beyond(values: Sequence[float], view: Sequence[float]) -> str:
    """A sentence on the values outside the range of an axis; empty if there are none."""
    low, high = view
    n = sum(not low <= value <= high for value in values)
    if n == 0:
        return ""
    return f" {n} value{'s' * (n != 1)} far off {'is' if n == 1 else 'are'} beyond the edge: autoscale shows all."


def stderr_of(trial: FrozenTrial) -> float:
    """The standard error of a trial's score, 0 if none is stored."""
    return real(trial.user_attrs.get("stderr")) or 0.0


def score_of(trial: FrozenTrial) -> float:
    """The score of a complete trial."""
    return float(trial.value or 0.0)
