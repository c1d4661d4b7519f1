"""How sparse at which optimizer step.

A place in the fit is a fraction of it when a float, a number of optimizer steps when an int. Schedules know nothing of
training: `sparsity_at(step, total)` is what they are, `total` the steps of the whole fit.

    t      optimizer steps taken           s_t    sparsity after step t, of the dense weights
    t_0    first step with a mask          s_i    initial sparsity           s_f    final sparsity
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune.amounts import real

Place = int | float  # in this order: a command line takes the first that fits, and 2 is a step


class SparsitySchedule(ABC):
    """Sparsity of the dense weights as a function of the optimizer step."""

    @property
    @abstractmethod
    def final(self) -> float:
        """The largest sparsity, in [0, 1)."""

    @abstractmethod
    def sparsity_at(self, step: int, total: int | None) -> float:
        """Sparsity when `step` optimizer steps of `total` are done; `total` None: the fit has no known end.

        Raises:
            PruneValueError: the schedule does not fit into the fit, or needs its end.
        """

    def changes_at(self, step: int, total: int | None) -> bool:
        """Whether the sparsity jumps at exactly this step, which is then not waited for."""
        return step > 0 and self.sparsity_at(step, total) != self.sparsity_at(step - 1, total)

    def check(self, total: int | None) -> None:
        """Raises PruneValueError where the schedule does not fit into a fit of `total` steps."""
        self.sparsity_at(0, total)


@dataclass(frozen=True)
class ConstantSparsity(SparsitySchedule):
    """The same from before the first step.

    >>> ConstantSparsity(0.8).sparsity_at(0, 100)
    0.8
    """

    sparsity: float

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "sparsity")

    @property
    def final(self) -> float:
        return float(self.sparsity)

    def sparsity_at(self, step: int, total: int | None) -> float:
        return self.final


@dataclass(frozen=True)
class OneShot(SparsitySchedule):
    """Dense, and all of it pruned at one place.

    >>> [OneShot(0.5, at=0.25).sparsity_at(step, 100) for step in (24, 25)]
    [0.0, 0.5]
    """

    sparsity: float
    at: Place = 0.5

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "sparsity")
        check_place(self.at, "at")

    @property
    def final(self) -> float:
        return float(self.sparsity)

    def sparsity_at(self, step: int, total: int | None) -> float:
        return self.final if step >= steps(self.at, total, "at") else 0.0


@dataclass(frozen=True)
class CubicSparsity(SparsitySchedule):
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3 from t_0 = `start` to t_1 = `end`: fast at first.

    Zhu & Gupta 2017, *To prune, or not to prune*, equation 1.

    >>> schedule = CubicSparsity(0.8, start=0, end=100)
    >>> [round(schedule.sparsity_at(step, 200), 3) for step in (0, 50, 100, 150)]
    [0.0, 0.7, 0.8, 0.8]
    """

    final_sparsity: float
    start: Place = 0.0
    end: Place = 0.75
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_sparsity(self.final_sparsity, "final_sparsity")
        check_sparsity(self.initial, "initial")
        check_place(self.start, "start")
        check_place(self.end, "end")
        if type(self.start) is type(self.end) and self.end < self.start:
            raise PruneValueError(f"Expected `end` >= `start`, got start={self.start} and end={self.end}.")
        if self.initial > self.final_sparsity:
            raise PruneValueError(f"Expected `initial` <= {self.final_sparsity}, the final one, got {self.initial}.")

    @property
    def final(self) -> float:
        return float(self.final_sparsity)

    def sparsity_at(self, step: int, total: int | None) -> float:
        start, end = steps(self.start, total, "start"), steps(self.end, total, "end")
        if end < start:
            raise PruneValueError(f"Expected `end` >= `start`, got steps {start} to {end} of {total}.")
        if step < start:
            return 0.0
        if step >= end:
            return self.final
        left = 1 - (step - start) / (end - start)
        return self.final + (self.initial - self.final) * left**3

    def changes_at(self, step: int, total: int | None) -> bool:
        return step in (steps(self.start, total, "start"), steps(self.end, total, "end"))


