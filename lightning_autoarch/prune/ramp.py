"""A factor that grows linearly from 0 to 1 while training goes on.

factor(t) = clip((t - start) / (end - start), 0, 1)
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.schedule import Moment, Step, check_moment


@dataclass(frozen=True)
class Ramp:
    """Is 0 until `start` and 1 from `end` on; equal moments are a jump.

    Args:
        start: a fraction of the fit, or a `Step`.
        end: likewise, of the same kind. (A `start` of 0 goes with both.)

    Raises:
        PruneTypeError, PruneValueError: not two moments of one kind, out of range, or the end before the start.

    >>> ramp = Ramp(Step(100), Step(300))
    >>> [ramp.factor(step, 0.0) for step in (0, 100, 150, 300, 1000)]
    [0.0, 0.0, 0.25, 1.0, 1.0]
    >>> Ramp(0, 0.5).factor(0, 0.25)
    0.5
    """

    start: Moment
    end: Moment

    def __post_init__(self) -> None:
        for value in (self.start, self.end):
            check_moment(value, "ramp")
        if self.start != 0 and isinstance(self.start, Step) == self.in_fractions:
            raise PruneTypeError(
                f"Expected `ramp` as two fractions of the fit, or as two steps, (Step(0), Step(n)), got {self}."
            )
        if self._start > self._end:
            raise PruneValueError(f"Expected `ramp` as (start, end) with start <= end, got {self}.")

    @property
    def in_fractions(self) -> bool:
        return not isinstance(self.end, Step)

    def factor(self, step: int, fraction: float) -> float:  # in [0, 1]
        """At an optimizer step, counted from 0, and the fraction of the fit that is done before it."""
        now = fraction if self.in_fractions else step
        if not self._start < now < self._end:
            return float(now >= self._end)
        return (now - self._start) / (self._end - self._start)

    def __str__(self) -> str:
        return f"({self.start!r}, {self.end!r})"

    @property
    def _start(self) -> float:
        return self.start.step if isinstance(self.start, Step) else self.start

    @property
    def _end(self) -> float:
        return self.end.step if isinstance(self.end, Step) else self.end
