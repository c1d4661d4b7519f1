"""The contents of a study, read once for a report: its trials by outcome, and what is stored with each.

Studies of other programs can be read too: an attribute that is missing or has an unexpected type counts as absent.
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
    """A study's trials and what a report needs of the study itself."""

    name: str
    score: str  # name of the score
    maximize: bool
    attrs: Mapping[str, Any]  # the study's user attributes
    trials: tuple[FrozenTrial, ...]  # all trials of the study's current space, by number
    ranked: tuple[FrozenTrial, ...]  # the complete trials, best first
    n_ignored: int = 0  # trials of another space

    def of(self, *fates: Fate) -> list[FrozenTrial]:
        """The trials with one of these fates, by number."""
        return [trial for trial in self.trials if fate(trial) in fates]

    @property
    def best(self) -> FrozenTrial | None:
        """The best trial, or None if no trial is complete."""
        return self.ranked[0] if self.ranked else None

    @property
    def seconds(self) -> float:
        """Total training time of all trials, in seconds."""
        return sum(seconds_of(trial) or 0.0 for trial in self.trials)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter of any trial and its distribution, in order of first appearance."""
        found: dict[str, BaseDistribution] = {}
        for trial in self.trials:
            found.update({k: d for k, d in trial.distributions.items() if k not in found})
        return found


def read_record(study: Study) -> Record:
    """Read a study with one objective."""
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
    """How the architecture was proposed: "random", "bayesian" or "enqueued"; empty if unknown."""
    proposal = trial.system_attrs.get("autoarch:proposal")
    proposed = proposal.get("origin", "") if isinstance(proposal, Mapping) else ""
    if is_enqueued(trial):
        proposed = "enqueued"
    return str(trial.user_attrs.get("origin") or proposed)


def expected_of(trial: FrozenTrial) -> tuple[float, float] | None:
    """The surrogate's mean and standard deviation for the score when it proposed the trial, or None."""
    proposal = trial.system_attrs.get("autoarch:proposal")
    inside = proposal.get("expected") if isinstance(proposal, Mapping) else None
    expected = trial.user_attrs.get("expected", inside)
    if not isinstance(expected, Mapping):
        return None
    mean, std = real(expected.get("mean")), real(expected.get("std"))
    return None if mean is None or std is None or std < 0 else (mean, std)


def curve_of(trial: FrozenTrial) -> list[tuple[int, float]]:
    """The finite intermediate values and their steps, which Optuna counts from 0."""
    return [(step, y) for step, y in sorted(trial.intermediate_values.items()) if real(y) is not None]


def last_value(trial: FrozenTrial) -> tuple[int, float] | None:
    """The last finite intermediate value and its step, or None."""
    curve = curve_of(trial)
    return curve[-1] if curve else None


@dataclass(frozen=True)
class StepUnit:
    """What a step of the intermediate values stands for in a study, and how it is counted."""

    name: str  # "epoch", "validation", "fold", or "step" in a study that another program made
    first: int  # the number of Optuna's step 0

    def position(self, step: int) -> str:
        """Describe a step in words.

        >>> StepUnit("epoch", 1).position(0), StepUnit("fold", 1).position(2), StepUnit("step", 0).position(0)
        ('after 1 epoch', 'after 3 folds', 'at step 0')
        """
        if not self.first:
            return f"at {self.name} {step}"
        return f"after {step + self.first} {self.name}" + "s" * (step + self.first != 1)


def step_unit(record: Record) -> StepUnit:
    """Return what the steps of a study are: epochs only if every trial has one value per epoch."""
    attrs = [trial.user_attrs for trial in record.trials]
    if any("fold_scores" in a for a in attrs):
        return StepUnit("fold", 1)
    pairs = [(trial, real(trial.user_attrs.get("epochs"))) for trial in record.trials if trial.intermediate_values]
    counts = [(max(trial.intermediate_values) + 1, epochs) for trial, epochs in pairs if epochs is not None]
    if not counts:
        return StepUnit("step", 0)
    return StepUnit("epoch" if all(n == epochs for n, epochs in counts) else "validation", 1)


def reason_of(trial: FrozenTrial, unit: StepUnit) -> str:
    """Say in a few words why a trial is not ranked."""
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
