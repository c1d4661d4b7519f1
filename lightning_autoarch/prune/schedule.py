"""How sparse the weights are at each optimizer step, and moments of a fit.

A moment is a number, the fraction of the fit that is done, or `Step(n)`, when n optimizer steps are done. Schedules
know nothing of training: they are functions `sparsity_at(step, total)`, with `total` the steps of the whole fit.

    t      optimizer steps taken           s_t    sparsity after step t, of the dense weights
    t_0    first step with a mask          s_i    initial sparsity           s_f    final sparsity
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.counts import as_int, as_number


@dataclass(frozen=True, order=True)
class Step:
    """The moment at which `step` optimizer steps are done; in YAML `{step: 500}`.

    Raises:
        PruneTypeError, PruneValueError: `step` is not an int >= 0.

    >>> OneShot(0.5, at=Step(500))
    OneShot(sparsity=0.5, at=Step(500))
    """

    step: int

    def __post_init__(self) -> None:
        if as_int(self.step, "step") < 0:
            raise PruneValueError(f"Expected `step` >= 0, got {self.step}.")

    def __repr__(self) -> str:
        return f"Step({self.step})"


Moment = float | Step  # a number is a fraction of the fit in [0, 1]: 0 is its start, 1 its end


class SparsitySchedule(ABC):
    """Sparsity of the dense weights as a function of the optimizer step."""

    @property
    @abstractmethod
    def final(self) -> float:
        """The largest sparsity, in [0, 1)."""

    @abstractmethod
    def sparsity_at(self, step: int, total: int | None) -> float:
        """Sparsity when `step` optimizer steps of `total` are done; `total` is None if the fit has no known end.

        Raises:
            PruneValueError: the schedule is longer than the fit, or needs to know its end.
        """

    def changes_at(self, step: int, total: int | None) -> bool:
        """Whether the masks change at exactly this step, whatever `every_n_steps` is."""
        return step > 0 and self.sparsity_at(step, total) != self.sparsity_at(step - 1, total)

    def check(self, total: int | None) -> None:
        """Raises PruneValueError if the schedule cannot be used in a fit of `total` steps."""
        self.sparsity_at(0, total)


@dataclass(frozen=True)
class ConstantSparsity(SparsitySchedule):
    """The same sparsity from before the first step on.

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
    """Dense until `at`, when everything is pruned at once.

    >>> [OneShot(0.5, at=0.25).sparsity_at(step, 100) for step in (24, 25)]
    [0.0, 0.5]
    """

    sparsity: float
    at: Moment = 0.5

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "sparsity")
        check_moment(self.at, "at")

    @property
    def final(self) -> float:
        return float(self.sparsity)

    def sparsity_at(self, step: int, total: int | None) -> float:
        return self.final if step >= step_of(self.at, total, "at") else 0.0


