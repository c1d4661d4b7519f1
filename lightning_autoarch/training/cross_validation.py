"""Cross-validation: one candidate trained once for each fold; its score is the mean over the folds."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from lightning.pytorch import Callback, LightningDataModule, LightningModule

from lightning_autoarch.core.errors import SearchError, did_you_mean
from lightning_autoarch.core.files import writable_directory
from lightning_autoarch.core.rng import seeded
from lightning_autoarch.training.data import TrialData, split_architecture
from lightning_autoarch.training.folds import Folds, FoldScores, Splitter, split_loader
from lightning_autoarch.training.isolation import trial_seed
from lightning_autoarch.training.module import Factory, ModuleBuilder
from lightning_autoarch.training.recorder import Report
from lightning_autoarch.training.trainer_settings import SILENT
from lightning_autoarch.training.trial import State, TrialResult, TrialSpec, run_trial
from lightning_autoarch.training.trial_files import make_inside


@dataclass(frozen=True)
class CrossValidation:
    """How a module is trained and scored fold by fold.

    Attributes:
        folds: the number of folds, a scikit-learn splitter, or `Folds(splitter, labels=, groups=)`.
        trainer: arguments of the Trainer that trains each fold, such as `{"max_epochs": 3}`.
        callbacks: copied for each fold.
        factory: `factory()` makes the module where it does not save its hyperparameters.
        seed: of the folds and the trainings.
        directory: keeps each fold's checkpoints, from which an interrupted call continues. None keeps nothing.

    Raises:
        SearchError: `folds` is neither a number >= 2 nor a splitter, or `trainer` holds callbacks.
    """

    folds: int | Splitter | Folds = 5
    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    factory: Factory | None = None
    seed: int = 0
    directory: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        Folds.of(self.folds)
        if not isinstance(self.trainer, Mapping):
            raise SearchError(f"Expected `trainer` to map Trainer arguments to values, got {self.trainer!r}.")
        if self.trainer.get("callbacks"):
            raise SearchError(
                "Expected no callbacks in `trainer`, where all folds would share them: give them as `callbacks`."
            )

    @classmethod
    def of(cls, given: How) -> CrossValidation:
        """What an argument `cv` says: folds alone, a mapping of this class's attributes, or one of this class.

        Raises:
            SearchError: a key of the mapping is unknown.
        """
        if isinstance(given, CrossValidation):
            return given
        if not isinstance(given, Mapping):
            return cls(folds=given)
        known = [attribute.name for attribute in dataclasses.fields(cls)]
        for key in given:
            if key not in known:
                near = did_you_mean(str(key), known)
                raise SearchError(f"Expected the keys of `cv` to be among {', '.join(known)}, got `{key}`.{near}")
        return cls(**given)


How: TypeAlias = int | Splitter | Folds | CrossValidation | Mapping[str, Any]


def cross_validate(
    module: LightningModule,
    data: Any,
    cv: How = 5,
    *,
    monitor: str,
    mode: Literal["min", "max"] = "min",
) -> FoldScores:
    """Train fresh copies of `module`, one for each fold, and return their scores; `module` itself is not trained.

    Args:
        module: rebuilt for every fold from its saved hyperparameters, or by `cv.factory()`.
        data: a datamodule (it is prepared and set up here) or a training DataLoader over a map-style dataset.
        cv: the folds, or a `CrossValidation` or a mapping with its keys `folds`, `trainer`, `callbacks`, `factory`,
            `seed`, `directory`.
        monitor: the logged value that is the score; the best epoch of each fold counts, in one that prunes the best of
            those at the final sparsity.
        mode: "min" or "max".

    Raises:
        SearchError: the data cannot be split, `cv.directory` is not writable, `monitor` is not logged, or a fold failed
            (with the reason).

    Example::

        scores = cross_validate(model, dm, {"folds": 5, "trainer": {"max_epochs": 3}}, monitor="val_acc", mode="max")
        print(scores.mean, scores.stderr)
    """
    how = CrossValidation.of(cv)
    spec = _spec(module, data, how, monitor, mode)
    with seeded(how.seed):
        result = run_folds(spec, _never)
    if result.state == "failed":
        raise SearchError(f"Cross-validation failed: {result.error}")
    return FoldScores(result.fold_scores)


def run_spec(spec: TrialSpec, report: Report) -> TrialResult:
    """Train a candidate once, or once for each fold of its spec; see `run_trial` and `run_folds`."""
    return run_trial(spec, report) if spec.folds is None else run_folds(spec, report)


def run_folds(spec: TrialSpec, report: Report) -> TrialResult:
    """Train the candidate once for each fold; `report` receives the score of each and may end the trial early.

    A fold that was interrupted continues from its own last checkpoint; finished ones are read from theirs.

    Raises:
        SearchError: the training loader cannot be split.
    """
    with spec.data.untouched():
        architecture, parameters = split_architecture(spec.architecture)
        data = spec.data.with_parameters(parameters)
        return _run_folds(dataclasses.replace(spec, architecture=architecture, data=data), report)


def data_of(datamodule: LightningDataModule | Any) -> TrialData:
    """The data of a datamodule, which is prepared and set up here, or of a training loader."""
    if not isinstance(datamodule, LightningDataModule):
        return TrialData(train=datamodule)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return TrialData(datamodule)


def _spec(module: LightningModule, data: Any, how: CrossValidation, monitor: str, mode: str) -> TrialSpec:
    own = None if how.directory is None else writable_directory(how.directory, "Give another `directory`.")
    builder = ModuleBuilder.of(module, how.factory)
    if how.factory is None:
        with seeded(how.seed):
            builder.warn_of_lost(module, {})
    folds = Folds.of(how.folds)
    return TrialSpec(
        architecture={},
        builder=builder,
        data=data_of(data),
        trainer={**SILENT, **how.trainer},
        monitor=monitor,
        mode=mode,
        seed=how.seed,
        directory=own,
        callbacks=how.callbacks,
        folds=None if folds is None else folds.seeded(how.seed),
    )


def _run_folds(spec: TrialSpec, report: Report) -> TrialResult:
    done: list[TrialResult] = []
    for i, data in enumerate(_fold_data(spec)):
        result = run_trial(_of_fold(spec, i, data), _never)
        done.append(result)
        if result.score is None:
            return dataclasses.replace(_joined("failed", done, f"fold {i}: {result.error}"), failure=result.failure)
        if report(i, result.score):
            return _joined("pruned", done)
    return _joined("complete", done)


def _fold_data(spec: TrialSpec) -> Iterator[TrialData]:
    assert spec.folds is not None
    loader = spec.data.train_loader(spec.builder.build(spec.architecture))
    for train, val in split_loader(loader, spec.folds):
        yield dataclasses.replace(spec.data, train=train, val=val)


def _of_fold(spec: TrialSpec, i: int, data: TrialData) -> TrialSpec:
    directory = None if spec.directory is None else make_inside(spec.directory, spec.directory / f"fold{i}")
    return dataclasses.replace(spec, data=data, seed=trial_seed(spec.seed, i), directory=directory, folds=None)


def _joined(state: State, done: Sequence[TrialResult], error: str | None = None) -> TrialResult:
    scores = FoldScores(tuple(result.score for result in done if result.score is not None))
    return TrialResult(
        state=state,
        score=scores.mean if state != "failed" else None,
        history=scores.scores,
        epochs=sum(result.epochs for result in done),
        seconds=sum(result.seconds for result in done),
        error=error,
        stderr=scores.stderr,
        fold_scores=scores.scores,
        shares=_means([result.shares for result in done]),
        metrics=_means([result.metrics for result in done]),
    )


def _means(of_folds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name: None for values in of_folds for name in values}
    return {name: statistics.fmean(values[name] for values in of_folds if name in values) for name in names}


def _never(step: int, value: float) -> bool:
    """A report that stops nothing: folds train to their end."""
    return False
