"""A factor that grows linearly from 0 to 1 while training goes on.

factor(t) = clip((t - start) / (end - start), 0, 1)
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.amounts import real


@dataclass(frozen=True)
class Ramp:
    """Begins at `start` and is whole from `end` on; equal ones are a jump.

    Args:
        start: a fraction of the fit when float, optimizer steps when int.
        end: likewise, of the same kind. (0 is both.)

    Raises:
        PruneTypeError, PruneValueError: not two numbers of one kind, out of range, or the end before the start.

    >>> ramp = Ramp(100, 300)
    >>> [ramp.factor(step, 0.0) for step in (0, 100, 150, 300, 1000)]
    [0.0, 0.0, 0.25, 1.0, 1.0]
    >>> Ramp(0.0, 0.5).factor(0, 0.25)
    0.5
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        for value in (self.start, self.end):
            real(value, "ramp")
        numbers = isinstance(self.start, float | int) and isinstance(self.end, float | int)
        if not numbers or (self.start != 0 and isinstance(self.start, float) != self.in_fractions):
            raise PruneTypeError(
                f"Expected `ramp` as two floats, fractions of the fit, or two ints, optimizer steps; got {self}. "
                "Write 1.0 for the whole fit."
            )
        if not 0 <= self.start <= self.end or (self.in_fractions and self.end > 1):
            raise PruneValueError(
                f"Expected `ramp` as (start, end) with 0 <= start <= end, and fractions of the fit <= 1; got {self}."
            )

    @property
    def in_fractions(self) -> bool:
        return isinstance(self.end, float)

    def factor(self, step: int, fraction: float) -> float:  # in [0, 1]
        """At an optimizer step, counted from 0, and the fraction of the fit that is done before it."""
        now = fraction if self.in_fractions else step
        if not self.start < now < self.end:
            return float(now >= self.end)
        return (now - self.start) / (self.end - self.start)

    def __str__(self) -> str:
        return f"({self.start!r}, {self.end!r})"
