"""The surrogate's prediction for each proposal, and its uncertainty, against the score that was observed.

A proposal predicts a score N(mean, std^2). If the surrogate is calibrated, the central interval of probability p
contains the observed score with probability p, for every p: plotted against p, the share of scores inside is the
diagonal (a reliability diagram; Kuleshov, Fenner, Ermon 2018, arXiv:1807.00263). Below the diagonal the intervals are
too narrow, above it too wide. With n proposals the share also varies by chance: the number of scores inside is binomial
with parameters n and p.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING

from lightning_autoarch.report.page import Plots, nothing, section, table
from lightning_autoarch.report.plot import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    RED,
    figure,
    plain,
    robust_range,
    scatter,
    score_of,
)
from lightning_autoarch.report.record import Record, expected_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

_NORMAL = NormalDist()
LEVELS = (0.50, 0.80, 0.95)


@dataclass(frozen=True)
class Proposal:
    """The predicted and the observed score of a trial."""

    number: int
    mean: float
    std: float  # of the observed score, so it includes the noise
    observed: float

    @property
    def level(self) -> float:
        """The smallest p whose central interval contains the observed score, in [0, 1].

        >>> round(Proposal(0, mean=0.0, std=1.0, observed=1.96).level, 3)
        0.95
        """
        error = abs(self.observed - self.mean)
        if self.std == 0:
            return 0.0 if error == 0 else 1.0
        return 2 * _NORMAL.cdf(error / self.std) - 1


def half_width(std: float, p: float) -> float:
    """Half the width of the central interval of probability `p`."""
    return std * _NORMAL.inv_cdf((1 + p) / 2)


def inside(proposals: Sequence[Proposal], p: float) -> int:
    """Count the observed scores inside their interval of probability `p`."""
    return sum(proposal.level <= p for proposal in proposals)


def chance_band(n: int, p: float) -> tuple[float, float]:
    """The range of the share inside for a calibrated surrogate: 5 % and 95 % quantiles of the binomial, over n."""
    total, low = 0.0, None
    for k in range(n + 1):
        total += math.exp(_log_binomial(n, k, p))
        if low is None and total >= 0.05:
            low = k / n
        if total >= 0.95:
            return low or 0.0, k / n
    return low or 0.0, 1.0


def verdict(proposals: Sequence[Proposal]) -> str:
    """Return "too narrow" or "too wide" if a share inside is outside the chance band (80 % first), else "honest"."""
    n = len(proposals)
    for p in sorted(LEVELS, key=lambda level: abs(level - 0.8)):
        low, high = chance_band(n, p)
        share = inside(proposals, p) / n
        if not low <= share <= high:
            return "too narrow" if share < low else "too wide"
    return "honest"


def mean_error(proposals: Sequence[Proposal]) -> float:
    """Mean absolute difference between predicted and observed scores."""
    return fmean(abs(proposal.observed - proposal.mean) for proposal in proposals)


def guessing_error(proposals: Sequence[Proposal], seen: Sequence[tuple[int, float]]) -> float | None:
    """`mean_error` of a baseline that predicts the median score of the earlier trials; None if there are none.

    Args:
        proposals: the proposals.
        seen: number and score of every complete trial.
    """
    errors: list[float] = []
    earlier: list[float] = []  # sorted
    waiting = sorted(seen, reverse=True)
    for proposal in sorted(proposals, key=lambda proposal: proposal.number):
        while waiting and waiting[-1][0] < proposal.number:
            bisect.insort(earlier, waiting.pop()[1])
        if earlier:
            errors.append(abs(proposal.observed - (earlier[len(earlier) // 2] + earlier[~(len(earlier) // 2)]) / 2))
    return fmean(errors) if errors else None


def _log_binomial(n: int, k: int, p: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p)


MIN_PROPOSALS = 5
MAX_DRAWN = 300


def surrogate(record: Record, plots: Plots) -> str:
    """The section on the surrogate: its error, each proposal, then its calibration."""
    title, proposals = "What the surrogate expected", proposals_of(record)
    if not proposals:
        return section(title, nothing("No complete trial has an expected score. Only model-based proposals have one."))
    unknown = sum(expected_of(trial) is not None for trial in record.trials) - len(proposals)
    body = f"<p>{_error_words(record, proposals)}</p>"
    if len(proposals) > MAX_DRAWN:
        body += nothing(f"The last {MAX_DRAWN} are drawn.")
    body += plots.place(expected_by_trial(record, proposals[-MAX_DRAWN:]), "Expected and observed score by trial")
    if unknown:
        body += nothing(f"The final score of {unknown} more is not known: they did not end, failed, or were pruned.")
    if len(proposals) < MIN_PROPOSALS:
        return section(title, body + nothing(f"Calibration needs {MIN_PROPOSALS} proposals with a score."))
    pair = plots.place(expected_against_observed(record, proposals), "Observed against expected score")
    pair += plots.place(coverage(proposals), "Share of scores inside intervals against their probability")
    body += f"<h3>Calibration</h3><p>{_HONESTY[verdict(proposals)]}</p>"
    return section(title, f'{body}<div class="pair">{pair}</div>{_coverage_table(proposals)}')


_HONESTY = {
    "honest": "The intervals are as wide as they should be, as far as this number of proposals can show.",
    "too narrow": "The intervals are too narrow: the surrogate was overconfident.",
    "too wide": "The intervals are too wide: the surrogate was underconfident.",
}


def _error_words(record: Record, proposals: Sequence[Proposal]) -> str:
    seen = [(trial.number, score_of(trial)) for trial in record.ranked]
    guess = guessing_error(proposals, seen)
    text = f"Over {len(proposals)} proposals, the expected score was off by {mean_error(proposals):.2g} on average"
    if guess is None:
        return text + "."
    return f"{text}; always expecting the median of earlier scores would have been off by {guess:.2g}."


def _coverage_table(proposals: Sequence[Proposal]) -> str:
    n = len(proposals)
    rows = []
    for p in LEVELS:
        low, high = chance_band(n, p)
        k = inside(proposals, p)
        rows.append([f"{p:.0%}", f"{k} of {n}", f"{k / n:.0%}", f"{low:.0%} to {high:.0%}"])
    words = nothing("The share of a calibrated surrogate is within the last column nine times in ten.")
    return table(["interval", "scores inside", "share", "by chance"], rows) + words


def proposals_of(record: Record) -> list[Proposal]:
    """The complete trials with an expected score, by number."""
    complete = sorted(record.ranked, key=lambda trial: trial.number)
    expected = [(trial, expected_of(trial)) for trial in complete]
    return [Proposal(trial.number, *found, score_of(trial)) for trial, found in expected if found is not None]


def expected_by_trial(record: Record, proposals: Sequence[Proposal]) -> go.Figure:
    """The expected score of each proposal, with its 80 % and 95 % intervals, and the observed score."""
    traces = [_intervals(proposals, 0.95, 1.5, FAINT), _intervals(proposals, 0.80, 6, "rgba(128,128,128,0.55)")]
    for name, colour, chosen in (
        ("observed, inside 95%", GREEN, [p for p in proposals if p.level <= 0.95]),
        ("observed, outside", RED, [p for p in proposals if p.level > 0.95]),
    ):
        if chosen:
            traces.append(_came([p.number for p in chosen], chosen, name, colour))
    ends = [p.mean + side * half_width(p.std, 0.95) for p in proposals for side in (-1, 1)]
    view = robust_range([*ends, *(p.observed for p in proposals)], record.maximize)
    return figure(traces, x="trial", y=plain(record.score, 40), yaxis={"range": view})


def expected_against_observed(record: Record, proposals: Sequence[Proposal]) -> go.Figure:
    """Observed against expected scores, with one standard deviation to either side; exact predictions are diagonal."""
    points = _came([p.mean for p in proposals], proposals, "proposals", BLUE)
    points.error_x = {"array": [p.std for p in proposals], "color": FAINT, "thickness": 1.2, "width": 0}
    view = robust_range([*(p.observed for p in proposals), *(p.mean for p in proposals)], record.maximize)
    score = plain(record.score, 30)
    return figure(
        [_diagonal(*view), points],
        x=f"{score} expected",
        y=f"{score} observed",
        xaxis={"range": view},
        yaxis={"range": view},
        showlegend=False,
    )


def coverage(proposals: Sequence[Proposal]) -> go.Figure:
    """Share of scores inside the interval of probability p, against p. Grey: the chance band."""
    n, grid = len(proposals), [i / 20 for i in range(1, 20)]
    low, high = zip(*(chance_band(n, p) for p in grid), strict=True)
    steps = [i / 100 for i in range(101)]
    traces = [
        scatter(
            x=[0, *grid, 1, *reversed(grid)],
            y=[0, *high, 1, *reversed(low)],
            mode="lines",
            fill="toself",
            fillcolor="rgba(128,128,128,0.18)",
            line={"width": 0},
            name="chance",
            hoverinfo="skip",
        ),
        _diagonal(0, 1),
        scatter(
            x=steps,
            y=[inside(proposals, p) / n for p in steps],
            mode="lines",
            name="observed",
            line={"color": BLUE, "width": 2.5},
            hoverinfo="skip",
        ),
        scatter(
            x=list(LEVELS),
            y=[inside(proposals, p) / n for p in LEVELS],
            mode="markers",
            marker={"color": ORANGE, "size": 10},
            name="50, 80, 95%",
            hovertemplate="%{y:.0%} inside the %{x:.0%} interval<extra></extra>",
        ),
    ]
    percent = {"range": [0, 1.02], "tickformat": ".0%", "dtick": 0.25}
    return figure(
        traces,
        x="probability of the interval",
        y="scores inside it",
        xaxis=percent,
        yaxis=percent,
        showlegend=False,
    )


def _intervals(proposals: Sequence[Proposal], level: float, width: float, colour: str) -> go.Scatter:
    """The central intervals of one probability, drawn as one line with gaps."""
    ends = [(p.mean - half_width(p.std, level), p.mean + half_width(p.std, level), None) for p in proposals]
    return scatter(
        x=[x for p in proposals for x in (p.number, p.number, None)],
        y=[y for end in ends for y in end],
        mode="lines",
        name=f"expected, {level:.0%}",
        line={"color": colour, "width": width},
        hoverinfo="skip",
    )


def _came(x: Sequence[float], proposals: Sequence[Proposal], name: str, colour: str) -> go.Scatter:
    return scatter(
        x=x,
        y=[p.observed for p in proposals],
        mode="markers",
        name=name,
        marker={"color": colour, "size": 8},
        hovertext=[
            f"trial {p.number}<br>expected {p.mean:.4g} ± {p.std:.2g}<br>observed {p.observed:.4g}" for p in proposals
        ],
        hoverinfo="text",
    )


def _diagonal(low: float, high: float) -> go.Scatter:
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    return scatter(x=[low, high], y=[low, high], mode="lines", line=line, name="honest", hoverinfo="skip")
