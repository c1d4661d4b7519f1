"""The search itself: claim a trial, get its architecture, train it, record its result, until the budget ends.

It knows neither the outer Trainer nor how trials are run. Whatever ends it early (Ctrl-C, a lost database) releases the
trial in work, so that the next start continues it.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_autoarch.core.errors import (
    CheckpointNotPlain,
    MonitorMissing,
    SearchError,
    SpaceError,
    SpaceExhausted,
    shown,
)
from lightning_autoarch.seam.optuna import heartbeat, is_enqueued, stop_redirected, stored
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.search.storage_errors import storage_errors_translated
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.training.facts import Facts
from lightning_autoarch.training.limits import Limits
from lightning_autoarch.training.recorder import Report
from lightning_autoarch.training.trial import RETRIED, TrialResult
from lightning_autoarch.training.trial_files import LAST, inside, trial_directory

_MEND = "Mend the code and start again: trials that an exception ended are run again and do not count until then."
RunTrial = Callable[[int, Architecture, Report], TrialResult]

REJECTED_IN_A_ROW = 200  # a sampler that knows no limits may propose only known or refused architectures
SAME_FAILURES: dict[str, int] = {"code": 5, "build": 20}  # of the first trials, after which none will do better


@dataclass(frozen=True)
class Budget:
    """Totals over all resumes and processes: trials that count, and seconds of training (None: no limit)."""

    n_trials: int
    timeout: float | None = None


class Observer(Protocol):
    """Receives the search's progress."""

    def trial_started(self, number: int) -> None: ...
    def value(self, step: int, value: float) -> None: ...
    def trial_ended(self, number: int, result: TrialResult) -> None: ...
    def said(self, message: str) -> None: ...


class SearchLoop:
    """See the module's docstring.

    Args:
        ledger: the study.
        run_trial: trains one architecture under a trial number.
        limits: refuse architectures before training.
        facts: what is stored of a candidate's size; None stores nothing.
        budget: when to stop.
        observer: receives the progress.
        directory: of the trials' checkpoints, `trials/NNNN` each; None where nothing is written.
        keep_top_k: how many of the best trials keep their checkpoints.
    """

    def __init__(
        self,
        ledger: Ledger,
        run_trial: RunTrial,
        limits: Limits,
        facts: Facts | None,
        budget: Budget,
        observer: Observer,
        directory: Path | None,
        keep_top_k: int,
    ) -> None:
        self._ledger, self._run_trial, self._limits, self._facts = ledger, run_trial, limits, facts
        self._budget, self._observer, self._directory, self._keep_top_k = (
            budget,
            observer,
            directory,
            keep_top_k,
        )
        self._rejected = 0
        self._alike: Counter[tuple[str, str]] | None = Counter()  # failures of the first trials; None after a success
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
        return self._budget.timeout is not None and self._ledger.seconds() >= self._budget.timeout

    def _nothing_new(self) -> bool:
        """Whether a sampler that proposed something known or refused has nothing else to propose."""
        tried = len(self._ledger.finished())
        if tried >= self._cardinality:
            self._observer.said(f"The search ends: all {tried} architectures of the space have been tried.")
        elif self._rejected >= REJECTED_IN_A_ROW:
            self._observer.said(f"The search ends: {self._rejected} proposals in a row were known or refused.")
        return tried >= self._cardinality or self._rejected >= REJECTED_IN_A_ROW

    def _work_on(self, trial: optuna.Trial) -> None:
        try:
            architecture = self._suggested(trial)
        except SpaceError as error:
            self._rejected += 1
            return self._ledger.mark_refused(trial, str(error))
        if (twin := self._ledger.twin(architecture, trial.number)) is not None:
            self._rejected += 1
            return self._ledger.mark_duplicate(trial, twin)
        if (reason := self._limits.violation(architecture)) is not None:
            self._rejected += 1
            return self._ledger.mark_refused(trial, reason)
        self._rejected = 0
        trial.set_user_attr("architecture", written(architecture))
        self._observer.trial_started(trial.number)
        result = self._train(trial, architecture)
        self._write_down(trial, architecture, result)
        self._observer.trial_ended(trial.number, result)
        self._remove_checkpoints()
        self._check_failures(result)
        return None

    def _suggested(self, trial: optuna.Trial) -> Architecture:
        """What the sampler proposes, or the study has fixed: Optuna takes what is fixed as it is, in range or not.

        Raises:
            SpaceError: what is fixed is none of the space.
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
                f"The study has fixed parameters that are none of the space: {shown(str(error))}"
            ) from error
        if fixed:
            self._ledger.space.flatten(architecture)
        return architecture

    def _check_failures(self, result: TrialResult) -> None:
        """Stop where the first trials fail at one line: the rest of the budget would be spent on the same error."""
        if self._alike is None or result.failure not in SAME_FAILURES:
            self._alike = None
            return
        error = result.error or ""
        self._alike[error.partition(":")[0], error.rpartition(" (")[2]] += 1
        n = self._alike.total()
        if len(self._alike) == 1 and n >= SAME_FAILURES[result.failure] and not self._ledger.ranking():
            raise SearchError(
                f"The search stops: its first {n} trials all failed in the same way, the last with {error}. {_MEND}"
            )

    def _train(self, trial: optuna.Trial, architecture: Architecture) -> TrialResult:
        reporting = _Reporting(trial, self._observer)
        result = self._run_trial(trial.number, architecture, reporting)
        if reporting.error is not None:
            raise reporting.error
        return result

    def _write_down(self, trial: optuna.Trial, architecture: Architecture, result: TrialResult) -> None:
        for name, value in self._attributes(architecture, result).items():
            trial.set_user_attr(name, value)
        if result.state == "complete":
            self._ledger.study.tell(trial, result.score)
        else:
            self._ledger.study.tell(trial, state=TrialState.PRUNED if result.state == "pruned" else TrialState.FAIL)

    def _attributes(self, architecture: Architecture, result: TrialResult) -> dict[str, object]:
        attributes: dict[str, object] = {"seconds": result.seconds, "epochs": result.epochs}
        attributes |= {"metrics": dict(result.metrics)} if result.metrics else {}
        if (taken := result.inherited) is not None:
            attributes |= {"inherited": taken.share, "total_epochs": result.epochs + taken.epochs}
            attributes |= {"inherited_reason": taken.reason} if taken.reason else {}
        if result.error is not None:
            return {**attributes, "error": result.error, "failure": result.failure}
        attributes |= result.shares
        attributes |= self._sizes(architecture)
        if result.checkpoint is not None:
            attributes["checkpoint"] = str(result.checkpoint)
        if result.fold_scores:
            attributes |= {"fold_scores": list(result.fold_scores), "stderr": result.stderr}
        return attributes

    def _sizes(self, architecture: Architecture) -> dict[str, int]:
        """Nothing where they cannot be counted, although the candidate trains: unless a limit is set on them."""
        if self._facts is None:
            return {}
        try:
            facts = self._facts.of(architecture)
        except SearchError:
            raise
        except Exception as error:  # whatever `setup` and `configure_model` raise outside of a training
            if not self._limits.names:
                return {}
            raise SearchError(
                f"`limits.{self._limits.names[0]}` cannot be checked: a trial has trained, but its module cannot be "
                f"built outside of a training ({type(error).__name__}: {error}). Make its layers in `__init__`, or "
                "in a `configure_model` that needs nothing of the running training."
            ) from error
        return {name: int(facts[name]) for name in ("params", "flops") if name in facts}

    def _remove_checkpoints(self) -> None:
        """Keep those of the best `keep_top_k` trials; of a trial that is kept, only the best epoch's."""
        if self._directory is None:
            return
        trials = self._ledger.trials()
        kept = {trial.number for trial in self._ledger.ranking(trials)[: self._keep_top_k]}
        for trial in self._ledger.finished(trials):
            directory = trial_directory(self._directory, trial.number)
            if inside(self._directory, directory) is None:
                continue  # a symbolic link leads elsewhere, where nothing is ours to remove
            if trial.number not in kept:
                shutil.rmtree(directory, ignore_errors=True)
            else:
                (directory / LAST).unlink(missing_ok=True)


