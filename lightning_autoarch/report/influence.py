"""Which parameters matter: importances and parallel coordinates, both computed by Optuna.

Optuna is given a copy of the study in which names and choices are escaped: plotly reads its texts as HTML.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape, unescape
from typing import TYPE_CHECKING, Any

from lightning_autoarch.report.page import Plots, nothing, section
from lightning_autoarch.report.plot import BLUE, GREY, ORANGE, plain, robust_range, score_of, styled
from lightning_autoarch.report.record import Record

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SCALE = (GREY, BLUE, ORANGE)  # worst to best
AXIS_PIXELS = 72  # room for a label such as `separable` or `inactive` beside its axis
MAX_TICKS = 10
MAX_COORDINATES = 12  # with more axes a line cannot be followed
MAX_LINES = 300
MAX_BARS = 30
MIN_TRIALS_FOR_IMPORTANCE = 8
BEST_TRIALS_FOR_IMPORTANCE = 5  # Optuna's advice: at least five trials above the quantile


def influence(record: Record, plots: Plots) -> str:
    """The section on parameters: importances, then parallel coordinates of the most important ones."""
    title, names = "Which parameters matter", parameters(record)
    if not names:
        return section(title, nothing("This needs complete trials that differ in a parameter."))
    body, order = _importance(record, names, plots)
    trials = _near(record)[:MAX_LINES]
    axes = [name for name in order if any(name in trial.params for trial in trials)][:MAX_COORDINATES]
    words = "Each line is a complete trial, from grey over blue to orange the better it is. It passes through "
    words += "<i>inactive</i> where the trial does not have the parameter."
    if len(axes) < len(order):
        words += f" {len(axes)} of {len(order)} parameters are drawn, the most important ones if that is known."
    if len(trials) < len(record.ranked):
        words += f" The best {len(trials)} trials are drawn."
    body += f"<h3>Parallel coordinates</h3>{nothing(words)}" + plots.place(
        parallel_coordinates(record, trials, axes),
        "Parallel coordinates of the complete trials",
        min_width=AXIS_PIXELS * (len(axes) + 2),
    )
    return section(title, body)


def _near(record: Record) -> list[FrozenTrial]:
    """The complete trials, without outliers that would compress all other scores into one colour."""
    low, high = robust_range([score_of(trial) for trial in record.ranked], record.maximize)
    return [trial for trial in record.ranked if low <= score_of(trial) <= high]


def _importance(
    record: Record, names: list[str], plots: Plots
) -> tuple[str, list[str]]:  # HTML, and the names, the most important first
    n, best = len(record.ranked), best_trials(record)
    if n < MIN_TRIALS_FOR_IMPORTANCE:
        return nothing(f"Importance takes {MIN_TRIALS_FOR_IMPORTANCE} complete trials; there are {n}."), names
    if best == n:
        return nothing("Most complete trials have the same score: no parameter sets the best apart."), names
    drawn, values = importances(record, names)
    words = nothing(
        f"How differently the best {best} of {n} complete trials choose a parameter than all of them do "
        "(conditional PED-ANOVA). A parameter that only some trials have is judged among those, and counts the "
        "more, the oftener the best have it; its label says how many trials that is. With few trials the order "
        "is a hint, no more."
    )
    return words + plots.place(drawn, "Importance of each parameter") + _left_out(record, names), list(values)


def _left_out(record: Record, names: list[str]) -> str:
    left = [f"<code>{escape(name)}</code>" for name in record.distributions if name not in names]
    why = "of which the complete trials show fewer than two values"
    return nothing(f"Left out are parameters {why}: {', '.join(left)}.") if left else ""


def parallel_coordinates(
    record: Record,
    trials: Sequence[FrozenTrial],
    names: Sequence[str],
) -> go.Figure:
    """Optuna's parallel coordinates, coloured from grey to orange for the best, which are drawn on top."""
    from optuna.visualization import plot_parallel_coordinate

    score = plain(record.score, 40)
    with _quiet_optuna():
        study = _escaped_study(record, trials, _axis)
        drawn = plot_parallel_coordinate(study, params=[plain(name) for name in names], target_name=score)
    axes = sorted(names, key=plain)
    partial = {i for i, name in enumerate(axes, start=1) if any(name not in trial.params for trial in trials)}
    for annotation in drawn.layout.annotations:
        if annotation.text == "None" and annotation.x in partial:
            annotation.text = "<i>inactive</i>"
        else:
            annotation.text = plain(unescape(annotation.text), 12)
        annotation.font = {"size": 11}
    lines = [trace for trace in drawn.data if trace.mode == "lines"]
    for line in lines:
        merit = line.y[0] if record.maximize else 1 - line.y[0]
        line.update(line={"color": _merit_colour(merit), "width": 1 + merit}, opacity=0.35 + 0.6 * merit)
    bar = {"thickness": 12, "title": {"text": score, "side": "right"}}
    scale = {"colorscale": [[i / 2, colour] for i, colour in enumerate(SCALE)], "colorbar": bar}
    others = [trace for trace in drawn.data if trace.mode != "lines"]
    for trace in others:
        trace.update(marker=scale)
    drawn.data = [*sorted(lines, key=lambda line: line.line.width), *others]
    ticks = {
        "tickangle": -35,
        "showgrid": False,
        "ticktext": [plain(record.score, 14), *(plain(name, 22) for name in axes)],
    }
    return styled(drawn, height=440, xaxis=ticks, margin={"t": 16, "b": 90})


