"""Figures of a search: the score by trial, the learning curves, and the score against the size of the module."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_autoarch.report.page import Plots, nothing, section
from lightning_autoarch.report.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    beyond,
    figure,
    hover,
    plain,
    points,
    robust_range,
    scatter,
    score_of,
    stderr_of,
)
from lightning_autoarch.report.record import Record, curve_of, origin_of, step_unit
from lightning_autoarch.search.leaderboard import count, real

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.trial import FrozenTrial

ORIGIN_COLOURS = {"random": GREY, "bayesian": BLUE, "enqueued": GREEN}
MAX_CURVES = 120  # more lines cannot be told apart, and are slow to draw


def convergence(record: Record, plots: Plots) -> str:
    """The section on convergence: the score by trial."""
    if not record.ranked:
        return section("Convergence", nothing("No trial is complete, so there is no score to draw."))
    folds = any(map(stderr_of, record.ranked))
    words = "Each point is a trial" + (", with its standard error over folds." if folds else ".")
    drawn = convergence_figure(record)
    words += beyond([score_of(trial) for trial in record.ranked], drawn.layout.yaxis.range)
    plot = plots.place(drawn, "Score by trial with the best so far")
    return section("Convergence", nothing(words) + plot)


def learning_curves(record: Record, plots: Plots) -> str:
    """The section on learning curves: intermediate values by step."""
    trials = _with_curves(record)
    if not trials:
        return section("Learning curves", nothing("No trial reported intermediate values."))
    words = "Each line is a trial. Trials that were not finished are dotted and end in a cross."
    if len(trials) > MAX_CURVES:
        words += f" The best {MAX_CURVES} are drawn."
    drawn = curves_figure(record, trials[:MAX_CURVES])
    words += beyond([y for trial in trials[:MAX_CURVES] for _, y in curve_of(trial)], drawn.layout.yaxis.range)
    plot = plots.place(drawn, "Intermediate values of the trials")
    return section("Learning curves", nothing(words) + plot)


def convergence_figure(record: Record) -> go.Figure:
    """Score by trial and the best so far. Pruned trials are at their last value, failed ones at the lower edge."""
    complete = sorted(record.ranked, key=lambda trial: trial.number)
    view = robust_range(_values_in_view(record), record.maximize)
    end = record.trials[-1].number
    traces = [
        points([trial for trial in complete if origin_of(trial) == origin], origin or "complete", colour)
        for origin, colour in _origins(complete).items()
    ]
    traces.append(_best_so_far(record, complete, end))
    if pruned := [trial for trial in record.of("pruned") if curve_of(trial)]:
        marker = {"symbol": "diamond-open", "color": GREY, "size": 8}
        values = [curve_of(trial)[-1][1] for trial in pruned]
        traces.append(_marks(pruned, values, "pruned, last value", marker))
    if failed := record.of("failed"):
        marker = {"symbol": "x-thin", "size": 8, "line": {"color": RED, "width": 2}}
        traces.append(_marks(failed, [view[0]] * len(failed), "failed", marker))
    return figure(
        traces,
        x="trial",
        y=plain(record.score, 40),
        xaxis={"range": [-0.03 * end - 0.5, 1.03 * end + 0.5], **({"dtick": 1} if end < 10 else {})},
        yaxis={"range": view},
    )


def _values_in_view(record: Record) -> list[float]:
    ends = [score_of(trial) + side * stderr_of(trial) for trial in record.ranked for side in (-1, 1)]
    return [*ends, *(curve_of(trial)[-1][1] for trial in record.of("pruned") if curve_of(trial))]


def _best_so_far(record: Record, complete: Sequence[FrozenTrial], end: int) -> go.Scatter:
    better = max if record.maximize else min
    best = list(itertools.accumulate(map(score_of, complete), better))
    return scatter(
        x=[*(trial.number for trial in complete), end],
        y=[*best, best[-1]],
        mode="lines",
        name="best so far",
        line={"color": ORANGE, "width": 2.5, "shape": "hv"},
        hoverinfo="skip",
    )


def _marks(trials: Sequence[FrozenTrial], values: Sequence[float], name: str, marker: dict[str, Any]) -> go.Scatter:
    return scatter(
        x=[trial.number for trial in trials],
        y=values,
        mode="markers",
        name=name,
        marker=marker,
        hovertext=[hover(trial) for trial in trials],
        hoverinfo="text",
        cliponaxis=False,
    )


def _with_curves(record: Record) -> list[FrozenTrial]:
    """The trials with intermediate values: the ranked ones, best first, then the others."""
    return [t for t in [*record.ranked, *record.of("pruned", "running", "failed")] if curve_of(t)]


def curves_figure(record: Record, trials: Sequence[FrozenTrial]) -> go.Figure:
    """Intermediate values by step, with the best trial on top. Unfinished trials are dotted and end in a cross."""
    ranked, best = {trial.number for trial in record.ranked}, record.best.number if record.best else -1
    unit = step_unit(record)
    traces: list[go.Scatter] = []
    for trial in reversed(trials):
        trace = _best_curve(trial) if trial.number == best else _curve(trial, trial.number in ranked)
        trace.x = [step + unit.first for step, _ in curve_of(trial)]
        trace.showlegend = all(trace.name != other.name for other in traces)
        traces.append(trace)
    steps = {step for trial in trials for step, _ in curve_of(trial)}
    values = [y for trial in trials for _, y in curve_of(trial)]
    return figure(
        traces,
        x=unit.name,
        y=plain(record.score, 40),
        xaxis={"dtick": 1} if len(steps) < 10 else {},
        yaxis={"range": robust_range(values, record.maximize)},
        legend={"traceorder": "reversed"},
    )


def _best_curve(trial: FrozenTrial) -> go.Scatter:
    line, marker = {"color": ORANGE, "width": 3}, {"size": 6, "color": ORANGE}
    return _steps(trial, name=f"best, trial {trial.number}", line=line, marker=marker)


def _curve(trial: FrozenTrial, ended: bool) -> go.Scatter:
    colour, dash = (BLUE, "solid") if ended else (GREY, "dot")
    before = len(curve_of(trial)) - 1
    marker: dict[str, Any] = {
        "line": {"width": 0},
        "symbol": ["circle"] * before + ["circle" if ended else "x"],
        "size": [1] * before + [4 if ended else 7],
    }
    line = {"color": colour, "width": 1.2, "dash": dash}
    return _steps(trial, name="complete" if ended else "not finished", line=line, marker=marker, opacity=0.6)


def _steps(trial: FrozenTrial, *, name: str, **looks: Any) -> go.Scatter:
    steps, values = zip(*curve_of(trial), strict=True)
    texts = [hover(trial)] * len(steps)
    return scatter(
        x=steps,
        y=values,
        mode="lines+markers",
        name=name,
        legendgroup=name,
        hovertext=texts,
        hoverinfo="x+y+text",
        **looks,
    )


def _origins(trials: Sequence[FrozenTrial]) -> dict[str, str]:
    """Map the origins of trials, in order of appearance, to colours."""
    return {o: ORIGIN_COLOURS.get(o, BLUE) for o in dict.fromkeys(origin_of(trial) for trial in trials)}


def size(record: Record, plots: Plots) -> str:
    """The section on size: the score against the number of parameters."""
    drawn = size_figure(record)
    if drawn is None:
        return section("Score against size", nothing("This needs complete trials of at least two sizes."))
    return section("Score against size", plots.place(drawn, "Score against the number of parameters"))


def size_figure(record: Record) -> go.Figure | None:
    """Score against the number of parameters, with the Pareto front; None unless there are two sizes."""
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
    """The Pareto front: the trials that are better than all trials of the same or a smaller size, smallest first."""
    sign = -1 if maximize else 1
    front: list[FrozenTrial] = []
    for trial in sorted(trials, key=lambda t: (_size(t), sign * score_of(t), t.number)):
        if not front or sign * score_of(trial) < sign * score_of(front[-1]):
            front.append(trial)
    return front


def _size(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["params"])


def _count_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten, over a wide range at powers of ten only, labelled as counts."""
    steps = (1, 2, 5) if high / low < 200 else (1,)
    ticks = [s * 10**e for e in range(0, 16) for s in steps if low / 1.3 <= s * 10**e <= high * 1.3]
    return {"tickvals": ticks, "ticktext": [count(tick) for tick in ticks]}
