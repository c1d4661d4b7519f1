"""What this package uses of Optuna beyond its public interface.

Optuna's public interface runs a whole study (`Study.optimize`), or one trial from `ask` to `tell` in one process. A
search that is interrupted, resumed and shared between processes also needs a trial's storage, its id, and the heartbeat
that tells dead processes from living ones. Each of these is one function here, and `tests/seam/test_optuna.py` fails
if the oldest or the newest supported version does not behave as its docstring says.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat, get_heartbeat_thread, is_heartbeat_enabled
from optuna.trial import FrozenTrial, Trial

_FIXED = "fixed_params"  # key of Optuna's own attribute of a trial that was enqueued


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage that holds a study."""
    return study._storage


def stored(trial: Trial) -> FrozenTrial:
    """A copy of what the storage holds of a running trial: its values so far, and what its study has fixed."""
    return trial.study._storage.get_trial(trial._trial_id)


def reopened(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """A trial of another process as one that this process can go on with."""
    return Trial(study, trial._trial_id)


def ask(study: optuna.Study) -> Trial:
    """A new trial, without Optuna's warning that heartbeats need `Study.optimize`: `heartbeat` sends them here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        return study.ask()


def set_user_attr(study: optuna.Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Store a user attribute of a running trial that is known only as a copy."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def set_system_attr(study: optuna.Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Store an attribute of a running trial as samplers do. Optuna deprecates the public method for this."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def copy_system_attrs(study: optuna.Study, target: optuna.Study) -> None:
    """Copy the attributes that Optuna and its samplers keep with a study to another study of the same storage."""
    storage = study._storage
    for key, value in storage.get_study_system_attrs(study._study_id).items():
        storage.set_study_system_attr(target._study_id, key, value)


def fixed_params(trial: FrozenTrial) -> Mapping[str, Any]:
    """The parameters that `Study.enqueue_trial` has fixed for a trial; empty for a trial that a sampler proposes."""
    fixed: Mapping[str, Any] = trial.system_attrs.get(_FIXED, {})
    return fixed


def is_enqueued(trial: FrozenTrial) -> bool:
    """Whether a trial was made by `Study.enqueue_trial`, which may also have fixed none of the parameters."""
    return _FIXED in trial.system_attrs


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value is one of the choices, or lies in the range and on the grid, of a distribution.

    Raises:
        ArithmeticError, TypeError, ValueError: the value is not one of the choices, or not a number.
    """
    return distribution._contains(distribution.to_internal_repr(value))


@contextlib.contextmanager
def stop_redirected(study: optuna.Study, on_stop: Callable[[], None]) -> Iterator[None]:
    """Call `on_stop` where a sampler calls `Study.stop`, which raises RuntimeError outside `Study.optimize`.

    A sampler calls it when it has nothing left to propose, as `GridSampler` does.
    """
    vars(study)["stop"] = on_stop
    try:
        yield
    finally:
        del vars(study)["stop"]


@contextlib.contextmanager
def heartbeat(trial: Trial) -> Iterator[None]:
    """Record that a trial is being worked on, as long as the block runs, where its storage has a heartbeat."""
    with get_heartbeat_thread(trial._trial_id, trial.study._storage):
        yield


def is_stale(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether the heartbeat of a running trial has stopped; False where the storage has no heartbeat."""
    storage = study._storage
    if not (isinstance(storage, BaseHeartbeat) and is_heartbeat_enabled(storage)):
        return False
    return trial._trial_id in storage._get_stale_trial_ids(study._study_id)
