"""How a training set is split for cross-validation, and what the folds score.

    mean = (1/k) sum s_i        standard error = sqrt( sum (s_i - mean)^2 / (k (k - 1)) )

The folds are scikit-learn's. The validation part of a fold comes from the *training* set, through its transforms.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from lightning_autoarch.core.errors import SearchError

# An array with a value for each sample, or a function of the dataset that returns one.
OfDataset: TypeAlias = Callable[[Any], Any] | Sequence[Any] | None


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


def split_loader(loader: Any, folds: Folds) -> Iterator[tuple[DataLoader[Any], DataLoader[Any]]]:
    """The training and the validation loader of each fold; both have the options of the given one.

    Raises:
        SearchError: it is no DataLoader over a map-style dataset in batches, or the splitter cannot split that.
    """
    _check_splittable(loader)
    shuffled = isinstance(loader.sampler, RandomSampler)
    for train, val in folds.splits(loader.dataset):
        yield (
            _reloaded(loader, train, shuffle=shuffled, drop_last=loader.drop_last),
            _reloaded(loader, val, shuffle=False, drop_last=False),
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


def _of_dataset(values: OfDataset, dataset: Any) -> Any:
    return values(dataset) if callable(values) else values
