"""What stands around a search: loggers, pandas, torch.compile, the other Lightning package, several searches."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_autoarch import ArchitectureSearch, SearchError


def search(**options: Any) -> ArchitectureSearch:
    space = options.pop("space", nets.SPACE)
    return ArchitectureSearch(space, **{"monitor": "val_loss", "n_trials": 3, "sampler": "random", **options})


def test_the_logger_gets_one_summary_and_the_winners_hyperparameters(tmp_path: Path) -> None:
    logger, callback = CSVLogger(tmp_path), search()
    nets.trainer(tmp_path, callback, max_epochs=1, logger=logger, log_every_n_steps=1).fit(nets.Net(), *nets.loaders())
    logged = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    header = logged[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in logged[1:]]
    best = [row["search/best_score"] for row in rows if row["search/best_score"]]
    assert [float(value) for value in best] == [pytest.approx(callback.best_score)]
    hparams = yaml.unsafe_load((Path(logger.log_dir) / "hparams.yaml").read_text())
    assert {name: hparams[name] for name in nets.SPACE} == callback.best_architecture


def test_every_logger_gets_the_summary(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "a"), CSVLogger(tmp_path, "b")]
    nets.trainer(tmp_path, search(), max_epochs=1, logger=loggers, log_every_n_steps=1).fit(nets.Net(), *nets.loaders())
    for logger in loggers:
        assert "search/best_score" in (Path(logger.log_dir) / "metrics.csv").read_text()


@pytest.mark.parametrize("where", ["default_root_dir", "directory", "storage"])
@pytest.mark.parametrize("directory", ["/proc/x", "a file", "memory://x"])
def test_where_nothing_can_be_written_is_said_before_any_training(tmp_path: Path, where: str, directory: str) -> None:
    class Untrained(nets.Net):
        def on_fit_start(self) -> None:
            raise AssertionError

    (tmp_path / "a file").touch()
    place = str(tmp_path / directory) if directory == "a file" else directory
    root, options = (place, {}) if where == "default_root_dir" else (tmp_path, {"study": {where: f"{place}/study.db"}})
    remedy = "cannot be opened" if where == "storage" else "`study.directory`"
    with pytest.raises(SearchError, match=f"{directory}.*{remedy}"):
        nets.trainer(root, search(**options)).fit(Untrained(), *nets.loaders())


def test_the_table_of_trials(tmp_path: Path) -> None:
    callback = search()
    with pytest.raises(SearchError, match="no study yet"):
        callback.trials_dataframe()
    nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
    table = callback.trials_dataframe()
    assert len(table) == 3
    assert table["value"].min() == pytest.approx(callback.best_score)
    assert {"params_width", "user_attrs_params", "user_attrs_epochs"} <= set(table.columns)


def test_state_is_plain_data(tmp_path: Path) -> None:
    callback = search(space={"layers": {"min": 0, "max": 2, "block": {"width": [2, 3]}}})
    nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
    assert json.loads(json.dumps(callback.state_dict())) == callback.state_dict()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore:.*inductor.*")
def test_torch_compile_inside_init(tmp_path: Path) -> None:
    class Compiled(nets.Net):
        def __init__(self, width: int = 4):
            super().__init__(width=width)
            self.net = torch.compile(self.net, backend="eager")

    module, callback = Compiled(), search(space={"width": [3, 5]}, n_trials=2)
    nets.trainer(tmp_path, callback, max_epochs=1).fit(module, *nets.loaders())
    assert module.net._orig_mod[0].out_features == callback.best_architecture["width"]


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_pytorch_lightning_is_refused(tmp_path: Path) -> None:
    other = pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed beside lightning")

    class Foreign(other.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self, width: int = 4):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Linear(4, 1)

        training_step, configure_optimizers = nets.Net._loss, nets.Net.configure_optimizers

    trainer = other.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        default_root_dir=str(tmp_path), callbacks=[search(space={"width": [1, 2]})],
    )  # fmt: skip
    with pytest.raises(SearchError, match="import lightning as L"):
        trainer.fit(Foreign(), nets.loaders()[0])


def test_a_callback_can_be_copied_and_pickled_before_and_after(tmp_path: Path) -> None:
    callback = search()
    for _ in range(2):
        for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
            assert copied.best_architecture == callback.best_architecture
            assert copied.space.nodes == callback.space.nodes
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())


def test_two_searches_in_one_process(tmp_path: Path) -> None:
    first, second = search(), search(study={"name": "other"})
    for callback in (first, second):
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
    assert first.best_architecture == second.best_architecture  # the same seed
    assert sorted(p.name for p in (tmp_path / "autoarch").iterdir()) == ["Net", "other"]


def test_a_module_may_ask_the_datamodule_and_the_logger(tmp_path: Path) -> None:
    class Data(nets.Data):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            self.classes = 3

    class Asking(nets.Net):
        def setup(self, stage: str) -> None:
            assert isinstance(self.trainer.datamodule, Data)
            self.classes = self.trainer.datamodule.classes

        def on_train_epoch_end(self) -> None:
            self.logger.experiment.log_metrics({"x": 1.0})
            self.logger.log_metrics({"y": 1.0})

    callback = search(trial={"callbacks": [LearningRateMonitor()]})
    options = {"max_epochs": 1, "logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    nets.trainer(tmp_path, callback, **options).fit(Asking(), datamodule=Data())
    assert [t.state.name for t in callback.optuna_study.trials] == ["COMPLETE"] * 3


def test_max_time_of_the_outer_trainer_ends_trials_too(tmp_path: Path) -> None:
    callback = search(n_trials=1)
    nets.trainer(tmp_path, callback, max_epochs=-1, max_time="00:00:00:01").fit(nets.Net(), *nets.loaders())
    assert callback.optuna_study.trials[0].user_attrs["epochs"] > 1
    with pytest.raises(SearchError, match="never end"):
        nets.trainer(tmp_path / "b", search(), max_epochs=-1).fit(nets.Net(), *nets.loaders())


def test_part_of_an_architecture_is_not_held_against_the_limits(tmp_path: Path) -> None:
    callback = search(constraints=[lambda a: a["width"] % 2 == 0], enqueue=[{"act": "tanh"}], n_trials=2)
    nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
    counted = [t for t in callback.optuna_study.trials if "architecture" in t.user_attrs]
    assert all(t.params["width"] % 2 == 0 for t in counted)
