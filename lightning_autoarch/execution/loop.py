"""The search itself: claim a trial, get its architecture, have it trained, record its result, until the budget ends.

    ledger.claim ─► sampler ─► known? within the limits? ─► specs.of ─► executor.submit ─► record ─► old checkpoints
         ▲                              │ no: closed, untrained                                           │
         └──────────────────────────────┴─────────────────────────────────────────────────────────────────┘

It knows neither the outer Trainer nor where trials are trained. Whatever ends it early (Ctrl-C, a lost database)
releases the trial in work, so that the next start continues it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import optuna

from lightning_autoarch.core.errors import (
    CheckpointNotPlain,
    MonitorMissing,
    SearchError,
    SpaceError,
    SpaceExhausted,
    shown,
)
from lightning_autoarch.execution.executor import Executor
from lightning_autoarch.execution.outcome import FirstFailures
from lightning_autoarch.execution.records import Checkpoints, Observer, Reporting, record
from lightning_autoarch.seam.optuna import heartbeat, is_enqueued, stop_redirected, stored
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.search.storage import storage_errors_translated
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.training.limits import Limits
from lightning_autoarch.training.trial import TrialSpec

REJECTED_IN_A_ROW = 200  # a sampler that knows no limits may propose only known or refused architectures


@dataclass(frozen=True)
class TrialBudget:
    """Totals over all resumes and processes: trials that count, and seconds of training (None: no limit)."""

    n_trials: int
    timeout_seconds: float | None = None


class Specs(Protocol):
    """Makes the spec of each trial."""

    def of(self, number: int, architecture: Architecture) -> TrialSpec:
        """For trial `number` of this architecture."""
        ...


class SearchLoop:
    """See the module's docstring.

    Args:
        ledger: the study.
        specs: makes the spec of a trial.
        executor: trains it.
        limits: refuse architectures before training, and give the sizes that are stored of a candidate.
        budget: when to stop.
        observer: receives the progress.
        checkpoints: of the trials; None where nothing is written.
    """

    def __init__(
        self,
        ledger: Ledger,
        specs: Specs,
        executor: Executor,
        *,
        limits: Limits,
        budget: TrialBudget,
        observer: Observer,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._ledger, self._specs, self._executor, self._limits = ledger, specs, executor, limits
        self._budget, self._observer, self._checkpoints = budget, observer, checkpoints
        self._failures = FirstFailures(ledger)
        self._rejected = 0  # proposals in a row that were known or refused
        self._stopped = False  # by the sampler: Optuna's for grids call `study.stop` when they have nothing left
        self._cardinality = ledger.space.cardinality(limit=1000)

    def run(self) -> None:
        """Work until trials or time run out, or nothing is left to try."""
        with stop_redirected(self._ledger.study, self._stop), _cheap_collections(), storage_errors_translated():
            self._run()

    def _stop(self) -> None:
        self._stopped = True

    def _run(self) -> None:
        while not self._stopped and not self._out_of_time():
            claimed = self._ledger.claim(self._budget.n_trials)
            if claimed is None:
                return
            trial, _ = claimed
            try:
                with heartbeat(trial):
                    self._work_on(trial)
            except SpaceExhausted as exhausted:
                self._ledger.mark_refused(trial, str(exhausted))
                self._observer.said(f"The search ends after {len(self._ledger.finished())} trials: {exhausted}")
                return
            except (MonitorMissing, CheckpointNotPlain) as wrong:
                self._ledger.mark_refused(trial, str(wrong))
                raise
            except BaseException:
                self._ledger.release(trial)
                raise
            if self._rejected and self._nothing_new():
                return

    def _out_of_time(self) -> bool:
        limit = self._budget.timeout_seconds
        return limit is not None and self._ledger.seconds() >= limit

    def _nothing_new(self) -> bool:
        """Whether a sampler that proposed something known or refused has nothing else to propose."""
        tried = len(self._ledger.finished())
        if tried >= self._cardinality:
            self._observer.said(f"The search ends: all {tried} architectures of the space have been tried.")
        elif self._rejected >= REJECTED_IN_A_ROW:
            self._observer.said(f"The search ends: {self._rejected} proposals in a row were known or refused.")
        return tried >= self._cardinality or self._rejected >= REJECTED_IN_A_ROW

    def _work_on(self, trial: optuna.Trial) -> None:
        architecture = self._proposed(trial)
        if architecture is None:
            self._rejected += 1
            return
        self._rejected = 0
        trial.set_user_attr("architecture", written(architecture))
        self._observer.trial_started(trial.number)
        reporting = Reporting(trial, self._observer)
        result = self._executor.submit(self._specs.of(trial.number, architecture), reporting).result()
        if reporting.error is not None:
            raise reporting.error
        record(self._ledger, trial, result, self._limits.sizes(architecture) if result.error is None else {})
        self._observer.trial_ended(trial.number, result)
        if self._checkpoints is not None:
            self._checkpoints.remove_others(self._ledger)
        self._failures.check(result)

    def _proposed(self, trial: optuna.Trial) -> Architecture | None:
        """The architecture of a trial; None, with the trial closed, where it is known or not allowed."""
        try:
            architecture = self._suggested(trial)
        except SpaceError as error:
            self._ledger.mark_refused(trial, str(error))
            return None
        if (twin := self._ledger.twin(architecture, trial.number)) is not None:
            self._ledger.mark_duplicate(trial, twin)
            return None
        if (reason := self._limits.violation(architecture)) is not None:
            self._ledger.mark_refused(trial, reason)
            return None
        return architecture

    def _suggested(self, trial: optuna.Trial) -> Architecture:
        """What the sampler proposes, or the study has fixed: Optuna accepts fixed values in range or not.

        Raises:
            SpaceError: the fixed values are not of the space.
        """
        given = stored(trial)
        fixed = bool(given.params) or is_enqueued(given)
        try:
            architecture = self._ledger.space.suggest(trial)
        except SpaceExhausted:
            raise
        except SearchError as error:
            unmet = "" if self._ledger.finished() else self._limits.unmet()
            raise SearchError(f"{error} {unmet}".rstrip()) from error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            if not fixed or isinstance(error, SpaceError):
                raise
            raise SpaceError(
                f"The study has fixed parameters that are not of the space: {shown(str(error))}"
            ) from error
        if fixed:
            self._ledger.space.flatten(architecture)
        return architecture


@contextlib.contextmanager
def _cheap_collections() -> Iterator[None]:
    """Exclude all objects from before the search from the garbage collection that ends each trial.

    A Trainer and its module refer to each other, so nothing else frees a candidate's memory in time. A collection takes
    0.1 to 0.2 s among the million objects of Lightning and torch, and 0.01 s among those of a trial.
    """
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
