"""The ledger: an Optuna study that several processes may share, any of which may die.

A trial belongs to the process that its `owner` record names (host, pid, start time). The trial of a process that has
died stays RUNNING; the next process continues it under the same number. On one host a dead owner is recognised at once;
on another host by the heartbeat of an RDB storage, and without one the trial is not continued.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.seam.optuna import ask, is_stale, reopened
from lightning_autoarch.search.adoption import Placement, is_imported
from lightning_autoarch.search.leaderboard import fate, real
from lightning_autoarch.search.owner import Owner
from lightning_autoarch.search.space import Architecture, SearchSpace, architecture_key

CLAIM_SECONDS = 60  # on a remote storage: how long a new trial may be without its owner record

RETRIED = "autoarch:retried"  # numbers of failed trials that do not count, because their architectures are tried again
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Ledger:
    """The trials of one study, as a budgeted search sees them.

    Args:
        study: where trials are recorded.
        space: of the architectures.
        directory: holds the lock by which processes on one host take turns in asking; None for no lock.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace, directory: Path | None) -> None:
        self.study, self.space, self._directory = study, space, directory
        self.placement = Placement(space)
        self._retried: frozenset[int] = frozenset(study.user_attrs.get(RETRIED, ()))

    def trials(self) -> list[FrozenTrial]:
        """All trials as they are now: a read of the storage of some milliseconds, so the methods below share one."""
        return self.study.get_trials(deepcopy=False)

    def finished(self, trials: Sequence[FrozenTrial] | None = None) -> list[FrozenTrial]:
        """Trials that count: neither running, nor a duplicate, nor refused by a limit, nor outside of the space."""
        known = self.trials() if trials is None else trials
        done = [trial for trial in known if trial.state in FINISHED and self._counts(trial)]
        return [trial for trial in done if not self.placement.is_outside(trial)]

    def architecture(self, trial: FrozenTrial) -> Architecture:
        """Of a trial that counts, made here or elsewhere, with its choices as the module takes them.

        Raises:
            SearchError: it is none of the space.
        """
        found = self.placement.architecture(trial)
        if found is None:
            raise SearchError(f"Trial #{trial.number} of the study `{self.study.study_name}` is not of the space.")
        return self.space.restored(found)

    def ignored(self) -> str:
        """How many finished trials do not count as they are no architectures of the space, and why; or empty."""
        trials = [trial for trial in self.trials() if counts(trial)]
        n = sum(self.placement.is_outside(trial) for trial in trials)
        return f"{n} of {len(trials)}: {self.placement.reasons(trials)}" if n else ""

    def imported_leader(self) -> FrozenTrial | None:
        """The best trial, if it was made elsewhere: then there are no weights of it."""
        best = next(iter(self.ranking()), None)
        return best if best is not None and is_imported(best) else None

    def seconds(self) -> float:
        """Training seconds of all finished trials, over all resumes and processes."""
        return sum(max(0.0, real(trial.user_attrs.get("seconds")) or 0.0) for trial in self.finished())

    def claim(self, n_trials: int) -> tuple[optuna.Trial, bool] | None:
        """The next trial, and whether another process began it; None when `n_trials` are done or under way."""
        with turn(self._directory):
            trials = self.trials()
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            dead = next((trial for trial in running if self._is_dead(trial)), None)
            if dead is not None:
                trial, begun = reopened(self.study, dead), True
            elif len(self.finished(trials)) + len(running) >= n_trials:
                return None
            else:
                trial, begun = ask(self.study), False
            trial.set_user_attr("owner", vars(Owner.myself()))
        return trial, begun

    def release(self, trial: optuna.Trial) -> None:
        """Give up the ownership of a trial, so that any process can continue it."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr("owner", None)

    def twin(self, architecture: Architecture, number: int) -> FrozenTrial | None:
        """An earlier trial of the same architecture."""
        key = architecture_key(architecture)
        for trial in self.trials():
            if (
                trial.number == number
                or not self._counts(trial)
                or (is_imported(trial) and not trial.state.is_finished())
            ):
                continue
            known = self.placement.architecture(trial)
            if known is not None and architecture_key(known) == key:
                return trial
        return None

    def mark_duplicate(self, trial: optuna.Trial, twin: FrozenTrial) -> None:
        """Close a trial whose architecture `twin` has, with its score: a sampler of populations needs it."""
        trial.set_user_attr("duplicate_of", twin.number)
        if twin.state == TrialState.COMPLETE:
            self.study.tell(trial, twin.value)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def mark_refused(self, trial: optuna.Trial, reason: str) -> None:
        """Close a trial that breaks a limit, untrained."""
        trial.set_user_attr("refused", reason)
        self.study.tell(trial, state=TrialState.FAIL)

    def ranking(self, trials: Sequence[FrozenTrial] | None = None) -> list[FrozenTrial]:
        """Complete trials, the best first; of equals the earliest."""
        complete = [trial for trial in self.finished(trials) if fate(trial) in ("complete", "infeasible")]
        sign = 1 if self.study.direction == StudyDirection.MINIMIZE else -1
        return sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))

    def enqueue(self, architectures: Sequence[Architecture]) -> None:
        """Try these architectures first, each once over all resumes."""
        for architecture in architectures:
            flat = self.space.flatten(architecture, partial=True)
            self.study.enqueue_trial(flat, skip_if_exists=True)

    def retry(self, kinds: Collection[str]) -> int:
        """Stop counting finished trials whose `failure` is of these kinds, and try their architectures again.

        Returns how many there are.
        """
        with turn(self._directory):
            failed = [trial for trial in self.finished() if trial.user_attrs.get("failure") in kinds]
            if failed:
                self._retried |= {trial.number for trial in failed}
                self.study.set_user_attr(RETRIED, sorted(self._retried))
            for trial in failed:
                self.study.enqueue_trial(trial.params)
        return len(failed)

    def _counts(self, trial: FrozenTrial) -> bool:
        return counts(trial) and trial.number not in self._retried

    def _is_dead(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get("owner")
        if owner is None:
            return "owner" in trial.user_attrs or self._directory is not None or _age_seconds(trial) > CLAIM_SECONDS
        known = Owner.of(owner)
        gone = None if known is None else known.is_gone()
        if gone is None:
            return is_stale(self.study, trial)
        return gone


@contextlib.contextmanager
def turn(directory: Path | None) -> Iterator[None]:
    """Processes on one host that share a search's directory take turns; None for no others."""
    if directory is None:
        yield
        return
    from filelock import FileLock

    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "study.lock"):
        yield


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of `n_trials`: not a duplicate and not refused."""
    return "duplicate_of" not in trial.user_attrs and "refused" not in trial.user_attrs


def is_scored(trial: FrozenTrial) -> bool:
    """Whether it has a result that depends on its conditions, or the beginning of one.

    None has a trial that an exception in the user's code ended, as it is run again, or one that is only enqueued.
    """
    if trial.state is TrialState.FAIL:
        return trial.user_attrs.get("failure") in ("value", "memory")
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or bool(trial.intermediate_values)


def _age_seconds(trial: FrozenTrial) -> float:
    return time.time() - trial.datetime_start.timestamp() if trial.datetime_start is not None else 0.0


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence the line that Optuna logs for each trial; its verbosity is restored."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
