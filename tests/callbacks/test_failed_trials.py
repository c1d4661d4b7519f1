"""What becomes of trials that fail, and of searches that cannot succeed."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import lightning as L
import nets
import optuna
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import SimpleProfiler
from search_options import merged

from lightning_autoarch import ArchitectureSearch, Categorical, Int, SearchError


def search(**options: Any) -> ArchitectureSearch:
    settings = {"monitor": "val_loss", "n_trials": 3, "sampler": "random", "trial": {"trainer": {"max_epochs": 1}}}
    return ArchitectureSearch(options.pop("space", {"width": Int(2, 32)}), **merged(settings, options))


def fit(root: Path, callback: ArchitectureSearch, module: L.LightningModule) -> L.Trainer:
    trainer = nets.trainer(root, callback, max_epochs=1)
    trainer.fit(module, *nets.loaders())
    return trainer


class OwnLogger(Logger):
    """Says where it would write, and writes nothing."""

    name, version = "own", 0

    def __init__(self, save_dir: str | None = None, root_dir: str | None = None) -> None:
        super().__init__()
        self.places = save_dir, root_dir

    @property
    def save_dir(self) -> str | None:
        return self.places[0]

    @property
    def root_dir(self) -> str | None:
        return self.places[1]

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


class Broken(nets.Net):
    """Raises in every training step until it is mended."""

    mended = False
    steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        type(self).steps += 1
        if not self.mended:
            raise ValueError(f"a net of width {self.hparams['width']} does not work")
        return super().training_step(batch, batch_idx)


class TestFailedByCode:
    def test_they_run_again_once_the_code_is_mended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SearchError, match=r"(?s)None of the 3 trials.*test_failed_trials\.py.*Fix the code"):
            fit(tmp_path, search(), Broken())
        monkeypatch.setattr(Broken, "mended", True)
        callback = search()
        fit(tmp_path, callback, Broken())
        trials = callback.optuna_study.trials
        assert [trial.state.name for trial in trials] == ["FAIL"] * 3 + ["COMPLETE"] * 3
        assert [trial.params for trial in trials[:3]] == [trial.params for trial in trials[3:]]
        again = search()
        fit(tmp_path, again, Broken())  # nothing is left to do
        assert len(again.optuna_study.trials) == 6

    def test_other_settings_are_no_other_conditions_before_there_is_a_score(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SearchError, match="Fix the code"):
            fit(tmp_path, search(), Broken())
        monkeypatch.setattr(Broken, "mended", True)
        fit(tmp_path, search(trial={"trainer": {"max_epochs": 2}}), Broken(lr=0.2))
        with pytest.raises(SearchError, match=r"`trainer\.max_epochs`: stored 2, given 1"):
            fit(tmp_path, search(), Broken(lr=0.2))

    def test_the_first_failures_at_one_line_end_the_search(self, tmp_path: Path) -> None:
        callback = search(n_trials=50)
        with pytest.raises(SearchError, match=r"first 5 trials all failed in the same way.*of width \d+ does not"):
            fit(tmp_path, callback, Broken())
        assert len(callback.optuna_study.trials) == 5

    def test_a_result_is_none_of_them(self, tmp_path: Path) -> None:
        class Diverging(nets.Net):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_loss", torch.tensor(math.nan))

        for _ in range(2):
            callback = search(n_trials=6)
            with pytest.raises(SearchError, match=r"6 x `val_loss` became nan in epoch 1$"):
                fit(tmp_path, callback, Diverging())
            assert len(callback.optuna_study.trials) == 6

    def test_the_line_is_the_users(self, tmp_path: Path) -> None:
        class Joins(nets.Net):
            def on_validation_epoch_end(self) -> None:
                Path(None)  # type: ignore[arg-type]

        with pytest.raises(SearchError, match=r"1 x TypeError: .* \(test_failed_trials\.py:\d+\)"):
            fit(tmp_path, search(n_trials=1), Joins())


class TestNaN:
    class NaNFirst(nets.Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", torch.tensor([math.nan, 3.0, math.inf][self.current_epoch]))
            self.log("val_epoch", float(self.current_epoch))

    def test_ignored(self, tmp_path: Path) -> None:
        callback = search(n_trials=1, trial={"on_nan": "ignore", "trainer": {"max_epochs": 3}})
        fit(tmp_path, callback, self.NaNFirst())
        trial = callback.optuna_study.trials[0]
        assert (trial.value, trial.user_attrs["epochs"], trial.intermediate_values) == (3.0, 3, {1: 3.0})
        assert trial.user_attrs["metrics"]["val_epoch"] == 1.0

    def test_nothing_finite(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError, match="1 x `val_loss` was never finite, in 1 values"):
            fit(tmp_path, search(n_trials=1, trial={"on_nan": "ignore"}), self.NaNFirst())

    def test_unknown(self) -> None:
        with pytest.raises(SearchError, match=r"`trial.on_nan` to be one of fail, ignore, got 'skip'"):
            search(trial={"on_nan": "skip"})


def test_metrics_of_the_best_epoch(tmp_path: Path) -> None:
    pytest.importorskip("pandas")

    class Better(nets.Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log_dict({"val_loss": [2.0, 1.0, 3.0][self.current_epoch], "val_epoch": float(self.current_epoch)})

        def on_train_epoch_end(self) -> None:
            self.log("late", 10.0 + self.current_epoch)

    callback = search(n_trials=1, trial={"trainer": {"max_epochs": 3}})
    fit(tmp_path, callback, Better())
    metrics = callback.optuna_study.trials[0].user_attrs["metrics"]
    assert metrics == {"val_loss": 1.0, "val_epoch": 1.0, "late": 11.0, "train_loss": metrics["train_loss"]}
    assert all(type(value) is float for value in metrics.values())
    table = callback.trials_dataframe()
    assert table["metrics_val_epoch"].tolist() == [1.0]
    assert "user_attrs_metrics" not in table


class TestLimitsThatNothingMeets:
    @pytest.mark.parametrize("strategy", ["random", "genetic"])
    def test_the_smallest_size_is_told_before_any_trial(self, tmp_path: Path, strategy: str) -> None:
        callback = search(space={"width": Int(4, 8), "act": ["relu", "tanh"]}, limits={"params": 20}, sampler=strategy)
        with pytest.raises(SearchError, match=r"`limits.params=20`: the smallest has 25"):  # 4 * 4 + 4 + 4 + 1
            fit(tmp_path, callback, nets.Net())
        assert callback.optuna_study.trials == []

    def test_a_space_without_sizes(self, tmp_path: Path) -> None:
        callback = search(space={"data.batch_size": Categorical([8, 16])}, limits={"params": 20})
        with pytest.raises(SearchError, match=r"`limits.params=20`: the smallest has 25"):
            nets.trainer(tmp_path, callback).fit(nets.Net(), datamodule=nets.Data())

    def test_constraints(self, tmp_path: Path) -> None:
        def narrow(architecture: Any) -> bool:
            return False

        with pytest.raises(SearchError, match=r"constraint `narrow` does not allow it \(\d+ times\)"):
            fit(tmp_path, search(space={"width": [2, 3]}, constraints=[narrow]), nets.Net())


class TestUnwritable:
    def test_a_study_that_cannot_be_written_ends_the_search_and_loses_nothing(self, tmp_path: Path) -> None:
        class Full(optuna.storages.InMemoryStorage):
            full = True

            def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
                if self.full and (trial_id, key) == (1, "seconds"):
                    raise optuna.exceptions.StorageInternalError("commit") from OSError("database or disk is full")
                super().set_trial_user_attr(trial_id, key, value)

        storage = Full()
        with pytest.raises(SearchError, match=r"OSError: database or disk is full.*same script"):
            fit(tmp_path, search(study={"storage": storage}), nets.Net())
        storage.full = False
        callback = search(study={"storage": storage})
        fit(tmp_path, callback, nets.Net())
        assert [trial.state.name for trial in callback.optuna_study.trials] == ["COMPLETE"] * 3

    def test_a_full_disk_ends_the_search_and_loses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved = L.Trainer.save_checkpoint
        count = 0

        def full(self: L.Trainer, path: Any, *args: Any, **kwargs: Any) -> None:
            nonlocal count
            count += 1
            if count > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            saved(self, path, *args, **kwargs)

        monkeypatch.setattr(L.Trainer, "save_checkpoint", full)
        with pytest.raises(SearchError, match=r"trials/0001/last\.ckpt cannot be written: .*No space.*same script"):
            fit(tmp_path, search(), nets.Net())
        monkeypatch.setattr(L.Trainer, "save_checkpoint", saved)
        callback = search()
        fit(tmp_path, callback, nets.Net())
        assert [trial.state.name for trial in callback.optuna_study.trials] == ["COMPLETE"] * 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"callbacks": lambda bad: [ModelCheckpoint(bad)]}, "Give ModelCheckpoint another `dirpath=`"),
            ({"logger": lambda bad: OwnLogger(str(bad))}, "Give OwnLogger another `save_dir=`"),
            ({"logger": lambda bad: [OwnLogger(), OwnLogger(None, str(bad))]}, "Give OwnLogger another `save_dir=`"),
            ({"profiler": lambda bad: SimpleProfiler(bad, "profile")}, "Give SimpleProfiler another `dirpath=`"),
            ({"default_root_dir": str, "callbacks": lambda bad: [ModelCheckpoint()]}, "another `default_root_dir=`"),
        ],
    )
    def test_places_of_the_outer_fit_are_tried_first(
        self, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").touch()
        given = {name: make(tmp_path / "file" / "inside") for name, make in options.items()}
        callback = search(study={"directory": tmp_path / "search"})
        trainer = nets.trainer(
            tmp_path, callback, *given.pop("callbacks", []), **{"enable_checkpointing": True, **given}
        )
        with pytest.raises(SearchError, match=f"cannot be written to.*{message}"):
            trainer.fit(nets.Net(), *nets.loaders())
        assert callback.optuna_study is None

    def test_places_that_are_not_on_this_machine_are_left_to_lightning(self, tmp_path: Path) -> None:
        class Remote(Logger):
            name, version, save_dir = "run", 0, "s3://bucket/logs"

            def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

            def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

        callback = search(n_trials=1)
        nets.trainer(tmp_path, callback, max_epochs=1, logger=Remote(), log_every_n_steps=1).fit(
            nets.Net(), *nets.loaders()
        )
        assert len(callback.optuna_study.trials) == 1
