"""Modules that do what documentation rarely shows, in a search that must not mind."""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import nets
import optuna
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from search_options import merged
from torch import nn

from lightning_autoarch import ArchitectureSearch, Int, SearchError


def search(space: dict[str, Any] | None = None, **options: Any) -> ArchitectureSearch:
    defaults = {"monitor": "val_loss", "n_trials": 2, "sampler": "random", "trial": {"trainer": {"max_epochs": 1}}}
    return ArchitectureSearch(space or {"width": Int(2, 16)}, **merged(defaults, options))


def warned(trainer: L.Trainer, module: L.LightningModule) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, *nets.loaders())
    return [str(w.message) for w in caught if "after `__init__`" in str(w.message)]


def test_a_lightning_module_inside_the_winner_knows_its_trainer(tmp_path: Path) -> None:
    class Inner(L.LightningModule):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0 * self.trainer.current_epoch

    class Outer(nets.Net):
        def __init__(self, width: int = 4):
            super().__init__(width=width)
            self.save_hyperparameters()
            self.inner = Inner()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step((self.inner(batch[0]), batch[1]), batch_idx)

    trainer = nets.trainer(tmp_path, search())
    trainer.fit(Outer(), *nets.loaders())
    assert trainer.current_epoch == 2


def test_tied_parameters_count_once(tmp_path: Path) -> None:
    class Tied(nets.Net):
        def __init__(self, width: int = 4):
            super().__init__(width=width)
            self.save_hyperparameters()
            self.a, self.b = nn.Linear(10, 10), nn.Linear(10, 10)
            self.b.weight = self.a.weight

    callback, module = search(n_trials=1, limits={"params": 250}), Tied()
    nets.trainer(tmp_path, callback).fit(module, *nets.loaders())
    assert callback.optuna_study.trials[-1].user_attrs["params"] == sum(p.numel() for p in module.parameters())


def test_checkpoints_of_configure_callbacks_are_the_outer_fits(tmp_path: Path) -> None:
    class Complete(nets.Net):
        def configure_callbacks(self) -> Any:
            return [
                EarlyStopping("val_loss", patience=0, min_delta=1e9),
                ModelCheckpoint(tmp_path / "mine", filename="best"),
                search(study={"directory": tmp_path / "search"}, trial={"trainer": {"max_epochs": 5}}),
            ]

    trainer = nets.trainer(tmp_path, enable_checkpointing=True)
    trainer.fit(Complete(), *nets.loaders())
    study = next(cb for cb in trainer.callbacks if isinstance(cb, ArchitectureSearch)).optuna_study
    assert [t.user_attrs["epochs"] for t in study.trials] == [2, 2]  # stopped early, and no search in a search
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["best.ckpt"]


@pytest.mark.filterwarnings("ignore:Attribute 'backbone'")
def test_what_saved_arguments_do_not_bring_back_is_told(tmp_path: Path) -> None:
    class Backbone(nets.Net):
        def __init__(self, width: int = 4, backbone: nn.Module | None = None):
            super(nets.Net, self).__init__()  # whose `save_hyperparameters` some Lightnings let save `backbone`
            self.save_hyperparameters(ignore=["backbone"])
            self.hparams["lr"] = 0.01
            self.backbone, self.net = backbone or nn.Identity(), nn.Linear(4, 1)

    replaced = nets.Net()
    replaced.net[0] = nn.Linear(4, 4, bias=False)
    for i, (module, name) in enumerate([(Backbone(backbone=nn.Linear(4, 4)), "backbone"), (replaced, "net.0.bias")]):
        assert name in warned(nets.trainer(tmp_path / str(i), search()), module)[0]