@dataclass(frozen=True)
class CubicSparsity(SparsitySchedule):
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3 from t_0 = `start` to t_1 = `end`: fast at the beginning.

    Zhu & Gupta 2017, *To prune, or not to prune*, equation 1.

    >>> schedule = CubicSparsity(0.8, end=Step(100))
    >>> [round(schedule.sparsity_at(step, 200), 3) for step in (0, 50, 100, 150)]
    [0.0, 0.7, 0.8, 0.8]
    """

    final_sparsity: float
    start: Moment = 0.0
    end: Moment = 0.75
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_sparsity(self.final_sparsity, "final_sparsity")
        check_sparsity(self.initial, "initial")
        check_moment(self.start, "start")
        check_moment(self.end, "end")
        if not _in_order(self.start, self.end):
            raise PruneValueError(f"Expected `end` >= `start`, got start={self.start} and end={self.end}.")
        if self.initial > self.final_sparsity:
            raise PruneValueError(f"Expected `initial` <= {self.final_sparsity}, the final one, got {self.initial}.")

    @property
    def final(self) -> float:
        return float(self.final_sparsity)

    def sparsity_at(self, step: int, total: int | None) -> float:
        start, end = step_of(self.start, total, "start"), step_of(self.end, total, "end")
        if end < start:
            raise PruneValueError(f"Expected `end` >= `start`, got steps {start} to {end} of {total}.")
        if step < start:
            return 0.0
        if step >= end:
            return self.final
        left = 1 - (step - start) / (end - start)
        return self.final + (self.initial - self.final) * left**3

    def changes_at(self, step: int, total: int | None) -> bool:
        return step in (step_of(self.start, total, "start"), step_of(self.end, total, "end"))


@dataclass(frozen=True)
class IterativeSparsity(SparsitySchedule):
    """Rounds of training and pruning, each removing the same share of what is left: s_r = 1 - (1 - s_f)^(r / rounds).

    The fit is divided into `rounds + 1` equal parts, with a pruning after each but the last. With `rewind_to`, the
    remaining weights are reset after every pruning to what they were: the lottery ticket (Frankle & Carbin 2019; to an
    early step: Frankle et al. 2020).

    Args:
        final_sparsity: the sparsity after the last round.
        rounds: the number of prunings.
        rewind_to: the moment whose weights are restored: a fraction of the fit, `Step(n)`, or "init", before the first
            step. None: training goes on with the weights as they are.

    >>> schedule = IterativeSparsity(0.875, rounds=3)
    >>> [round(schedule.sparsity_at(step, 400), 3) for step in (99, 100, 200, 300)]
    [0.0, 0.5, 0.75, 0.875]
    """

    final_sparsity: float
    rounds: int = 5
    rewind_to: Literal["init"] | Moment | None = None

    def __post_init__(self) -> None:
        check_sparsity(self.final_sparsity, "final_sparsity")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise PruneValueError(f"Expected `rounds` to be an int >= 1, got {self.rounds!r}.")
        if isinstance(self.rewind_to, str) and self.rewind_to != "init":
            raise PruneValueError(
                f'Expected `rewind_to` to be "init", a fraction of the fit, Step(n) or None, got {self.rewind_to!r}.'
            )
        if self.rewind_to not in (None, "init"):
            check_moment(self.rewind_to, "rewind_to")

    @property
    def final(self) -> float:
        return float(self.final_sparsity)

    def rewind_step(self, total: int | None) -> int | None:
        """The optimizer step whose weights are kept for rewinding; None where there is none."""
        if self.rewind_to is None:
            return None
        return 0 if self.rewind_to == "init" else step_of(self.rewind_to, total, "rewind_to")

    def sparsity_at(self, step: int, total: int | None) -> float:
        if total is None:
            raise PruneValueError(
                "IterativeSparsity divides the fit into rounds: it needs `max_epochs` or `max_steps`."
            )
        if total <= self.rounds:
            raise PruneValueError(
                f"Expected a fit of more than {self.rounds} optimizer steps, a round each, got {total}."
            )
        kept = self.rewind_step(total)
        if kept is not None and kept >= self.boundary(1, total):
            raise PruneValueError(
                f"Expected `rewind_to` before the first round ends at step {self.boundary(1, total)}, got "
                f"{self.rewind_to}."
            )
        done = sum(step >= self.boundary(r, total) for r in range(1, self.rounds + 1))
        return float(1 - (1 - self.final) ** (done / self.rounds)) if done else 0.0

    def boundary(self, round_number: int, total: int) -> int:
        """The optimizer step after which a round, counted from 1, prunes."""
        return total * round_number // (self.rounds + 1)


@dataclass(frozen=True)
class Ramp:
    """A factor that grows linearly from 0 at `start` to 1 at `end`: clip((t - start) / (end - start), 0, 1).

    Args:
        start: a fraction of the fit, or `Step(n)`.
        end: likewise, of the same kind (a `start` of 0 is both). If they are equal, the factor jumps.

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


def step_of(moment: Moment, total: int | None, name: str) -> int:
    """The number of optimizer steps that are done at a moment of a fit of `total` steps.

    Raises:
        PruneValueError: a fraction of a fit without a known end, or a step after its end.

    >>> step_of(0.5, 300, "start"), step_of(Step(20), 300, "start"), step_of(0, None, "start"), step_of(1, 300, "end")
    (150, 20, 0, 300)
    """
    if isinstance(moment, Step):
        if total is not None and moment.step > total:
            raise PruneValueError(f"Expected `{name}` within the fit's {total} optimizer steps, got {moment}.")
        return moment.step
    if moment == 0:
        return 0
    if total is None:
        raise PruneValueError(
            f"`{name}={moment}` is a fraction of the fit, whose length is unknown: give `max_epochs` or `max_steps`, "
            f"or `{name}=Step(n)`, in optimizer steps."
        )
    return round(moment * total)


def check_sparsity(value: float, name: str) -> None:
    """Raises PruneTypeError or PruneValueError unless it is a number in [0, 1)."""
    if not 0 <= as_number(value, name) < 1:
        raise PruneValueError(f"Expected `{name}` in [0, 1), got {value}.")


def check_moment(value: object, name: str) -> None:
    """Raises PruneTypeError or PruneValueError unless it is a fraction in [0, 1] or a `Step`."""
    if isinstance(value, Step):
        return
    if not 0 <= as_number(value, name) <= 1:
        raise PruneValueError(
            f"Expected `{name}` to be a fraction of the fit in [0, 1], or Step(n) for an optimizer step, got {value!r}."
        )


def _in_order(start: Moment, end: Moment) -> bool:
    """Whether the end is not before the start, as far as that is known without the length of the fit."""
    if isinstance(start, Step) and isinstance(end, Step):
        return start <= end
    return isinstance(start, Step) or isinstance(end, Step) or start <= end
