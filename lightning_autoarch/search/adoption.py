"""Which trials of a study are architectures of a space, whichever program made them.

A trial of a search holds its architecture in JSON form. A trial of a plain Optuna run, or one that was added with
`study.add_trial`, has parameters only: the space folds them into an architecture if all active ones are known. Trials
of an earlier space may be outside of the present one. Trials that are no architecture of the space are ignored, and
`reasons` says why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_autoarch.core.errors import SpaceError
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.space import Architecture, Flat, SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SPACE = "autoarch:space"  # user attribute of a study: its space in compact form
PARAMS = "autoarch:params"  # of a trial that lies outside: its parameters, which the study could not keep
MAX_NUMBERS, MAX_REASONS = 5, 5  # of trials, and of different reasons, named in a message


def is_imported(trial: FrozenTrial) -> bool:
    """Whether a trial was made elsewhere: it has parameters, but no search has stored its architecture."""
    return not isinstance(trial.user_attrs.get("architecture"), Mapping)


def point_of(space: SearchSpace, trial: FrozenTrial) -> Flat:
    """The flat point of a trial.

    Raises:
        SpaceError: it is none of the space; the message says what is missing, unknown or out of range.
    """
    stored = trial.user_attrs.get("architecture")
    if isinstance(stored, Mapping):
        return space.flatten(stored)
    params = trial.user_attrs.get(PARAMS, trial.params)
    return space.point(params if isinstance(params, Mapping) else {})


class Placement:
    """The architectures of a study's trials in one space, each found once.

    Args:
        space: None for a study that does not say its space: then every trial is what it says.
    """

    def __init__(self, space: SearchSpace | None) -> None:
        self.space = space
        self._known: dict[int, Architecture | str] = {}

    @classmethod
    def of_study(cls, study: Study) -> Placement:
        """In the space that the study itself says, if it says one."""
        stored = study.user_attrs.get(SPACE)
        try:
            return cls(SearchSpace(stored) if isinstance(stored, Mapping) else None)
        except SpaceError:  # of another version, or another program's
            return cls(None)

    def architecture(self, trial: FrozenTrial) -> Architecture | None:
        """The JSON form of a trial's architecture; None for one that lies outside of the space."""
        found = self._placed(trial)
        return None if isinstance(found, str) else found

    def is_outside(self, trial: FrozenTrial) -> bool:
        """Whether a finished trial is ignored: it tells of no architecture of the space."""
        if not trial.state.is_finished() or (trial.state.name == "FAIL" and not trial.params and is_imported(trial)):
            return False  # nothing is known yet, or it failed before it was anything
        return isinstance(self._placed(trial), str)

    def reasons(self, trials: Sequence[FrozenTrial]) -> str:
        """Why trials are ignored, the same reasons together; empty where none is."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for trial in trials:
            if self.is_outside(trial):
                numbers[str(self._placed(trial))].append(trial.number)
        said = [f"{_named(found)}: {reason}" for reason, found in numbers.items()]
        return "; ".join([*said[:MAX_REASONS], *(["..."] if len(said) > MAX_REASONS else [])])

    def _placed(self, trial: FrozenTrial) -> Architecture | str:
        if trial.number not in self._known:
            placed = self._place(trial)
            if not trial.state.is_finished():
                return placed
            self._known[trial.number] = placed
        return self._known[trial.number]

    def _place(self, trial: FrozenTrial) -> Architecture | str:
        if self.space is None:
            stored = trial.user_attrs.get("architecture")
            return dict(stored) if isinstance(stored, Mapping) else dict(trial.params)
        try:
            form: Any = written(self.space.architecture(point_of(self.space, trial)))
        except SpaceError as error:
            return str(error.args[0]).rstrip(".")
        return dict(form)


def _named(numbers: Sequence[int]) -> str:
    listed = ", ".join(f"#{number}" for number in numbers[:MAX_NUMBERS])
    return f"trial{'s' * (len(numbers) > 1)} {listed}{', ...' if len(numbers) > MAX_NUMBERS else ''}"
