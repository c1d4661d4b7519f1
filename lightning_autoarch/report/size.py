"""Score against the number of parameters: is a bigger module worth it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_autoarch.report.facts import Record
from lightning_autoarch.report.page import Plots, nothing, section
from lightning_autoarch.report.plot import (
    BLUE,
    ORANGE,
    figure,
    plain,
    points,
    robust_range,
    scatter,
    score_of,
    stderr_of,
)
from lightning_autoarch.search.leaderboard import count, real

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.trial import FrozenTrial


def size(record: Record, plots: Plots) -> str:
    """Score against the number of parameters."""
    drawn = size_figure(record)
    if drawn is None:
        return section("Score against size", nothing("That takes complete trials of at least two sizes."))
    return section("Score against size", plots.place(drawn, "Score against the number of parameters"))


def size_figure(record: Record) -> go.Figure | None:
    """Score against the number of parameters, and the line that no smaller model beats; None without two sizes."""
    sized = [trial for trial in record.ranked if (real(trial.user_attrs.get("params")) or 0) > 0]
    if len({_size(trial) for trial in sized}) < 2:
        return None
    front = pareto_front(sized, record.maximize)
    sizes = [_size(trial) for trial in sized]
    traces = [
        points([trial for trial in sized if trial not in front], "complete", BLUE, x=_size),
        scatter(
            x=[*(_size(trial) for trial in front), max(sizes)],
            y=[*(score_of(trial) for trial in front), score_of(front[-1])],
            mode="lines",
            name="no smaller model is better",
            line={"color": ORANGE, "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
        ),
        points(front, "on the line", ORANGE, x=_size),
    ]
    traces[-1].showlegend = False
    wide = max(sizes) / min(sizes) > 8
    ticks = _count_ticks(min(sizes), max(sizes)) if wide else {}
    return figure(
        traces,
        x="parameters of the module",
        y=plain(record.score, 40),
        xaxis={"type": "log" if wide else "linear", **ticks},
        yaxis={
            "range": robust_range(
                [score_of(t) + sign * stderr_of(t) for t in sized for sign in (-1, 1)], record.maximize
            )
        },
    )


def pareto_front(trials: Sequence[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    """The trials that no trial of the same size or smaller equals or beats, smallest first."""
    sign = -1 if maximize else 1
    front: list[FrozenTrial] = []
    for trial in sorted(trials, key=lambda t: (_size(t), sign * score_of(t), t.number)):
        if not front or sign * score_of(trial) < sign * score_of(front[-1]):
            front.append(trial)
    return front


def _size(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["params"])


def _count_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten (1 alone over a wide range), written as counts."""
    steps = (1, 2, 5) if high / low < 200 else (1,)
    ticks = [s * 10**e for e in range(0, 16) for s in steps if low / 1.3 <= s * 10**e <= high * 1.3]
    return {"tickvals": ticks, "ticktext": [count(tick) for tick in ticks]}