def _merit_colour(merit: float) -> str:
    """The colour of SCALE at `merit` in [0, 1]."""
    from plotly.colors import find_intermediate_color, hex_to_rgb

    low, high = SCALE[:2] if merit < 0.5 else SCALE[1:]
    part = 2 * merit if merit < 0.5 else 2 * merit - 1
    red, green, blue = find_intermediate_color(hex_to_rgb(low), hex_to_rgb(high), part)
    return f"rgb({red:.0f},{green:.0f},{blue:.0f})"


def importances(
    record: Record, names: list[str]
) -> tuple[go.Figure, dict[str, float]]:  # the share of each name, the largest first
    """Optuna's importances as bars. (Its own plot copies every trial once a parameter: a minute at 5,000 trials.)

    PED-ANOVA for conditional spaces (arXiv:2601.20800) compares the density of a parameter's values among the best
    trials with that among all, over the trials that have it. It draws no random number, and its time is linear in
    parameters times trials.
    """
    import plotly.graph_objects as go
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    n, escaped = len(record.ranked), {plain(name): name for name in sorted(names)}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=_quantile(n))
    study = _escaped_study(record, record.ranked)
    with _quiet_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning on parameters of few trials, which the labels mention
        found = get_param_importances(study, evaluator=evaluator, params=list(escaped))
    values = {escaped[name]: value for name, value in found.items()}
    shown = list(values)[:MAX_BARS][::-1]  # plotly draws the first bar at the bottom
    bars = go.Bar(
        x=[values[name] for name in shown],
        y=[_bar_label(name, sum(name in trial.params for trial in record.ranked), n) for name in shown],
        text=[f"{values[name]:.2f}" if values[name] >= 0.01 else "<0.01" for name in shown],
        textposition="outside",
        cliponaxis=False,
        orientation="h",
        marker={"color": BLUE},
        hoverinfo="x+y",
    )
    drawn = styled(
        go.Figure([bars]),
        height=100 + 26 * len(shown),
        xaxis={"title": {"text": "share of importance"}, "range": [0, 1.15 * max(values.values())]},
        yaxis={"showgrid": False},
        margin={"t": 12},
    )
    return drawn, values


def best_trials(record: Record) -> int:
    """How many of the best trials importance is computed for: a tenth, at least five, and ties with the last."""
    scores = [trial.value for trial in record.ranked]
    last = scores[math.ceil(_quantile(len(scores)) * len(scores)) - 1]
    return len(scores) - scores[::-1].index(last)


def parameters(record: Record) -> list[str]:
    """The parameters with at least two different values in the complete trials."""
    values: dict[str, set[str]] = {}
    for trial in record.ranked:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name in record.distributions if len(values.get(name, ())) > 1]


def _quantile(n: int) -> float:
    return min(0.5, max(0.1, BEST_TRIALS_FOR_IMPORTANCE / n))


def _bar_label(name: str, having: int, of: int) -> str:
    return plain(name) if having == of else f"{plain(name)} <i>({having} of {of})</i>"


def _escaped_study(
    record: Record,
    trials: Sequence[FrozenTrial],
    convert: Callable[[BaseDistribution], BaseDistribution] = lambda distribution: distribution,
) -> Study:
    """An in-memory study of some trials' parameters and scores, with names and choices escaped for plotly."""
    from optuna import create_study
    from optuna.trial import create_trial

    with _quiet_optuna():
        study = create_study(direction="maximize" if record.maximize else "minimize")
        for trial in sorted(trials, key=lambda trial: trial.number):
            study.add_trial(
                create_trial(
                    params={plain(k): _escaped(v) for k, v in trial.params.items()},
                    distributions={plain(k): convert(_escaped_choices(d)) for k, d in trial.distributions.items()},
                    value=trial.value,
                )
            )
    return study


def _escaped(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else plain(value)


def _escaped_choices(distribution: BaseDistribution) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return CategoricalDistribution([_escaped(choice) for choice in distribution.choices])
    return distribution


def _axis(distribution: BaseDistribution) -> BaseDistribution:
    """Turn a small integer range into choices, for which Optuna draws one tick each instead of fractions."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, IntDistribution) and not distribution.log:
        values = range(distribution.low, distribution.high + 1, distribution.step)
        if len(values) <= MAX_TICKS:
            return CategoricalDistribution(list(values))
    return distribution


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
