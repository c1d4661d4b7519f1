"""Change the space of a study: the trials that are in the new space are kept.

Optuna binds a categorical parameter to one list of choices for the life of a study, and its samplers ignore trials with
another range. So the study is rewritten under its own name, its trials with the distributions of the new space:

    1. `NAME (being extended)` gets every trial, in the same order and so with the same numbers, then a mark that it is
       complete
    2. `NAME` is deleted, and created again from that copy
    3. `NAME (being extended)` is deleted

A process that dies in between leaves one complete study, from which `recover` starts again. The parameters of a trial
outside of the space are kept in its user attribute `autoarch:params`: a later space may contain it again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from lightning_autoarch.core.errors import SearchError, SpaceError
from lightning_autoarch.seam.optuna import copy_system_attrs, storage_of
from lightning_autoarch.search.adoption import PARAMS, is_imported, point_of
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.space import Flat, SearchSpace

_COPY, _WHOLE = " (being extended)", "autoarch:whole"
_SCALE = ("type", "log")  # of a number, which trials of another cannot be compared by


def incompatible(stored: Mapping[str, Any], given: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """The names, of two spaces in compact form, in which they differ too much for trials of one to count in the other.

    Args:
        stored: the space of the trials.
        given: the space to be searched now.
        known: values that parameters had while they were not in the space.

    >>> width = {"type": "int", "low": 8, "high": 64, "log": False}
    >>> incompatible({"width": width}, {"width": {**width, "high": 128}, "depth": width}, {})
    ['depth']
    """
    return [
        name
        for name in {**given, **stored}
        if not (name in known and name not in stored) and not _is_compatible(stored.get(name), given.get(name))
    ]


def _is_compatible(stored: Any, given: Any) -> bool:
    if not isinstance(stored, Mapping) or not isinstance(given, Mapping):
        return False
    if any(stored.get(key) != given.get(key) for key in _SCALE):
        return False
    old, new = stored.get("block"), given.get("block")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return old is None and new is None
    if isinstance(old.get("type"), str) or isinstance(new.get("type"), str):  # a block of plain values
        return _is_compatible(old, new)
    return not incompatible(old, new, {})


def clashes(space: SearchSpace, trials: Sequence[FrozenTrial]) -> bool:
    """Whether Optuna would refuse to go on, as a parameter of these trials has other choices.

    Raises:
        SearchError: one is of another kind, or on another scale, which cannot be changed.
    """
    found = False
    for node in space.nodes:
        for trial in trials:
            old = trial.distributions.get(node.name)
            if old is None or _goes_on(old, node.distribution):
                continue
            if not (
                isinstance(old, CategoricalDistribution) and isinstance(node.distribution, CategoricalDistribution)
            ):
                raise SearchError(
                    f"Trial #{trial.number} has `{node.name}` from {old}, which cannot become {node.distribution}: "
                    "give it the same type and scale in the space, or give another `study.name`."
                )
            found = True
    return found


def _goes_on(old: BaseDistribution, new: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(old, new)
    except ValueError:
        return False
    return True


def recover(storage: BaseStorage, name: str) -> None:
    """Complete what a process that has died had begun; see the module's docstring."""
    names = [study.study_name for study in storage.get_all_studies()]
    if name + _COPY not in names:
        return
    if optuna.load_study(study_name=name + _COPY, storage=storage).user_attrs.get(_WHOLE):
        _take_the_place(storage, name)
    else:
        optuna.delete_study(study_name=name + _COPY, storage=storage)


def extend(study: optuna.Study, space: SearchSpace, known: Mapping[str, Any]) -> None:
    """Rewrite a study, of which no trial may be running; it has to be loaded again.

    Args:
        study: in its storage.
        space: the new one.
        known: values that parameters had while they were not in the space.
    """
    storage, name = storage_of(study), study.study_name
    made = optuna.create_study(storage=storage, study_name=name + _COPY, directions=study.directions)
    copy_system_attrs(study, made)
    for key, value in study.user_attrs.items():
        made.set_user_attr(key, value)
    made.add_trials(converted(trial, space, known) for trial in study.get_trials(deepcopy=False))
    made.set_user_attr(_WHOLE, True)
    _take_the_place(storage, name)


def converted(trial: FrozenTrial, space: SearchSpace, known: Mapping[str, Any]) -> FrozenTrial:
    """A copy of a trial with the parameters and distributions of a space; with none where it lies outside."""
    new = copy.deepcopy(trial)
    flat = _point(trial, space, known)
    if flat is not None:
        new.params = dict(flat)
        new.distributions = {node.name: node.distribution for node in space.nodes if node.name in flat}
        new.user_attrs.pop(PARAMS, None)
        if not is_imported(trial):
            new.user_attrs["architecture"] = written(space.architecture(flat))
        return new
    if trial.params:
        new.user_attrs[PARAMS] = dict(trial.params)
    new.params, new.distributions = {}, {}
    if trial.state == TrialState.RUNNING and not is_imported(trial):  # its checkpoint is of an architecture outside
        new.state, new.datetime_complete = TrialState.FAIL, datetime.now()
        new.user_attrs["refused"] = "the space was changed while it was interrupted, and it lies outside"
    return new


def _point(trial: FrozenTrial, space: SearchSpace, known: Mapping[str, Any]) -> Flat | None:
    """Of the trial as it is, or with what its parameters were that have come into the space since."""
    try:
        return point_of(space, trial)
    except SpaceError:
        filled = copy.copy(trial)
        stored = trial.user_attrs.get("architecture")
        if not known or not isinstance(stored, Mapping):
            return None
        filled.user_attrs = {**trial.user_attrs, "architecture": {**known, **stored}}
    try:
        return point_of(space, filled)
    except SpaceError:
        return None


def _take_the_place(storage: BaseStorage, name: str) -> None:
    if name in [study.study_name for study in storage.get_all_studies()]:
        optuna.delete_study(study_name=name, storage=storage)
    optuna.copy_study(from_study_name=name + _COPY, from_storage=storage, to_storage=storage, to_study_name=name)
    optuna.load_study(study_name=name, storage=storage).set_user_attr(_WHOLE, None)
    optuna.delete_study(study_name=name + _COPY, storage=storage)
