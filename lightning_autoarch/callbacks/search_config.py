"""The two groups of arguments of `ArchitectureSearch`: how trials train, and where their results are kept.

Each can be given as its class or as a mapping with the same keys, in YAML too:

    trial: {trainer: {max_epochs: 3}, inherit: nearest}
    study: {storage: "postgresql://...", keep_top_k: 5}
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import optuna
from lightning.pytorch import Callback
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from lightning_autoarch.core.errors import SearchError, did_you_mean
from lightning_autoarch.search.space import SearchSpace
from lightning_autoarch.training.folds import Folds
from lightning_autoarch.training.inheritance import Inherit
from lightning_autoarch.training.limits import Constraint
from lightning_autoarch.training.module import Factory
from lightning_autoarch.training.recorder import OnNan
from lightning_autoarch.training.trainer_settings import check_trial_trainer

Mode: TypeAlias = Literal["min", "max"]
After: TypeAlias = Literal["train", "keep", "stop"]
C = TypeVar("C", "TrialConfig", "StudyConfig")


@dataclass(frozen=True)
class TrialConfig:
    """How each trial trains its candidate.

    Attributes:
        trainer: Trainer arguments that differ from the outer Trainer's, such as `{"max_epochs": 3}`.
        callbacks: copied for each trial, such as EarlyStopping.
        inherit: the finished trial whose weights a trial starts from, of those that keep a checkpoint: "best", or
            "nearest" by architecture. None: fresh weights. Weights that fit are copied (see `transfer_weights`);
            channels are replicated or selected where the module has an `example_input_array`. Scores are less
            comparable then, as a child has seen more epochs than its own; `total_epochs` counts them. `after="train"`
            still trains the winner from fresh weights. Not with `folds`, as a parent was trained on the validation
            samples.
        on_nan: "fail": a monitored value that is not finite fails the trial. "ignore": the trial continues, and the
            best of its finite values counts.

    Raises:
        SearchError: an attribute has the wrong type or an unknown value.
    """

    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    inherit: Inherit | None = None
    on_nan: OnNan = "fail"

    def __post_init__(self) -> None:
        check_trial_trainer(self.trainer)
        check_list("trial.callbacks", self.callbacks, "callbacks")
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise SearchError(f"Expected `trial.callbacks` to be a list of callbacks, got {callback!r} in it.")
        check_one_of("trial.inherit", self.inherit, ("best", "nearest", None))
        check_one_of("trial.on_nan", self.on_nan, ("fail", "ignore"))


@dataclass(frozen=True)
class StudyConfig:
    """Where the trials are recorded and how a recorded study is continued.

    Attributes:
        storage: an Optuna storage, its URL, or the path of an SQLite file. None: `study.db` in `directory`.
        name: of the study. None: the module's class name.
        directory: for the study and the checkpoints. None: `autoarch/<name>` under the Trainer's `default_root_dir`.
        keep_top_k: the number of best trials that keep their checkpoint.
        accept_changes: continue a study although its trials were scored under other conditions (data, hyperparameters,
            Trainer arguments of the trials, callbacks, folds). Otherwise that is an error, since old and new scores
            may not be comparable.
        resume_from: the checkpoint of an earlier fit whose winner is rebuilt without searching. Rarely needed:
            `fit(ckpt_path=...)` is recognised.

    Raises:
        SearchError: an attribute has the wrong type.
    """

    storage: str | os.PathLike[str] | BaseStorage | None = None
    name: str | None = None
    directory: str | os.PathLike[str] | None = None
    keep_top_k: int = 3
    accept_changes: bool = False
    resume_from: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_whole("study.keep_top_k", self.keep_top_k, 1)
        if self.name is not None and not isinstance(self.name, str):
            raise SearchError(f"Expected `study.name` to be a string or None, got {self.name!r}.")
        if not isinstance(self.accept_changes, bool):
            raise SearchError(f"Expected `study.accept_changes` to be True or False, got {self.accept_changes!r}.")


class Settings(Protocol):
    """What a search is asked to do: the arguments of `ArchitectureSearch`, and the Optuna study once it is open."""

    space: SearchSpace
    monitor: str
    mode: Mode
    after: After
    seed: int
    n_trials: int
    timeout: float | None
    sampler: str | BaseSampler
    pruner: BasePruner | None
    folds: Folds | None
    limits: dict[str, float]
    constraints: list[Constraint]
    enqueue: list[Mapping[str, Any]]
    trial: TrialConfig
    factory: Factory | None
    study: StudyConfig
    optuna_study: optuna.Study | None


def config_of(kind: type[C], name: str, given: C | Mapping[str, Any] | None) -> C:
    """The configuration that an argument holds; a mapping becomes one, and None the default.

    Raises:
        SearchError: a key of the mapping is unknown, or the argument is something else.
    """
    if isinstance(given, kind):
        return given
    if given is None:
        return kind()
    if not isinstance(given, Mapping):
        raise SearchError(f"Expected `{name}` to be a {kind.__name__} or a mapping, got {given!r}.")
    known = [attribute.name for attribute in dataclasses.fields(kind)]
    for key in given:
        if key not in known:
            raise SearchError(
                f"Expected the keys of `{name}` to be among {', '.join(known)}, got `{key}`."
                f"{did_you_mean(str(key), known)}"
            )
    return kind(**given)


def check_whole(name: str, value: object, low: int) -> None:
    """Raises SearchError for anything but an integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise SearchError(f"Expected `{name}` to be a whole number >= {low}, got {value!r}.")


def check_one_of(name: str, value: object, known: Sequence[object]) -> None:
    """Raises SearchError for a value that is not among the known ones."""
    if not any(value is each or (isinstance(value, str) and value == each) for each in known):
        listed = ", ".join(str(each) for each in known)
        near = did_you_mean(value, [str(each) for each in known]) if isinstance(value, str) else ""
        raise SearchError(f"Expected `{name}` to be one of {listed}, got {value!r}.{near}")


def check_list(name: str, value: object, what: str) -> None:
    """Raises SearchError for a single object where a list of them is expected."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise SearchError(f"Expected `{name}` to be a list of {what}, got {value!r}. Put it in a list.")


def check_seconds(name: str, value: object) -> None:
    """Raises SearchError for anything but a positive number of seconds or None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and value > 0):  # type: ignore[operator]
        raise SearchError(f"Expected `{name}` to be a number of seconds > 0 or None, got {value!r}.")


def check_pruner(pruner: object) -> None:
    """Raises SearchError for anything but an Optuna pruner or None; a name is answered with the class."""
    if pruner is None or isinstance(pruner, BasePruner):
        return
    remedy = ""
    if isinstance(pruner, str):
        known = {name.removesuffix("Pruner").lower(): name for name in optuna.pruners.__all__ if name != "BasePruner"}
        wanted = pruner.lower().replace("_", "").removesuffix("pruner")
        near = difflib.get_close_matches(wanted, known, n=1)
        remedy = f" Did you mean `optuna.pruners.{known[near[0]]}()`?" if near else ""
    raise SearchError(f"Expected `pruner` to be an Optuna pruner or None, got {pruner!r}.{remedy}")
