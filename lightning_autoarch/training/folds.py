"""Cross-validation: one candidate trained once a fold on a map-style training set, its score the mean over the folds.

    mean = (1/k) sum s_i        standard error = sqrt( sum (s_i - mean)^2 / (k (k - 1)) )

The folds are scikit-learn's. A fold's validation part comes from the *training* set, through its transforms.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.training.data import TrialData, split_architecture
from lightning_autoarch.training.destination import writable_directory
from lightning_autoarch.training.inherit import SILENT
from lightning_autoarch.training.isolation import seeded, trial_seed
from lightning_autoarch.training.module import Factory, ModuleBuilder
from lightning_autoarch.training.recorder import Report
from lightning_autoarch.training.trial import TrialResult, TrialSpec, run_trial
from lightning_autoarch.training.trial_files import make_inside

OfDataset = Callable[[Any], Any] | Sequence[Any] | None  # an array with a value a sample, or a function of the dataset


@dataclass(frozen=True)
class FoldScores:
    """The best monitored value of each fold."""

    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The arithmetic mean."""
        return statistics.fmean(self.scores)

    @property
    def stderr(self) -> float | None:
        """The standard error of the mean; None for a single fold."""
        if len(self.scores) < 2:
            return None
        return statistics.stdev(self.scores) / math.sqrt(len(self.scores))


