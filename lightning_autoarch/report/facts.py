"""What a report says about a study, read once: the trials by fate and, for each, what was stored with it.

Everything here tolerates a study that another program made: what is not stored, or not of the expected type, is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_autoarch.seam.optuna import is_enqueued
from lightning_autoarch.search.adoption import Placement
from lightning_autoarch.search.leaderboard import (
    Fate,
    broken_constraints,
    failure_kind,
    fate,
    fixed,
    printable,
    ranked,
    real,
    seconds_of,
    shortened,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Record:
    """A study's trials, sorted by what became of them."""

    name: str
    score: str  # what the score is called
    maximize: bool
    attrs: Mapping[str, Any]  # the study's user attributes
    trials: tuple[FrozenTrial, ...]  # all of the study's space, by number
    ranked: tuple[FrozenTrial, ...]  # complete ones, best first
    n_ignored: int = 0  # of another space

    def of(self, *fates: Fate) -> list[FrozenTrial]:
        """The trials with one of these fates, by number."""
        return [trial for trial in self.trials if fate(trial) in fates]

    @property
    def best(self) -> FrozenTrial | None:
        """The winner; None while no trial is complete."""
        return self.ranked[0] if self.ranked else None

    @property
    def seconds(self) -> float:
        """Training time of all trials together."""
        return sum(seconds_of(trial) or 0.0 for trial in self.trials)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter that some trial had, with the range it was drawn from, in the order they first appeared."""
        found: dict[str, BaseDistribution] = {}
        for trial in self.trials:
            found.update({k: d for k, d in trial.distributions.items() if k not in found})
        return found


def read_record(study: Study) -> Record:
    """The record of a study with one objective."""
    metric = (study.metric_names or ["score"])[0]
    placement, trials = Placement.of_study(study), study.get_trials(deepcopy=False)
    inside = [trial for trial in trials if not placement.is_outside(trial)]
    return Record(
        name=shortened(str(study.study_name)),
        score=printable(study.user_attrs.get("autoarch:monitor", metric)),
        maximize=study.direction.name == "MAXIMIZE",
        attrs=study.user_attrs,
        trials=tuple(inside),
        ranked=tuple(ranked(study)),
        n_ignored=len(trials) - len(inside),
    )


def origin_of(trial: FrozenTrial) -> str:
    """Where the architecture came from: `random`, `bayesian`, `enqueued`; empty where that is not known."""
    proposal = trial.system_attrs.get("autoarch:proposal")
    proposed = proposal.get("origin", "") if isinstance(proposal, Mapping) else ""
    if is_enqueued(trial):
        proposed = "enqueued"
    return str(trial.user_attrs.get("origin") or proposed)


def expected_of(trial: FrozenTrial) -> tuple[float, float] | None:
    """Mean and standard deviation that the surrogate expected of the score when it proposed the trial, or None."""
    proposal = trial.system_attrs.get("autoarch:proposal")
    inside = proposal.get("expected") if isinstance(proposal, Mapping) else None
    expected = trial.user_attrs.get("expected", inside)
    if not isinstance(expected, Mapping):
        return None
    mean, std = real(expected.get("mean")), real(expected.get("std"))
    return None if mean is None or std is None or std < 0 else (mean, std)


def curve_of(trial: FrozenTrial) -> list[tuple[int, float]]:
    """The finite intermediate values by Optuna's step, which counts from 0."""
    return [(step, y) for step, y in sorted(trial.intermediate_values.items()) if real(y) is not None]


def last_value(trial: FrozenTrial) -> tuple[int, float] | None:
    """The last finite intermediate value and its step."""
    curve = curve_of(trial)
    return curve[-1] if curve else None


@dataclass(frozen=True)
class StepUnit:
    """What a step of the intermediate values is in a study, as people count it."""

    name: str  # "epoch", "validation", "fold", or "step" in a study that another program made
    first: int  # the number of Optuna's step 0

    def position(self, step: int) -> str:
        """Of the last value of a trial.

        >>> StepUnit("epoch", 1).position(0), StepUnit("fold", 1).position(2), StepUnit("step", 0).position(0)
        ('after 1 epoch', 'after 3 folds', 'at step 0')
        """
        if not self.first:
            return f"at {self.name} {step}"
        return f"after {step + self.first} {self.name}" + "s" * (step + self.first != 1)


def step_unit(record: Record) -> StepUnit:
    """Epochs only where every trial has as many values: there may be several validations in an epoch, or one in two."""
    attrs = [trial.user_attrs for trial in record.trials]
    if any("fold_scores" in a for a in attrs):
        return StepUnit("fold", 1)
    pairs = [(trial, real(trial.user_attrs.get("epochs"))) for trial in record.trials if trial.intermediate_values]
    counts = [(max(trial.intermediate_values) + 1, epochs) for trial, epochs in pairs if epochs is not None]
    if not counts:
        return StepUnit("step", 0)
    return StepUnit("epoch" if all(n == epochs for n, epochs in counts) else "validation", 1)


def reason_of(trial: FrozenTrial, unit: StepUnit) -> str:
    """Why a trial is not ranked, in a few words."""
    kind, last = fate(trial), last_value(trial)
    if kind == "failed":
        return str(trial.user_attrs.get("error") or failure_kind(trial))
    if kind == "duplicate":
        return f"the same architecture as trial {trial.user_attrs['duplicate_of']}, not trained again"
    if kind == "refused":
        return str(trial.user_attrs["refused"])
    if kind == "infeasible":
        broken = ", ".join(broken_constraints(trial))
        return f"breaks a constraint: {broken}"
    if kind == "pruned":
        return f"stopped early {unit.position(last[0])} with {fixed(last[1])}" if last else "stopped early"
    return f"{unit.position(last[0])} with {fixed(last[1])}" if last else ""
