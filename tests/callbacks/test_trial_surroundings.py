"""What modules and callbacks find around them in a trial: a Trainer, data, a logger, a directory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from search_options import merged
from torch import nn

from lightning_autoarch import ArchitectureSearch, Int, SearchError
from lightning_autoarch.callbacks.outer_trainer import check_no_spawning
from lightning_autoarch.training.trial_logger import TrialLogger


def search(**options: Any) -> ArchitectureSearch:
    settings = {"monitor": "val_loss", "n_trials": 2, "sampler": "random", "trial": {"trainer": {"max_epochs": 1}}}
    return ArchitectureSearch({"width": Int(20, 32)}, **merged(settings, options))


class Late(nets.Net):
    """Its layers are made by a hook, from what the Trainer knows."""

    hook = ""

    def __init__(self, width: int = 4, lr: float = 0.01):
        super(nets.Net, self).__init__()
        self.save_hyperparameters()
        self.net = None

    def setup(self, stage: str) -> None:
        if self.hook == "setup":
            self._make()

    def configure_model(self) -> None:
        if self.hook == "configure_model":
            self._make()

    def _make(self) -> None:
        if self.net is None:
            assert self.trainer.max_epochs == 1
            assert self.trainer.world_size == 1
            width = self.hparams["width"] * self.trainer.datamodule.factor
            self.net = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 1))


class LateInSetup(Late):
    hook = "setup"


class LateInConfigureModel(Late):
    hook = "configure_model"


class Data(nets.Data):
    factor = 2


@pytest.mark.parametrize("kind", [LateInSetup, LateInConfigureModel])
class TestLayersMadeByAHook:
    def test_their_size_is_recorded(self, tmp_path: Path, kind: Any) -> None:
        module, callback = kind(), search()
        nets.trainer(tmp_path, callback, max_epochs=1).fit(module, datamodule=Data())
        for trial in callback.optuna_study.trials:
            assert trial.user_attrs["params"] == 6 * 2 * trial.params["width"] + 1
        assert module.net[0].out_features == 2 * callback.best_architecture["width"]

    def test_limits_count_them(self, tmp_path: Path, kind: Any) -> None:
        with pytest.raises(SearchError, match=r"`limits.params=200`: the smallest has 241"):
            nets.trainer(tmp_path, search(limits={"params": 200}), max_epochs=1).fit(kind(), datamodule=Data())
        callback = search(limits={"params": 300})
        nets.trainer(tmp_path, callback, max_epochs=1).fit(kind(), datamodule=Data())
        trained = [trial.params["width"] for trial in callback.optuna_study.trials if "params" in trial.user_attrs]
        assert len(trained) == 2
        assert max(trained) <= 24


@pytest.mark.parametrize("looks", [False, True])
def test_lazy_layers_are_counted_also_where_forward_looks_at_values(tmp_path: Path, looks: bool) -> None:
    class Lazy(nets.Net):
        def __init__(self, width: int = 4, lr: float = 0.01):
            super(nets.Net, self).__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.LazyLinear(width), nn.LazyLinear(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) if not looks or float(x.sum()) == float(x.sum()) else x

    with pytest.raises(SearchError, match=r"`limits.params=100`: the smallest has 121"):
        nets.trainer(tmp_path, search(limits={"params": 100}), max_epochs=1).fit(Lazy(), *nets.loaders())


def test_a_size_that_cannot_be_counted_beforehand(tmp_path: Path) -> None:
    class OnlyInTraining(nets.Net):
        def setup(self, stage: str) -> None:
            if not any(type(callback).__name__ == "TrialRecorder" for callback in self.trainer.callbacks):
                assert self.trainer.callbacks[0].best_architecture is not None  # the outer fit's

    callback = search()
    nets.trainer(tmp_path, callback, max_epochs=1).fit(OnlyInTraining(), *nets.loaders())
    assert ["params" in trial.user_attrs for trial in callback.optuna_study.trials] == [False, False]
    with pytest.raises(SearchError, match=r"`limits.params` cannot be checked: a trial has trained"):
        nets.trainer(tmp_path / "b", search(limits={"params": 10_000})).fit(OnlyInTraining(), *nets.loaders())


def test_loggers_and_directories_are_the_trials_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[set[Path]] = []

    class Plots(nets.Net):
        def on_validation_epoch_end(self) -> None:
            places = [self.trainer.log_dir, self.logger.save_dir, self.logger.log_dir, self.trainer.default_root_dir]
            places.append(self.trainer.checkpoint_callback.dirpath)
            seen.append({Path(place) for place in places})
            (Path(self.trainer.log_dir) / "plot.txt").touch()
            self.logger.experiment.add_histogram("h", torch.zeros(3), global_step=0)
            self.logger.experiment.config.update({"a": 1}, allow_val_change=True)
            self.logger.experiment["train"]["loss"].append(1.0)
            self.logger.log_image(key="k", images=[])

        def on_fit_end(self) -> None:
            assert self.trainer.checkpoint_callback.best_model_path.endswith("best.ckpt")

    root = tmp_path / "out"
    trainer = nets.trainer(root, search(after="stop"), max_epochs=1)
    with pytest.raises(AttributeError):  # the outer fit has no logger, and no callback that makes checkpoints
        trainer.fit(Plots(), *nets.loaders())
    trials = [root / "autoarch" / "Plots" / "trials" / f"{i:04d}" for i in range(2)]
    assert seen == [{trial} for trial in trials]
    assert sorted(tmp_path.rglob("plot.txt")) == [trial / "plot.txt" for trial in trials]


def test_a_logger_without_a_directory_cleans_up() -> None:
    logger = TrialLogger(None)
    place = Path(logger.save_dir)
    assert place.is_dir()
    assert logger.log_dir == str(place)
    logger.close()
    assert not place.exists()
    with logger.experiment.run as run:
        run.value = 3
    assert list(run) == []


def test_progress_bars_of_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = search(trial={"callbacks": [TQDMProgressBar()]}, n_trials=1)
    nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
    assert callback.best_architecture is not None


def test_callbacks_that_cannot_be_copied_are_named(tmp_path: Path) -> None:
    class Locked(L.Callback):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    callback = search(trial={"callbacks": [Locked()]})
    with pytest.raises(SearchError, match=r"Locked cannot be copied.*lock.*`setup` instead of `__init__`"):
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
    assert callback.optuna_study is None


@pytest.mark.parametrize(("strategy", "method"), [("ddp_notebook", "fork"), ("ddp_spawn", "spawn")])
def test_strategies_that_spawn_are_refused(tmp_path: Path, strategy: str, method: str) -> None:
    trainer = nets.trainer(tmp_path, strategy=strategy)
    with pytest.raises(SearchError, match=rf"DDPStrategy \(start method '{method}'.*`strategy=\"auto\"`"):
        check_no_spawning(trainer)
    check_no_spawning(nets.trainer(tmp_path))


def test_two_searches_in_one_trainer_are_named(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"Expected one ArchitectureSearch in a Trainer, .* got 2 with"):
        nets.trainer(tmp_path, search(), search(study={"name": "b"}))
    assert search().state_key == "lightning_autoarch.ArchitectureSearch"


def test_a_compiled_module_is_told_apart_from_one_that_was_changed(tmp_path: Path) -> None:
    compiled = torch.compile(nets.Net(), backend="eager")
    with pytest.warns(UserWarning, match="compiled with `torch.compile` before `fit`") as told:
        nets.trainer(tmp_path, search(after="stop", n_trials=1), max_epochs=1).fit(compiled, *nets.loaders())
    assert not any("were set after" in str(warning.message) for warning in told)
