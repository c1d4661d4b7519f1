"""Did the surrogate know what it did not know?

A proposal expects a score N(mean, std^2). If that is honest, the central interval of probability p holds the
observed score with probability p, for every p: the share of scores inside, against p, lies on the diagonal (a
reliability diagram; Kuleshov, Fenner, Ermon 2018, arXiv:1807.00263). Below it the intervals are too narrow, above it
too wide. With n proposals chance alone moves the share: the number inside is binomial with parameters n and p.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

_NORMAL = NormalDist()
LEVELS = (0.50, 0.80, 0.95)


@dataclass(frozen=True)
class Proposal:
    """What was expected of a trial, and what was observed."""

    number: int
    mean: float
    std: float  # of the score as observed, noise included
    observed: float

    @property
    def level(self) -> float:
        """The smallest p whose central interval holds the observed score, in [0, 1].

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
    """How many observed scores lie in their interval of probability `p`."""
    return sum(proposal.level <= p for proposal in proposals)


def chance_band(n: int, p: float) -> tuple[float, float]:
    """The shares between which an honest surrogate stays nine times in ten: 5 % and 95 % quantiles of binomial / n."""
    total, low = 0.0, None
    for k in range(n + 1):
        total += math.exp(_log_binomial(n, k, p))
        if low is None and total >= 0.05:
            low = k / n
        if total >= 0.95:
            return low or 0.0, k / n
    return low or 0.0, 1.0


def verdict(proposals: Sequence[Proposal]) -> str:
    """`"too narrow"`, `"too wide"` or `"honest"`: whether a share inside leaves the chance band, that of 80 % first."""
    n = len(proposals)
    for p in sorted(LEVELS, key=lambda level: abs(level - 0.8)):
        low, high = chance_band(n, p)
        share = inside(proposals, p) / n
        if not low <= share <= high:
            return "too narrow" if share < low else "too wide"
    return "honest"


def mean_error(proposals: Sequence[Proposal]) -> float:
    """Mean absolute difference between expected and observed scores."""
    return fmean(abs(proposal.observed - proposal.mean) for proposal in proposals)


def guessing_error(proposals: Sequence[Proposal], seen: Sequence[tuple[int, float]]) -> float | None:
    """The same for a guesser who always expects the median of the scores of earlier trials; None without any.

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