@dataclass(frozen=True)
class IterativeSparsity(SparsitySchedule):
    """Rounds of training and pruning; each removes the same share of what is left: s_r = 1 - (1 - s_f)^(r / rounds).

    The fit is `rounds + 1` equal parts with a pruning after each but the last. With `rewind_to` the weights that are
    left go back, after every pruning, to what they were: the lottery ticket (Frankle & Carbin 2019; to an early step:
    Frankle et al. 2020).

    Args:
        final_sparsity: after the last round.
        rounds: how many prunings.
        rewind_to: "init", the weights before the first step; an optimizer step; None: train on.

    >>> schedule = IterativeSparsity(0.875, rounds=3)
    >>> [round(schedule.sparsity_at(step, 400), 3) for step in (99, 100, 200, 300)]
    [0.0, 0.5, 0.75, 0.875]
    """

    final_sparsity: float
    rounds: int = 5
    rewind_to: str | int | None = None

    def __post_init__(self) -> None:
        check_sparsity(self.final_sparsity, "final_sparsity")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise PruneValueError(f"Expected `rounds` to be an int >= 1, got {self.rounds!r}.")
        rewinds = self.rewind_to in (None, "init") or (isinstance(self.rewind_to, int) and self.rewind_to >= 0)
        if isinstance(self.rewind_to, bool) or not rewinds:
            raise PruneValueError(
                f'Expected `rewind_to` to be "init", an optimizer step or None, got {self.rewind_to!r}.'
            )

    @property
    def final(self) -> float:
        return float(self.final_sparsity)

    @property
    def rewind_step(self) -> int | None:
        """The step whose weights are kept for rewinding."""
        return 0 if self.rewind_to == "init" else self.rewind_to  # type: ignore[return-value]

    def sparsity_at(self, step: int, total: int | None) -> float:
        if total is None:
            raise PruneValueError(
                "IterativeSparsity divides the fit into rounds: it needs `max_epochs` or `max_steps`."
            )
        if total <= self.rounds:
            raise PruneValueError(
                f"Expected a fit of more than {self.rounds} optimizer steps, a round each, got {total}."
            )
        if self.rewind_step is not None and self.rewind_step >= self.boundary(1, total):
            raise PruneValueError(
                f"Expected `rewind_to` before the first round ends at step {self.boundary(1, total)}, got "
                f"{self.rewind_to}."
            )
        done = sum(step >= self.boundary(r, total) for r in range(1, self.rounds + 1))
        return float(1 - (1 - self.final) ** (done / self.rounds)) if done else 0.0

    def boundary(self, round_number: int, total: int) -> int:
        """The optimizer step after which a round, counted from 1, prunes."""
        return total * round_number // (self.rounds + 1)


def steps(place: Place, total: int | None, name: str) -> int:
    """A place in a fit as a number of optimizer steps.

    Raises:
        PruneValueError: a fraction of a fit without a known end, or a step behind its end.

    >>> steps(0.5, 300, "start"), steps(20, 300, "start"), steps(0.0, None, "start")
    (150, 20, 0)
    """
    if isinstance(place, float):
        if place == 0:
            return 0
        if total is None:
            raise PruneValueError(
                f"`{name}={place}` is a fraction of the fit, whose length is unknown: give `max_epochs` or "
                f"`max_steps`, or `{name}` as an int, in optimizer steps."
            )
        return round(place * total)
    if total is not None and place > total:
        raise PruneValueError(f"Expected `{name}` within the fit's {total} optimizer steps, got {place}.")
    return place


def check_sparsity(value: float, name: str) -> None:
    """Raises PruneTypeError or PruneValueError unless it is a number in [0, 1)."""
    if not 0 <= real(value, name) < 1:
        raise PruneValueError(f"Expected `{name}` in [0, 1), got {value}.")


def check_place(value: Place, name: str) -> None:
    """Raises PruneValueError unless it is a fraction in [0, 1] or a number of steps."""
    fraction = isinstance(value, float) and 0 <= value <= 1
    if isinstance(value, bool) or not (fraction or (isinstance(value, int) and value >= 0)):
        raise PruneValueError(
            f"Expected `{name}` to be a fraction in [0.0, 1.0] of the fit or an int, in optimizer steps, got {value!r}."
        )
