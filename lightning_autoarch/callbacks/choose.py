"""`choose`: which of several sets of callbacks (ways to fine-tune, or to prune) is best, by cross-validation.

All are scored on the same folds with the same seeds, so that they differ in nothing else; what one is behind the best
is therefore reported fold by fold:

    d_i = s_i - s_i(best)        mean of d_i, and its standard error

As folds only score, the best is trained once more, on the whole training set, and that is saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_autoarch.callbacks.base import AutoArchCallback
from lightning_autoarch.callbacks.prune.prune_trained import save_pruned
from lightning_autoarch.core.errors import MonitorMissing, SearchError
from lightning_autoarch.core.files import check_writable, writable_directory
from lightning_autoarch.search.leaderboard import fixed
from lightning_autoarch.training.callback_protocols import fresh
from lightning_autoarch.training.cross_validation import CrossValidation, How, cross_validate, data_of
from lightning_autoarch.training.folds import FoldScores
from lightning_autoarch.training.isolation import isolated
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.trainer_settings import SILENT

Candidates = Mapping[str, Callback | Sequence[Callback]]


@dataclass(frozen=True)
class Choice:
    """The result. `str()` is a table, the best first.

    Attributes:
        scores: of each candidate that could be trained, by name.
        best: its name.
        monitor, mode: what the scores are.
        failures: why others could not be trained.
        checkpoint: of the best, trained on the whole training set; None where none was asked for.
    """

    scores: Mapping[str, FoldScores]
    best: str
    monitor: str
    mode: str
    failures: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Path | None = None

    def behind(self, name: str) -> FoldScores:
        """Differences to the best on each fold, positive where the best has the larger score."""
        pairs = zip(self.scores[self.best].scores, self.scores[name].scores, strict=True)
        return FoldScores(tuple(best - score for best, score in pairs))

    def __str__(self) -> str:
        rows = [("", self.monitor, "the best has")]
        ranked = sorted(self.scores, key=lambda name: _rank(self.scores[name], self.mode))
        rows += [(name, _with_error(self.scores[name]), self._difference(name)) for name in ranked]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *(f"{name}: failed: {reason}" for name, reason in self.failures.items())])

    def _difference(self, name: str) -> str:
        if name == self.best:
            return ""
        behind = self.behind(name)
        return ("+" if behind.mean >= 0 else "") + _with_error(behind)


def choose(
    module: LightningModule,
    data: Any,
    candidates: Candidates,
    cv: How = 5,
    *,
    monitor: str,
    mode: Literal["min", "max"] = "min",
    output: str | Path | None = None,
) -> Choice:
    """Score each candidate by cross-validation, and train the best on the whole training set.

    Args:
        module: rebuilt for every training from its saved hyperparameters, or by `cv.factory()`; itself not trained.
        data: a datamodule or a training DataLoader, as for `cross_validate`.
        candidates: name -> callbacks of its trainings; each training has fresh copies.
        cv: the folds, or a `CrossValidation` or a mapping with its keys `folds`, `trainer`, `callbacks`, `factory`,
            `seed`, `directory`, as for `cross_validate`; its callbacks train with every candidate, behind the
            candidate's own. `directory` holds a folder for each candidate, from which an interrupted call continues.
        monitor: the logged value that is the score; the best epoch of each fold counts, in one that prunes the best of
            those at the final sparsity.
        mode: "min" or "max".
        output: where the best candidate is saved at the end of its training: a plain Lightning checkpoint of weights
            and hyperparameters, adapters merged. `load_pruned` reads that of a module that lost channels. None: no last
            training.

    Raises:
        AutoArchError: `output` is not writable.
        SearchError: `cv.directory` is not writable, there are no candidates, or none could be trained (with the
            reasons), or as `cross_validate`.

    Example::

        choice = choose(model, data, {
            "probe": TransferLearning("pretrained.ckpt", strategy="linear_probe"),
            "full": TransferLearning("pretrained.ckpt", layer_decay=0.75),
            "full, sparse": [TransferLearning("pretrained.ckpt"), MagnitudePruning(CubicSparsity(0.9))],
        }, {"trainer": {"max_epochs": 20}}, monitor="val_acc", mode="max", output="best.ckpt")
        print(choice)
    """
    how = CrossValidation.of(cv)
    given = {name: _listed(name, callbacks) for name, callbacks in _checked(candidates, mode).items()}
    path = None if output is None else Path(output)
    if path is not None:
        check_writable(path, "output")
    if how.directory is not None:
        writable_directory(how.directory, "Give another `cv.directory`.")
    scores: dict[str, FoldScores] = {}
    failures: dict[str, str] = {}
    for name, callbacks in given.items():
        own = None if how.directory is None else Path(how.directory) / name
        of_candidate = replace(how, callbacks=[*callbacks, *how.callbacks], directory=own)
        try:
            scores[name] = cross_validate(module, data, of_candidate, monitor=monitor, mode=mode)
        except MonitorMissing:  # it is the same for all
            raise
        except SearchError as error:
            failures[name] = str(error)
    if not scores:
        raise SearchError("\n".join(["No candidate could be trained:", *(f"  {n}: {failures[n]}" for n in failures)]))
    best = min(scores, key=lambda name: _rank(scores[name], mode))
    if path is not None:
        _train_and_save(module, data, replace(how, callbacks=[*given[best], *how.callbacks]), path)
    return Choice(scores, best, monitor, mode, failures, path)


def _train_and_save(module: LightningModule, data: Any, how: CrossValidation, path: Path) -> None:
    builder, copies = ModuleBuilder.of(module, how.factory), fresh(how.callbacks)
    saves = any(isinstance(callback, Checkpoint) for callback in copies)
    ours = {**SILENT, "logger": False, "enable_checkpointing": saves, **how.trainer, "callbacks": copies}
    with isolated(how.seed), data_of(data).for_trial({}) as loaders:
        trained, trainer = builder.build({}), Trainer(**ours)
        trainer.fit(trained, **loaders)
    for callback in copies:
        if isinstance(callback, AutoArchCallback):
            callback.make_plain_(trained)
    save_pruned(trainer, path)


def _checked(candidates: Candidates, mode: str) -> Candidates:
    if not isinstance(candidates, Mapping) or not candidates:
        raise SearchError(f"Expected `candidates` as {{name: callbacks}}, at least one, got {candidates!r:.80}.")
    for name in candidates:
        if not isinstance(name, str) or not name.strip(" .") or name != Path(name).name:
            raise SearchError(f"Expected the names of `candidates` to be such as files may have, got {name!r}.")
    if mode not in ("min", "max"):
        raise SearchError(f"Expected `mode` to be one of min, max, got {mode!r}.")
    return candidates


def _listed(name: str, callbacks: Callback | Sequence[Callback]) -> list[Callback]:
    if not isinstance(callbacks, Callback | Iterable):
        raise SearchError(f"Expected callbacks for the candidate `{name}`, [] for none, got {callbacks!r:.80}.")
    listed = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    strange = next((each for each in listed if not isinstance(each, Callback)), None)
    if strange is not None:
        raise SearchError(f"Expected callbacks for the candidate `{name}`, got {strange!r:.80}.")
    return listed


def _rank(scores: FoldScores, mode: str) -> float:
    return scores.mean if mode == "min" else -scores.mean


def _with_error(scores: FoldScores) -> str:
    return fixed(scores.mean) + ("" if scores.stderr is None else f" ±{fixed(scores.stderr)}")
