"""Create a study, or open a stored one, which must be of the same search.

The space may differ: ranges and choices can be extended, and trials outside of it are ignored. The score, its direction
and the conditions under which trials were scored must be the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_autoarch.core.errors import AutoArchError, SearchError, shown
from lightning_autoarch.core.schema import described
from lightning_autoarch.search.adoption import SPACE, Placement
from lightning_autoarch.search.conditions import CONDITIONS, Conditions, check_conditions
from lightning_autoarch.search.extension import clashes, converted, extend, incompatible, recover
from lightning_autoarch.search.owner import Owner
from lightning_autoarch.search.space import SearchSpace
from lightning_autoarch.search.study import FINISHED, counts, is_scored

MONITOR, MODE = "autoarch:monitor", "autoarch:mode"


@dataclass(frozen=True)
class StudyDefinition:
    """What a study is of; a stored one must agree.

    Attributes:
        name: of the study.
        space: to be searched.
        monitor: what the score is called.
        mode: "min" or "max".
        known: values that parameters have had while they were not in the space.
        conditions: what the scores depend on beside the architecture; None does not compare them.
        accept_changes: continue, with a warning, where the conditions have changed.
    """

    name: str
    space: SearchSpace
    monitor: str
    mode: str
    known: Mapping[str, Any] = field(default_factory=dict)
    conditions: Conditions | None = None
    accept_changes: bool = False

    @property
    def attributes(self) -> dict[str, Any]:
        """What the study keeps of it as user attributes, beside the conditions."""
        return {MONITOR: self.monitor, MODE: self.mode, SPACE: self.space.to_dict()}


def open_study(
    storage: BaseStorage, definition: StudyDefinition, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """Create the study, or open the one of that name.

    The space of a study may be changed: trials that lie in the new one stay, others are ignored. Names cannot leave it,
    and can be added only with a value that they had before; type and scale of a parameter stay.

    Args:
        storage: where it is, or will be.
        definition: what it is of.
        sampler: of its trials.
        pruner: of its trials.

    Raises:
        SearchError: the stored study is of another score, of a space that is too different, or is being worked on while
            its space is to be changed, or its scores were made under other conditions; the message names the
            difference.
    """
    name, space = definition.name, definition.space
    direction = StudyDirection.MINIMIZE if definition.mode == "min" else StudyDirection.MAXIMIZE
    options: dict[str, Any] = {"storage": storage, "study_name": name, "sampler": sampler, "pruner": pruner}
    with readable(name):
        recover(storage, name)
        study = optuna.create_study(direction=direction, load_if_exists=True, **options)
        stored, trials = study.user_attrs, study.get_trials(deepcopy=False)
    _check_kind(name, study, stored)
    given, added, is_changed = definition.attributes, {}, False
    if stored.keys() >= given.keys() and any(counts(trial) for trial in trials):
        added = {n: value for n, value in definition.known.items() if n in given[SPACE] and n not in stored[SPACE]}
        is_changed = bool(space.differences(stored[SPACE]))
        _check_same(definition, stored, added, trials)
        if definition.conditions is not None and any(is_scored(trial) for trial in trials):
            check_conditions(study, definition.conditions, definition.accept_changes)
    elif study.direction != direction:
        raise SearchError(
            f"The study `{name}` has mode {study.direction.name.lower()[:3]!r}, given {definition.mode!r}: give "
            "another `study.name`."
        )
    if clashes(space, trials) or is_changed:
        _check_at_rest(name, trials)
        extend(study, space, added)
        study = optuna.load_study(**options)
    if definition.conditions is not None:
        given[CONDITIONS] = definition.conditions
    for key, value in given.items():
        if stored.get(key) != value:
            study.set_user_attr(key, value)
    return study


def _check_kind(name: str, study: optuna.Study, stored: Mapping[str, Any]) -> None:
    if len(study.directions) != 1:
        raise SearchError(f"The study `{shown(name)}` has several objectives: give another `study.name`.")
    if not isinstance(stored.get(SPACE, {}), Mapping):
        raise SearchError(f"The study `{shown(name)}` is damaged: its space is {described(stored[SPACE])}.")


UNREADABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise what Optuna raises for damaged or foreign records as one SearchError."""
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
    definition: StudyDefinition, stored: Mapping[str, Any], added: Mapping[str, Any], trials: Sequence[FrozenTrial]
) -> None:
    name, space = definition.name, definition.space
    lines = [
        f"`{word}`: stored {described(stored[key])}, given {given!r}"
        for word, key, given in (("monitor", MONITOR, definition.monitor), ("mode", MODE, definition.mode))
        if stored[key] != given
    ]
    differences = space.differences(stored[SPACE])
    apart = incompatible(stored[SPACE], space.to_dict(), added)
    lines += [line for line in differences if line.startswith(tuple(f"`{other}`:" for other in apart))]
    if differences and not apart:
        done = [converted(trial, space, added) for trial in trials if trial.state in FINISHED and counts(trial)]
        placement = Placement(space)
        if done and all(placement.is_outside(trial) for trial in done):
            lines += differences
    if lines:
        raise SearchError(
            f"The study `{name}` was made for another search; give another `study.name` or `study.storage`. "
            "Different: " + "; ".join(lines)
        )


def _check_at_rest(name: str, trials: Sequence[FrozenTrial]) -> None:
    owners = [trial.user_attrs.get("owner") for trial in trials if trial.state == TrialState.RUNNING]
    known = [Owner.of(owner) for owner in owners if owner is not None]
    if any(owner is None or owner.is_gone() is not True for owner in known):
        raise SearchError(
            f"The space of the study `{name}` cannot be changed while another process works on it: let that end, or "
            "give another `study.name`."
        )
