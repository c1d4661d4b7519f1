"""How the search went: the score trial by trial, and each trial epoch by epoch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_autoarch.report.facts import Record, curve_of, origin_of, step_unit
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

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.trial import FrozenTrial

ORIGIN_COLOURS = {"random": GREY, "bayesian": BLUE, "enqueued": GREEN}
MAX_CURVES = 120  # more lines than this are a smear, and slow to draw


def convergence(record: Record, plots: Plots) -> str:
    """Score by trial."""
    if not record.ranked:
        return section("Convergence", nothing("No trial is complete, so there is no score to draw."))
    folds = any(map(stderr_of, record.ranked))
    words = "A point is a trial" + (", its bar the standard error over folds." if folds else ".")
    drawn = convergence_figure(record)
    words += beyond([score_of(trial) for trial in record.ranked], drawn.layout.yaxis.range)
    plot = plots.place(drawn, "Score by trial with the best so far")
    return section("Convergence", nothing(words) + plot)


def learning_curves(record: Record, plots: Plots) -> str:
    """Intermediate values by step."""
    trials = _with_curves(record)
    if not trials:
        return section("Learning curves", nothing("No trial reported a value along the way."))
    words = "One line a trial. Dotted lines were not finished and end in a cross."
    if len(trials) > MAX_CURVES:
        words += f" The best {MAX_CURVES} are drawn."
    drawn = curves_figure(record, trials[:MAX_CURVES])
    words += beyond([y for trial in trials[:MAX_CURVES] for _, y in curve_of(trial)], drawn.layout.yaxis.range)
    plot = plots.place(drawn, "Intermediate values of the trials")
    return section("Learning curves", nothing(words) + plot)


def convergence_figure(record: Record) -> go.Figure:
    """Score by trial; best so far as a line, pruned trials by their last value, failed ones on the lower edge."""
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
    """The trials with intermediate values, best first, those that are not ranked last."""
    return [t for t in [*record.ranked, *record.of("pruned", "running", "failed")] if curve_of(t)]


def curves_figure(record: Record, trials: Sequence[FrozenTrial]) -> go.Figure:
    """Intermediate values by step, the best trial on top; trials that did not end are dotted and end in a cross."""
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
    """Where trials came from -> colour, in order of appearance."""
    return {o: ORIGIN_COLOURS.get(o, BLUE) for o in dict.fromkeys(origin_of(trial) for trial in trials)}