@pytest.mark.filterwarnings("ignore:Attribute 'backbone'")
def test_weights_that_a_rebuild_loses_are_told(tmp_path: Path) -> None:
    class Backbone(nets.Net):
        def __init__(self, width: int = 4, backbone: nn.Module | None = None):
            super(nets.Net, self).__init__()
            self.save_hyperparameters()
            self.hparams["lr"] = 0.01
            self.backbone, self.net = backbone or nn.Identity(), nn.Sequential(nn.Linear(4, width), nn.Linear(width, 1))

    def told(module: L.LightningModule, name: str) -> list[str]:
        return warned(nets.trainer(tmp_path / name, search()), module)

    loaded, trained, backbone = nets.Net(), nets.Net(), nn.Linear(4, 4)
    loaded.load_state_dict(nets.Net().state_dict())
    nets.trainer(tmp_path, max_epochs=1).fit(trained, *nets.loaders())
    for module in (loaded, trained):
        [said] = told(module, "a")
        assert "net.0.weight, net.0.bias, net.3.weight and others of the module were changed" in said
    backbone.load_state_dict(nn.Linear(4, 4).state_dict())
    assert told(Backbone(backbone=backbone), "b") == told(nets.Net(), "c") == told(copy.deepcopy(nets.Net()), "d") == []


def test_modules_whose_parts_depend_on_the_architecture_raise_no_false_alarm(tmp_path: Path) -> None:
    class Optional(nets.Net):
        def __init__(self, width: int = 4, more: int = 1):
            super().__init__(width=width)
            self.save_hyperparameters()
            for i in range(more):
                setattr(self, f"part{i}", nn.Linear(2, 2))

    callback = search({"more": [0, 1]})
    assert warned(nets.trainer(tmp_path, callback), Optional(more=5)) == []


def test_weights_that_are_not_in_the_checkpoint(tmp_path: Path) -> None:
    class Frozen(nets.Net):
        def __init__(self, width: int = 4):
            super().__init__(width=width)
            self.save_hyperparameters()
            self.frozen, self.strict_loading = nn.Linear(2, 2), False

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in weights.items() if "frozen" not in k}

    module = Frozen()
    nets.trainer(tmp_path, search(after="keep")).fit(module, *nets.loaders())
    assert module.frozen.weight.requires_grad


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("kind", ["grid", "brute force"])
def test_samplers_that_stop_the_study(tmp_path: Path, kind: str) -> None:
    samplers = optuna.samplers
    sampler = samplers.GridSampler({"width": [2, 3]}) if kind == "grid" else samplers.BruteForceSampler()
    callback = search({"width": Int(2, 3)}, sampler=sampler, n_trials=9)
    nets.trainer(tmp_path, callback).fit(nets.Net(), *nets.loaders())
    assert sorted(t.params["width"] for t in callback.optuna_study.trials) == [2, 3]
    assert "stop" not in vars(callback.optuna_study)


def test_a_path_is_a_storage(tmp_path: Path) -> None:
    nets.trainer(tmp_path, search(study={"storage": tmp_path / "a b" / "x.db"})).fit(nets.Net(), *nets.loaders())
    assert (tmp_path / "a b" / "x.db").exists()


def test_weights_of_the_winner_that_are_gone_are_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"after": "keep", "study": {"directory": tmp_path / "s"}}
    nets.trainer(tmp_path, search(**options)).fit(nets.Net(), *nets.loaders())
    storage = f"sqlite:///{tmp_path / 's' / 'study.db'}"
    elsewhere: dict[str, Any] = {"after": "keep", "study": {"directory": tmp_path / "t", "storage": storage}}
    with pytest.raises(SearchError, match=r"outside of .*/t, where nothing is read"):  # as another host would have it
        nets.trainer(tmp_path, search(**elsewhere)).fit(nets.Net(), *nets.loaders())
    shutil.copytree(tmp_path / "s" / "trials", tmp_path / "t" / "trials")  # as the message says
    nets.trainer(tmp_path, search(**elsewhere)).fit(nets.Net(), *nets.loaders())
    shutil.rmtree(tmp_path / "s" / "trials")
    with pytest.raises(SearchError, match="weights of the winner"):
        nets.trainer(tmp_path, search(**options)).fit(nets.Net(), *nets.loaders())
