"""The ledger: an Optuna study that several processes may share and any of them may die in.

A trial belongs to the process that its `owner` record names (host, pid, start time). Owners that are gone leave their
trial RUNNING; the next process takes it over under its own number. On one host a dead owner is seen at once; on another
host an RDB storage's heartbeat tells, and without one the trial is left alone.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_autoarch.errors import AutoArchError, SearchError, shown
from lightning_autoarch.schema import described
from lightning_autoarch.search.adoption import SPACE, Placement, is_imported
from lightning_autoarch.search.conditions import CONDITIONS, Conditions, check_conditions
from lightning_autoarch.search.extension import clashes, converted, extend, incompatible, recover
from lightning_autoarch.search.leaderboard import fate, real
from lightning_autoarch.search.owner import Owner
from lightning_autoarch.search.space import Architecture, SearchSpace, architecture_key

CLAIM_SECONDS = 60  # on a remote storage: how long a new trial may be without its owner record

MONITOR, MODE = "autoarch:monitor", "autoarch:mode"
RETRIED = "autoarch:retried"  # numbers of failed trials that do not count, because their architectures are tried again
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def open_study(
    storage: BaseStorage,
    name: str,
    space: SearchSpace,
    monitor: str,
    mode: str,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
    known: Mapping[str, Any] | None = None,
    conditions: Conditions | None = None,
    accept_changes: bool = False,
) -> optuna.Study:
    """Create the study, or open the one of that name.

    The space of a study may be changed: trials that lie in the new one stay, others are ignored. Names cannot leave it,
    and come into it only with a value that they had before; type and scale of a parameter stay.

    Args:
        storage: where it is, or will be.
        name: of the study.
        space: to be searched.
        monitor: what the score is called.
        mode: "min" or "max".
        sampler: of its trials.
        pruner: of its trials.
        known: values of parameters where they are not in the space.
        conditions: what the scores depend on beside the architecture; None does not look at that.
        accept_changes: go on, with a warning, where the conditions have changed.

    Raises:
        SearchError: the stored study is of another score, of a space that is too different, or is being worked on while
            its space is to be changed, or its scores were made under other conditions; the message names the
            difference.
    """
    direction = StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE
    options: dict[str, Any] = {"storage": storage, "study_name": name, "sampler": sampler, "pruner": pruner}
    with readable(name):
        recover(storage, name)
        study = optuna.create_study(direction=direction, load_if_exists=True, **options)
        stored, trials = study.user_attrs, study.get_trials(deepcopy=False)
    if len(study.directions) != 1:
        raise SearchError(f"The study `{shown(name)}` has several objectives: give another `study_name`.")
    if not isinstance(stored.get(SPACE, {}), Mapping):
        raise SearchError(f"The study `{shown(name)}` is damaged: its space is {described(stored[SPACE])}.")
    given = {MONITOR: monitor, MODE: mode, SPACE: space.to_dict()}
    added: dict[str, Any] = {}
    is_changed = False
    if stored.keys() >= given.keys() and any(counts(trial) for trial in trials):
        added = {n: value for n, value in (known or {}).items() if n in given[SPACE] and n not in stored[SPACE]}
        is_changed = bool(space.differences(stored[SPACE]))
        _check_same(name, stored, space, monitor, mode, added, trials)
        if conditions is not None and any(is_scored(trial) for trial in trials):
            check_conditions(study, conditions, accept_changes)
    elif study.direction != direction:
        raise SearchError(
            f"The study `{name}` has mode {study.direction.name.lower()[:3]!r}, given {mode!r}: give another "
            "`study_name`."
        )
    if clashes(space, trials) or is_changed:
        _check_at_rest(name, trials)
        extend(study, space, added)
        study = optuna.load_study(**options)
    if conditions is not None:
        given[CONDITIONS] = conditions
    for key, value in given.items():
        if stored.get(key) != value:
            study.set_user_attr(key, value)
    return study


UNREADABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """What Optuna raises over records that are damaged, or that another program has changed, is one error of ours."""
    import sqlalchemy.exc

    try:
        yield
    except AutoArchError:
        raise
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).partition("\n")[0]
        raise SearchError(f"The study `{shown(name)}` cannot be read: {shown(reason)}") from error
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {shown(str(error))}"
        raise SearchError(f"The study `{shown(name)}` cannot be read, its records are damaged: {reason}") from error


def _check_same(
    name: str,
    stored: Mapping[str, Any],
    space: SearchSpace,
    monitor: str,
    mode: str,
    added: Mapping[str, Any],
    trials: Sequence[FrozenTrial],
) -> None:
    lines = [
        f"`{word}`: stored {described(stored[key])}, given {given!r}"
        for word, key, given in (("monitor", MONITOR, monitor), ("mode", MODE, mode))
        if stored[key] != given
    ]
    differences = space.differences(stored[SPACE])
    apart = incompatible(stored[SPACE], space.to_dict(), added)
    lines += [line for line in differences if line.startswith(tuple(f"`{other}`:" for other in apart))]
    if differences and not apart:
        done = [converted(trial, space, added) for trial in trials if trial.state in _FINISHED and counts(trial)]
        placement = Placement(space)
        if done and all(placement.is_outside(trial) for trial in done):
            lines += differences
    if lines:
        raise SearchError(
            f"The study `{name}` was made for another search; give another `study_name` or `storage`. "
            "Different: " + "; ".join(lines)
        )


def _check_at_rest(name: str, trials: Sequence[FrozenTrial]) -> None:
    owners = [trial.user_attrs.get("owner") for trial in trials if trial.state == TrialState.RUNNING]
    known = [Owner.of(owner) for owner in owners if owner is not None]
    if any(owner is None or owner.is_gone() is not True for owner in known):
        raise SearchError(
            f"The space of the study `{name}` cannot be changed while another process works on it: let that end, or "
            "give another `study_name`."
        )


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
        done = [trial for trial in known if trial.state in _FINISHED and self._counts(trial)]
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
                trial, begun = optuna.Trial(self.study, dead._trial_id), True
            elif len(self.finished(trials)) + len(running) >= n_trials:
                return None
            else:
                trial, begun = self._ask(), False
            trial.set_user_attr("owner", vars(Owner.myself()))
        return trial, begun

    def release(self, trial: optuna.Trial) -> None:
        """Leave a trial for whoever comes next; its own process may live on."""
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
        """Let these architectures be tried first, each once over all resumes."""
        for architecture in architectures:
            flat = self.space.flatten(architecture, partial=True)
            self.study.enqueue_trial(flat, skip_if_exists=True)

    def retry(self, kinds: Collection[str]) -> int:
        """Let finished trials whose `failure` is of these kinds count no more, and try their architectures again.

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

    def _ask(self) -> optuna.Trial:
        with warnings.catch_warnings():  # Optuna expects heartbeats in `Study.optimize` alone; `heartbeat` beats here
            warnings.filterwarnings("ignore", "Heartbeat of storage")
            return self.study.ask()

    def _is_dead(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get("owner")
        if owner is None:
            return "owner" in trial.user_attrs or self._directory is not None or _age_seconds(trial) > CLAIM_SECONDS
        known = Owner.of(owner)
        gone = None if known is None else known.is_gone()
        if gone is None:
            return trial._trial_id in self._without_heartbeat()
        return gone

    def _without_heartbeat(self) -> list[int]:
        storage = self.study._storage
        if not optuna.storages._heartbeat.is_heartbeat_enabled(storage):
            return []
        stale: list[int] = storage._get_stale_trial_ids(self.study._study_id)  # type: ignore[attr-defined]
        return stale

    @contextlib.contextmanager
    def heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Beat for a trial while it is worked on, where the storage has a heartbeat."""
        with optuna.storages._heartbeat.get_heartbeat_thread(trial._trial_id, self.study._storage):
            yield


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
    """Optuna's own lines a trial are left out; its verbosity returns."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
