"""Searches over values inside of arguments: trials, winner and checkpoint of the final fit agree."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from torch import nn

from lightning_autoarch import ArchitectureSearch, Int, Repeat, SearchSpace, SpaceError


@dataclasses.dataclass
class Config:
    width: int = 4
    hidden: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.hidden = 2 * self.width


class Base(nets.Net):
    def build(self, width: int, hidden: int) -> None:
        self.hparams["lr"] = 0.01
        self.net = nn.Sequential(nn.Linear(4, width), nn.Linear(width, hidden), nn.Linear(hidden, 1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class OfConfig(Base):
    def __init__(self, cfg: Config) -> None:
        super(nets.Net, self).__init__()
        self.save_hyperparameters()
        self.build(cfg.width, cfg.hidden)


class InOne(Base):
    def __init__(self, cfg: Any) -> None:
        super(nets.Net, self).__init__()
        self.save_hyperparameters(cfg)
        self.build(self.hparams.width, self.hparams.hidden)  # type: ignore[union-attr]


class AnyKeywords(Base):
    def __init__(self, width: int = 4, **kwargs: Any) -> None:
        super(nets.Net, self).__init__()
        self.save_hyperparameters()
        self.build(width, 3)


def searched(tmp_path: Path, module: L.LightningModule, name: str) -> tuple[L.LightningModule, int]:
    callback = ArchitectureSearch({name: Int(20, 32)}, monitor="val_loss", n_trials=2, sampler="random")
    trainer = nets.trainer(tmp_path, callback, max_epochs=1)
    trainer.fit(module, *nets.loaders())
    assert callback.best_architecture is not None
    width = callback.best_architecture[name]
    assert module.net[0].out_features == width
    trainer.save_checkpoint(tmp_path / "final.ckpt")
    loaded = type(module).load_from_checkpoint(tmp_path / "final.ckpt", weights_only=False)
    assert loaded.net[0].out_features == width
    return loaded, width


def test_a_dataclass_and_what_it_derives(tmp_path: Path) -> None:
    loaded, width = searched(tmp_path, OfConfig(Config()), "cfg.width")
    assert loaded.hparams["cfg"] == Config(width)
    assert loaded.net[1].out_features == 2 * width


@pytest.mark.filterwarnings("ignore:attribute '.*' removed from hparams because it cannot be pickled")
def test_arguments_that_cannot_be_pickled(tmp_path: Path) -> None:
    """`fit` removes them from the hyperparameters, and `__init__` takes them all the same."""

    @dataclasses.dataclass
    class Local:
        width: int = 4

    class Net(Base):
        def __init__(self, cfg: Any, act: Any = None) -> None:
            super(nets.Net, self).__init__()
            self.save_hyperparameters()
            self.act = act
            self.build(cfg.width, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(self.act(x))

    callback = ArchitectureSearch({"cfg.width": Int(20, 32)}, monitor="val_loss", n_trials=2, sampler="random")
    module, trainer = Net(Local(), act=lambda x: 2 * x), nets.trainer(tmp_path, callback, max_epochs=1)
    trainer.fit(module, *nets.loaders())
    trainer.save_checkpoint(tmp_path / "final.ckpt")
    assert {"cfg.width": module.net[0].out_features} == callback.best_architecture
    assert module.act(3) == 6


@pytest.mark.parametrize("name", ["width", "cfg.width"])
def test_a_namespace(tmp_path: Path, name: str) -> None:
    loaded, width = searched(tmp_path, InOne(Namespace(width=4, hidden=3)), name)
    assert loaded.hparams["width"] == width and loaded.net[1].out_features == 3


def test_keywords(tmp_path: Path) -> None:
    loaded, width = searched(tmp_path, AnyKeywords(lr=0.5), "width")
    assert dict(loaded.hparams) == {"width": width, "lr": 0.01}


@pytest.mark.parametrize("name", ["width", "cfg.width"])
def test_interpolations_of_omegaconf_follow(tmp_path: Path, name: str) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    cfg = omegaconf.OmegaConf.create({"width": 4, "hidden": "${width}", "lr": 0.01})
    omegaconf.OmegaConf.set_readonly(cfg, True)
    module = Frozen(cfg)
    loaded, width = searched(tmp_path, module, name)
    for made in (module, loaded):
        assert type(made.hparams) is omegaconf.DictConfig
        assert dict(made.hparams) == {"width": width, "hidden": width, "lr": 0.01}
    assert omegaconf.OmegaConf.is_interpolation(module.hparams, "hidden")
    assert dict(cfg) == {"width": 4, "hidden": 4, "lr": 0.01}


class Frozen(InOne):
    """Leaves its config as it is."""

    def build(self, width: int, hidden: int) -> None:
        self.net = nn.Sequential(nn.Linear(4, width), nn.Linear(width, hidden), nn.Linear(hidden, 1))


def test_a_config_that_is_one_argument_among_others(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")

    class Among(Base):
        def __init__(self, cfg: Any, lr: float = 0.01) -> None:
            super(nets.Net, self).__init__()
            self.save_hyperparameters()
            self.build(cfg.model.width, cfg.model.hidden)

    cfg = omegaconf.OmegaConf.create({"model": {"width": 4, "hidden": "${.width}"}})
    loaded, width = searched(tmp_path, Among(cfg), "cfg.model.width")
    assert loaded.hparams["cfg"] == {"model": {"width": width, "hidden": width}}


def test_a_name_that_leads_nowhere_is_told_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="`cfg` has no `depth`, but `width`"):
        searched(tmp_path, OfConfig(Config()), "cfg.depth")


def test_names_of_a_space() -> None:
    assert [node.name for node in SearchSpace({"cfg.a.b": [1], "data.cfg.c": [1]}).nodes] == ["cfg.a.b", "data.cfg.c"]
    for name in ("cfg.", ".a", "cfg..a", "cfg.0", "cfg.a. ", "trainer.a.b"):
        with pytest.raises(SpaceError, match="expected the name of an argument"):
            SearchSpace({name: [1, 2]})
    with pytest.raises(SpaceError, match=r"called `layers\.n`"):
        SearchSpace({"layers": Repeat(1, 2, {"width": [1, 2]}), "layers.n": [1, 2]})
