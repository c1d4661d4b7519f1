"""What the study keeps of a trial: its values while it trains, its result, and the checkpoints of the best."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import optuna
from optuna.trial import TrialState

from lightning_autoarch.seam.optuna import stored
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.training.trial import TrialResult
from lightning_autoarch.training.trial_files import LAST, inside, trial_directory

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Observer(Protocol):
    """Receives the progress of a search."""

    def trial_started(self, number: int) -> None: ...
    def value(self, step: int, value: float) -> None: ...
    def trial_ended(self, number: int, result: TrialResult) -> None: ...
    def said(self, message: str) -> None: ...


class Reporting:
    """Writes a trial's values to the study, once each, and asks the pruner whether to end the trial.

    Attributes:
        error: of the storage or the pruner, to be raised once the trial has ended; None if there was none.
    """

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


def record(ledger: Ledger, trial: optuna.Trial, result: TrialResult, sizes: dict[str, int]) -> None:
    """Write a result to the study; `sizes` are those of the candidate, which a failed one does not get."""
    attributes = {**_attributes(result), **(sizes if result.error is None else {})}
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    if result.state == "complete":
        ledger.study.tell(trial, result.score)
    else:
        ledger.study.tell(trial, state=_STATES[result.state])


def _attributes(result: TrialResult) -> dict[str, object]:
    attributes: dict[str, object] = {"seconds": result.seconds, "epochs": result.epochs}
    attributes |= {"metrics": dict(result.metrics)} if result.metrics else {}
    if (inherited := result.inherited) is not None:
        attributes |= {"inherited": inherited.share, "total_epochs": result.epochs + inherited.epochs}
        attributes |= {"inherited_reason": inherited.reason} if inherited.reason else {}
    if result.error is not None:
        return {**attributes, "error": result.error, "failure": result.failure}
    attributes |= result.shares
    if result.checkpoint is not None:
        attributes["checkpoint"] = str(result.checkpoint)
    if result.fold_scores:
        attributes |= {"fold_scores": list(result.fold_scores), "stderr": result.stderr}
    return attributes


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a search's trials, `trials/NNNN` each.

    Attributes:
        directory: of the search.
        keep_top_k: the number of best trials that keep theirs.
    """

    directory: Path
    keep_top_k: int

    def remove_others(self, ledger: Ledger) -> None:
        """Remove those of trials that are not among the best; of one that is, keep only the best epoch's."""
        trials = ledger.trials()
        kept = {trial.number for trial in ledger.ranking(trials)[: self.keep_top_k]}
        for trial in ledger.finished(trials):
            directory = trial_directory(self.directory, trial.number)
            if inside(self.directory, directory) is None:
                continue  # a symbolic link leads elsewhere, where nothing is ours to remove
            if trial.number not in kept:
                shutil.rmtree(directory, ignore_errors=True)
            else:
                (directory / LAST).unlink(missing_ok=True)
