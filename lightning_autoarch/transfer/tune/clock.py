"""What is frozen now: a phase of training, and the clock that says when the next one begins.

Every parameter belongs to a phase, from which on it is trained: phase 0 is the start, and None means never. A clock
counts the phases that have begun. It only goes forward, by one of two rules:

    Timetable    phase k begins at a fixed epoch, or optimizer step, t_k
    Plateau      phase k begins when a metric m has not improved for `patience` checks in a row, or at the latest `cap`
                 epochs or steps after phase k - 1:

                     improved  <=>  m < best - min_delta    (mode "min"),    m > best + min_delta    (mode "max")

A NaN is no improvement. The best value is that of the whole fit, and checks are counted anew in each phase. The state
of a clock is plain data, and a clock that loads it continues as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from lightning_autoarch.core.errors import TransferError

Unit: TypeAlias = Literal["epoch", "step"]
UNITS: tuple[str, ...] = get_args(Unit)
Mode: TypeAlias = Literal["min", "max"]
MODES: tuple[str, ...] = get_args(Mode)


class Moment(NamedTuple):
    """A point of training.

    Attributes:
        epoch: The current epoch.
        step: Number of optimizer steps before it.
        position: The position in epochs, with the fraction of the current one.
    """

    epoch: int
    step: int
    position: float

    def of(self, unit: str) -> int:
        """The number of epochs or steps before it."""
        return self.step if unit == "step" else self.epoch


START = Moment(0, 0, 0.0)


class Length(NamedTuple):
    """The length of a fit, as far as it is known.

    Attributes:
        epochs: Number of epochs; None if unknown.
        steps: Number of optimizer steps; None if unknown.
    """

    epochs: int | None
    steps: int | None = None

    def of(self, unit: str) -> int | None:
        """The length in epochs or steps."""
        return self.steps if unit == "step" else self.epochs


@dataclass(frozen=True)
class Timetable:
    """Phases that begin at fixed times.

    Args:
        begins: Times of phases 1, 2, ..., ascending.
        unit: Their unit, "epoch" or "step".
    """

    begins: tuple[int, ...] = ()
    unit: str = "epoch"

    @property
    def phases(self) -> int:
        """Number of phases after the first."""
        return len(self.begins)


@dataclass(frozen=True)
class Plateau:
    """Phases that begin when a metric no longer improves.

    Args:
        phases: Number of phases after the first.
        mode: Whether "min" or "max" is better.
        patience: Number of checks in a row without an improvement.
        min_delta: By how much a value has to be better than the best one.
        cap: Number of epochs or steps after which the next phase begins in any case; None for no limit.
        unit: Unit of `cap`, "epoch" or "step".
    """

    phases: int
    mode: str = "min"
    patience: int = 3
    min_delta: float = 0.0
    cap: int | None = None
    unit: str = "epoch"

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best one so far, which is None if there is none yet.

        >>> Plateau(1, min_delta=0.25).improves(0.5, 0.6), Plateau(1, "max").improves(0.7, 0.6)
        (False, True)
        """
        if self.mode == "max":
            return value - self.min_delta > (-math.inf if best is None else best)
        return value + self.min_delta < (math.inf if best is None else best)


@dataclass
class Clock:
    """Counts the phases that have begun.

    Args:
        rule: When they begin.

    Attributes:
        begun: The moment at which each of phases 1, 2, ... began.
        best: The best value of the metric so far.
        wait: Number of checks without an improvement.
        checked: Number of batches before the last check, so that a check that is repeated does not count twice.

    Example::

        >>> clock = Clock(Timetable((500, 900), "step"))
        >>> clock.advance(Moment(0, 499, 0.4)), clock.advance(Moment(0, 500, 0.5)), clock.phase
        (False, True, 1)
    """

    rule: Timetable | Plateau = Timetable()
    begun: list[Moment] = field(default_factory=list)
    best: float | None = None
    wait: int = 0
    checked: int = -1

    @property
    def phase(self) -> int:
        """The current phase."""
        return len(self.begun)

    def began(self, phase: int) -> Moment | None:
        """When a phase began; None if it has not."""
        return START if phase == 0 else self.begun[phase - 1] if phase <= self.phase else None

    def check(self, value: float, batches: int) -> None:
        """Record a value of the metric after a number of batches. Does nothing for a timetable."""
        if not isinstance(self.rule, Plateau) or batches <= self.checked:
            return
        self.checked = batches
        if self.rule.improves(value, self.best):
            self.best, self.wait = value, 0
        else:
            self.wait += 1

    def advance(self, now: Moment) -> bool:
        """Begin the phases that are due; returns whether any were."""
        before = self.phase
        while self.phase < self.rule.phases and self._is_due(now):
            self.begun.append(self._planned(now))
            self.wait = 0
        return self.phase > before

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data."""
        begun = [list(moment) for moment in self.begun]
        return {"begun": begun, "best": self.best, "wait": self.wait, "checked": self.checked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            TransferError: It has more phases than this clock.
        """
        begun = [Moment(*moment) for moment in state["begun"]]
        if len(begun) > self.rule.phases:
            raise TransferError(
                f"Expected at most {self.rule.phases} phases of thawing in the checkpoint that is resumed, as this "
                f"module and these arguments have, got {len(begun)}: it is of another module. Pass the file as "
                "`checkpoint`, not as `ckpt_path`."
            )
        self.begun, self.best = begun, state["best"]
        self.wait, self.checked = state["wait"], state["checked"]

    def _is_due(self, now: Moment) -> bool:
        rule = self.rule
        if isinstance(rule, Timetable):
            return now.of(rule.unit) >= rule.begins[self.phase]
        if self.wait >= rule.patience:
            return True
        since = self.began(self.phase)
        assert since is not None
        return rule.cap is not None and now.of(rule.unit) - since.of(rule.unit) >= rule.cap

    def _planned(self, now: Moment) -> Moment:
        """The moment at which a phase begins; epochs of a timetable count from the planned one, also in a late fit."""
        if isinstance(self.rule, Timetable) and self.rule.unit == "epoch":
            epoch = self.rule.begins[self.phase]
            return now._replace(epoch=epoch, position=float(epoch))
        return now