@runtime_checkable
class Splitter(Protocol):
    """A scikit-learn splitter, such as `KFold` or `GroupKFold`."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Any: ...


@dataclass(frozen=True)
class Folds:
    """How to split a training set.

    Attributes:
        splitter: a number of folds (shuffled; stratified when `labels` are given), or any scikit-learn splitter.
        labels, groups: for splitters that need them: an array with a value a sample, or a function of the dataset.
        seed: of the shuffling. None: that of the search or the call, and 0 outside of one.

    Raises:
        SearchError: the splitter is neither a number >= 2 nor has a method `split`.
    """

    splitter: int | Splitter
    labels: OfDataset = None
    groups: OfDataset = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_splitter(self.splitter)

    @classmethod
    def of(cls, given: int | Folds | Splitter | None) -> Folds | None:
        """The folds that an argument `folds` asks for; None where it asks for none."""
        return given if given is None or isinstance(given, Folds) else cls(given)

    def seeded(self, seed: int) -> Folds:
        """With this seed where none was given."""
        return self if self.seed is not None else dataclasses.replace(self, seed=seed)

    def splits(self, dataset: Any) -> list[tuple[list[int], list[int]]]:
        """Index lists (training, validation), a pair a fold.

        Raises:
            SearchError: the splitter needs something that was not given, or cannot split this set.
        """
        labels, groups = _of_dataset(self.labels, dataset), _of_dataset(self.groups, dataset)
        try:
            pairs = list(self._made(labels).split(np.zeros(len(dataset)), labels, groups))
        except (ValueError, TypeError) as error:
            raise SearchError(
                f"`folds={self.splitter!r}` cannot split {len(dataset)} samples: {error} "
                "(`Folds(splitter, labels=, groups=)` takes an array or a function of the dataset for each.)"
            ) from error
        return [(train.tolist(), val.tolist()) for train, val in pairs]

    def _made(self, labels: Any) -> Any:
        if not isinstance(self.splitter, int):
            return self.splitter
        from sklearn.model_selection import KFold, StratifiedKFold

        kind = KFold if labels is None else StratifiedKFold
        return kind(self.splitter, shuffle=True, random_state=self.seed or 0)


def _check_splitter(splitter: object) -> None:
    is_number = isinstance(splitter, int) and not isinstance(splitter, bool)
    if is_number and splitter >= 2:  # type: ignore[operator]
        return
    if isinstance(splitter, str | bytes) or not callable(getattr(splitter, "split", None)):
        remedy = f" Give the number {splitter}." if isinstance(splitter, str) and splitter.isdigit() else ""
        raise SearchError(f"Expected `folds` to be a number >= 2 or a scikit-learn splitter, got {splitter!r}.{remedy}")


def run_folds(spec: TrialSpec, folds: Folds, report: Report) -> TrialResult:
    """Train the candidate once a fold; `report` gets each fold's score and may end it early.

    A fold that was interrupted continues from its own last checkpoint, finished ones are read back from theirs.

    Raises:
        SearchError: the training loader cannot be split.
    """
    with spec.data.untouched():
        architecture, parameters = split_architecture(spec.architecture)
        data = spec.data.with_parameters(parameters)
        return _run_folds(dataclasses.replace(spec, architecture=architecture, data=data), folds, report)


def _run_folds(spec: TrialSpec, folds: Folds, report: Report) -> TrialResult:
    done: list[TrialResult] = []
    for i, fold_data in enumerate(_fold_data(spec, folds)):
        result = run_trial(_of_fold(spec, i, fold_data), lambda step, value: False)
        done.append(result)
        if result.score is None:
            return dataclasses.replace(_joined("failed", done, f"fold {i}: {result.error}"), failure=result.failure)
        if report(i, result.score):
            return _joined("pruned", done)
    return _joined("complete", done)


def cross_validate(
    module: LightningModule,
    datamodule: LightningDataModule | Any,
    splitter: Any = 5,
    trainer_kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    *,
    monitor: str,
    mode: str = "min",
    labels: OfDataset = None,
    groups: OfDataset = None,
    factory: Factory | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
) -> FoldScores:
    """Train fresh copies of `module`, one a fold, and return their scores; `module` itself is not trained.

    Args:
        module: remade for every fold from its saved hyperparameters, or by `factory()`.
        datamodule: a datamodule (it is prepared and set up here) or a training DataLoader over a map-style dataset.
        splitter: a number of folds, or a scikit-learn splitter.
        trainer_kwargs: arguments of the Trainer that trains each fold, such as `max_epochs`.
        callbacks: copied for each fold.
        monitor: the logged value that is the score: its best epoch counts.
        mode: "min" or "max".
        labels, groups: a value a training sample, or a function of the training set; for splitters that need them.
        factory: makes the module where it does not save its hyperparameters.
        seed: of the folds and the trainings.
        directory: keeps each fold's checkpoints, from which an interrupted call continues; None keeps nothing.

    Raises:
        SearchError: the data cannot be split, `directory` cannot be written to, `monitor` is not logged, or a fold
            failed (with the reason).
    """
    folds = Folds(splitter, labels, groups, seed)
    if (trainer_kwargs or {}).get("callbacks"):
        raise SearchError(
            "Expected no callbacks in `trainer_kwargs`, where all folds would share them: give those of each training."
        )
    own = None if directory is None else writable_directory(directory, "Give another `directory=`.")
    builder = ModuleBuilder.of(module, factory)
    if factory is None:
        with seeded(seed):
            builder.tell_losses(module, {})
    spec = TrialSpec(
        architecture={},
        builder=builder,
        data=data_of(datamodule),
        trainer={**SILENT, **(trainer_kwargs or {})},
        monitor=monitor,
        mode=mode,
        seed=seed,
        directory=own,
        callbacks=callbacks,
    )
    with seeded(seed):
        result = run_folds(spec, folds, lambda step, value: False)
    if result.state == "failed":
        raise SearchError(f"Cross-validation failed: {result.error}")
    return FoldScores(result.fold_scores)


def data_of(datamodule: LightningDataModule | Any) -> TrialData:
    """The data of a datamodule, which is prepared and set up here, or of a training loader."""
    if not isinstance(datamodule, LightningDataModule):
        return TrialData(train=datamodule)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return TrialData(datamodule)


def _fold_data(spec: TrialSpec, folds: Folds) -> Iterator[TrialData]:
    loader = spec.data.train_loader(spec.builder.build(spec.architecture))
    _check_splittable(loader)
    for train, val in folds.splits(loader.dataset):
        shuffled = isinstance(loader.sampler, RandomSampler)
        yield dataclasses.replace(
            spec.data,
            train=_reloaded(loader, train, shuffle=shuffled, drop_last=loader.drop_last),
            val=_reloaded(loader, val, shuffle=False, drop_last=False),
        )


def _check_splittable(loader: Any) -> None:
    wanted = "Cross-validation (`folds`) needs one training DataLoader over a map-style dataset"
    if not isinstance(loader, DataLoader):
        raise SearchError(f"{wanted}, got {type(loader).__name__}.")
    if isinstance(loader.dataset, IterableDataset):
        raise SearchError(f"{wanted}, got one over the stream {type(loader.dataset).__name__}.")
    own = "its indices are of the whole set. Give the DataLoader `batch_size` and `shuffle` instead."
    if loader.batch_size is None and loader.batch_sampler is not None:
        raise SearchError(f"{wanted}, got one with the batch sampler {type(loader.batch_sampler).__name__}: {own}")
    if not isinstance(loader.sampler, RandomSampler | SequentialSampler):
        raise SearchError(f"{wanted}, got one with the sampler {type(loader.sampler).__name__}: {own}")
    if loader.batch_size is None:
        raise SearchError(f"{wanted} in batches, got one with batch_size=None: give it a number.")


def _reloaded(loader: DataLoader[Any], indices: list[int], *, shuffle: bool, drop_last: bool) -> DataLoader[Any]:
    return DataLoader(
        Subset(loader.dataset, indices),
        batch_size=loader.batch_size,
        shuffle=shuffle,
        drop_last=drop_last and len(indices) > (loader.batch_size or 1),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator if shuffle else None,
        persistent_workers=loader.persistent_workers,
    )


def _of_fold(spec: TrialSpec, i: int, data: TrialData) -> TrialSpec:
    directory = None if spec.directory is None else make_inside(spec.directory, spec.directory / f"fold{i}")
    return dataclasses.replace(spec, data=data, seed=trial_seed(spec.seed, i), directory=directory)


def _joined(state: Any, done: Sequence[TrialResult], error: str | None = None) -> TrialResult:
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


def _of_dataset(values: OfDataset, dataset: Any) -> Any:
    return values(dataset) if callable(values) else values