def winner_of(ledger: Ledger, unmet: str = "") -> FrozenTrial:
    """The best complete trial.

    Args:
        ledger: of the trials.
        unmet: descriptions of the limits that nothing has kept to.

    Raises:
        SearchError: there is none; the message groups the reasons.
    """
    ranking = ledger.ranking()
    if ranking:
        return ranking[0]
    trials = ledger.finished()
    raise SearchError(_why_none(trials, unmet))


def _why_none(trials: Sequence[FrozenTrial], unmet: str) -> str:
    if not trials:
        return (
            f"No architecture that was looked at keeps to the limits: {unmet}. Relax them, or widen the space."
            if unmet
            else "No trial was finished: the budget is spent."
        )
    reasons = Counter(str(t.user_attrs.get("error", "stopped early by the pruner")) for t in trials)
    lines = "\n".join(f"  {count} x {reason}" for reason, count in reasons.most_common())
    mend = f"\n{_MEND}" if any(trial.user_attrs.get("failure") in RETRIED for trial in trials) else ""
    return f"None of the {len(trials)} trials has a score:\n{lines}{mend}"


@contextlib.contextmanager
def _cheap_collections() -> Iterator[None]:
    """Each trial ends with a full garbage collection; what was there before the search is left out of it.

    A Trainer and its module refer to each other, so nothing else frees a candidate's memory in time. Among the million
    objects that Lightning and torch bring along a collection takes 0.1 to 0.2 s, among a trial's own 0.01 s.
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


class _Reporting:
    """Writes a trial's values to the study, once each, and asks the pruner; a storage's error waits for the end."""

    def __init__(self, trial: optuna.Trial, observer: Observer) -> None:
        self._trial, self._observer = trial, observer
        self._known = set(stored(trial).intermediate_values)
        self._prunes = not isinstance(trial.study.pruner, optuna.pruners.NopPruner)
        self.error: Exception | None = None

    def __call__(self, step: int, value: float) -> bool:
        self._observer.value(step, value)
        try:
            if step not in self._known:
                self._trial.report(value, step)
            return self._prunes and self._trial.should_prune()
        except Exception as error:
            self.error = error
            return True
