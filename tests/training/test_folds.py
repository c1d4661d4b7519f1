"""Cross-validation: scikit-learn's folds, their mean and standard error, and what cannot be split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import numpy as np
import optuna
import pytest
import torch
from search_options import merged
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, TimeSeriesSplit
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from lightning_autoarch import ArchitectureSearch, FoldScores, Int, SearchError, cross_validate
from lightning_autoarch.training.folds import Folds

TRAINER = {"max_epochs": 1, "accelerator": "cpu", "devices": 1}
CV: dict[str, Any] = {"folds": 2, "trainer": TRAINER}


def test_mean_and_standard_error() -> None:
    scores = FoldScores((1.0, 2.0, 3.0, 4.0))
    assert scores.mean == 2.5
    assert scores.stderr == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert FoldScores((1.0,)).stderr is None


class Index(nets.Net):
    """Remembers which samples it saw where: sample i has the value i."""

    seen: dict[str, list[set[int]]] = {"train": [], "val": []}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self._now["train"].update(batch[1][:, 0].int().tolist())
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._now["val"].update(batch[1][:, 0].int().tolist())
        super().validation_step(batch, batch_idx)

    def on_fit_start(self) -> None:
        self._now: dict[str, set[int]] = {"train": set(), "val": set()}

    def on_fit_end(self) -> None:
        for part, samples in self._now.items():
            self.seen[part].append(samples)


def numbered(n: int = 20) -> TensorDataset:
    return TensorDataset(torch.randn(n, 4), torch.arange(n, dtype=torch.float32).unsqueeze(1))


@pytest.mark.parametrize("splitter", [4, KFold(4), TimeSeriesSplit(4), StratifiedKFold(4), GroupKFold(4)])
def test_folds_are_scikit_learns(splitter: Any) -> None:
    Index.seen = {"train": [], "val": []}
    loader = DataLoader(numbered(), batch_size=3, shuffle=True)
    labels = [i % 2 for i in range(20)]
    groups = [i // 4 for i in range(20)] if isinstance(splitter, GroupKFold) else None
    scores = cross_validate(
        Index(),
        loader,
        {"folds": Folds(splitter, labels, groups and (lambda dataset: groups)), "trainer": TRAINER},
        monitor="val_loss",
    )
    assert len(scores.scores) == 4
    expected = Folds(splitter, labels, groups).splits(loader.dataset)
    assert [(sorted(t), sorted(v)) for t, v in zip(Index.seen["train"], Index.seen["val"], strict=True)] == [
        (sorted(t), sorted(v)) for t, v in expected
    ]


def test_a_datamodule_and_determinism(tmp_path: Path) -> None:
    runs = [
        cross_validate(nets.Net(), nets.Data(), {"folds": 3, "trainer": TRAINER, "seed": s}, monitor="val_loss")
        for s in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_the_module_is_not_trained() -> None:
    module = nets.Net()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    cross_validate(module, nets.loaders()[0], CV, monitor="val_loss")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (DataLoader(numbered(), sampler=WeightedRandomSampler([1.0] * 20, 20)), "WeightedRandomSampler"),
        (DataLoader(numbered(), batch_sampler=[[0, 1], [2]]), r"the batch sampler list: .*`batch_size` and `shuffle`"),
        (DataLoader(numbered(), batch_size=None), "batch_size=None"),
        ([nets.loaders()[0]], "list"),
        (DataLoader(type("Stream", (IterableDataset,), {"__iter__": lambda self: iter([])})()), "Stream"),
    ],
)
def test_what_cannot_be_split(loader: Any, words: str) -> None:
    with pytest.raises(SearchError, match=words):
        cross_validate(nets.Net(), loader, CV, monitor="val_loss")


def test_splitters_that_lack_something_say_so() -> None:
    with pytest.raises(SearchError, match="labels="):
        cross_validate(nets.Net(), nets.loaders()[0], {"folds": GroupKFold(2), "trainer": TRAINER}, monitor="val_loss")
    with pytest.raises(SearchError, match="cannot split"):
        cross_validate(nets.Net(), DataLoader(numbered(3)), {"folds": 5, "trainer": TRAINER}, monitor="val_loss")
    with pytest.raises(SearchError, match="`folds`"):
        cross_validate(nets.Net(), nets.loaders()[0], {"folds": 0, "trainer": TRAINER}, monitor="val_loss")


def test_a_failing_fold_names_itself() -> None:
    class Broken(nets.Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("no")

    with pytest.raises(SearchError, match="fold 0: ValueError: no"):
        cross_validate(Broken(), nets.loaders()[0], CV, monitor="val_loss")


def search(**options: Any) -> ArchitectureSearch:
    return ArchitectureSearch(
        {"width": Int(2, 16)},
        **merged({"monitor": "val_loss", "n_trials": 3, "folds": 3, "trial": {"trainer": {"max_epochs": 1}}}, options),
    )


def test_search_by_folds(tmp_path: Path) -> None:
    callback = search()
    nets.trainer(tmp_path, callback).fit(nets.Net(), *nets.loaders())
    for trial in callback.optuna_study.trials:
        scores = trial.user_attrs["fold_scores"]
        assert list(trial.intermediate_values.values()) == scores
        assert trial.value == pytest.approx(FoldScores(tuple(scores)).mean)
        assert trial.user_attrs["stderr"] == pytest.approx(FoldScores(tuple(scores)).stderr)


def test_a_bad_candidate_ends_after_a_fold(tmp_path: Path) -> None:
    callback = search(pruner=optuna.pruners.ThresholdPruner(upper=-1.0), n_trials=2)
    with pytest.raises(SearchError, match="pruner"):
        nets.trainer(tmp_path, callback).fit(nets.Net(), *nets.loaders())
    assert [len(t.intermediate_values) for t in callback.optuna_study.trials] == [1, 1]


def test_the_wilcoxon_pruner_compares_fold_by_fold(tmp_path: Path) -> None:
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.4)
    callback = search(pruner=pruner, folds=6, n_trials=2, sampler="random")
    nets.trainer(tmp_path, callback).fit(nets.Net(), *nets.loaders())
    assert callback.best_architecture is not None
    assert {t.state.name for t in callback.optuna_study.trials} <= {"COMPLETE", "PRUNED"}


def test_folds_with_data_parameters_and_transfer_hooks(tmp_path: Path) -> None:
    class Shifting(nets.Data):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            assert isinstance(self.trainer, L.Trainer)
            return [batch[0] + 1, batch[1]]

    callback = ArchitectureSearch(
        {"data.batch_size": [4, 8]}, monitor="val_loss", n_trials=2, folds=2, sampler="random"
    )
    data = Shifting()
    nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), datamodule=data)
    assert len({t.params["data.batch_size"] for t in callback.optuna_study.trials}) == 2
