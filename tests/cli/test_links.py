"""Arguments that the command line links: in trials as in the fit of the config that the search writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
import yaml
from cli_nets import TRAINER
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader

from lightning_autoarch import ArchitectureSearch
from lightning_autoarch.cli import AutoArchCLI

SEARCH: dict[str, Any] = {"monitor": "val_loss", "sampler": "random", "n_trials": 2}


class Data(nets.Data):
    """Knows from its arguments what the module needs."""

    def __init__(self, batch_size: int = 16, classes: int = 2) -> None:
        super(nets.Data, self).__init__()
        self.save_hyperparameters()
        self.calls: list[str] = []
        self.n_classes = classes

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.hparams["batch_size"])


class Encoder(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(4, dim)


class Model(nets.Net):
    seen: list[Any] = []

    def __init__(self, batch_size: int = 1, outputs: int = 1, width: int = 4, encoder: Encoder | None = None) -> None:
        super(nets.Net, self).__init__()
        self.save_hyperparameters()
        encoder = encoder or Encoder()
        self.net = nn.Sequential(encoder.linear, nn.Linear(encoder.linear.out_features, outputs))

    def _loss(self, batch: Any) -> torch.Tensor:
        return self.net(batch[0]).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def on_train_start(self) -> None:
        data = self.trainer.datamodule.hparams
        self.seen.append((data["batch_size"], data["classes"], dict(self.hparams), self.net[-1].out_features))


class Linked(AutoArchCLI):
    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.link_arguments("data.batch_size", "model.batch_size", compute_fn=lambda size: 2 * size)
        parser.link_arguments("data.n_classes", "model.outputs", apply_on="instantiate")


class LinkedPlain(LightningCLI):
    add_arguments_to_parser = Linked.add_arguments_to_parser


class OptimizerLinked(AutoArchCLI):
    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_optimizer_args(torch.optim.SGD, "sgd")
        parser.link_arguments("model.width", "sgd.lr", compute_fn=lambda width: 1.0 / width)


def config(space: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {"search": {**SEARCH, "space": space}, "trainer": {**TRAINER, "max_epochs": 1}, **sections}


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Model.seen.clear()


def check_seen() -> None:
    for size, classes, hparams, outputs in Model.seen:
        assert (hparams["batch_size"], hparams["outputs"], outputs) == (2 * size, classes, classes)


def test_trials_follow_as_the_written_config_does() -> None:
    space = {"data.batch_size": [8, 24], "data.classes": [3, 5], "width": [6, 7]}
    Linked(Model, Data, args={"subcommand": "search", "search": config(space, data={"batch_size": 16})})
    assert len(Model.seen) == 2
    best = yaml.safe_load(Path("best.yaml").read_text())
    assert set(best["model"]) == {"width"} and set(best["data"]) == {"batch_size", "classes"}
    fitted = Linked(Model, Data, args=["fit", "--config", "best.yaml"])
    assert len(Model.seen) == 3
    check_seen()
    fitted.trainer.save_checkpoint("final.ckpt")
    loaded = Model.load_from_checkpoint("final.ckpt")
    assert loaded.hparams["batch_size"] == 2 * best["data"]["batch_size"]


@pytest.mark.parametrize("cli", [Linked, LinkedPlain])
def test_the_winners_fit_too(cli: type[LightningCLI]) -> None:
    init = {**SEARCH, "space": {"data.batch_size": [8, 24], "data.classes": [3]}}
    callback = {"class_path": "lightning_autoarch.ArchitectureSearch", "init_args": init}
    trainer = {**TRAINER, "max_epochs": 1, "callbacks": [callback]}
    made = cli(Model, Data, args={"subcommand": "fit", "fit": {"trainer": trainer}})
    assert len(Model.seen) == 3
    check_seen()
    [search] = [cb for cb in made.trainer.callbacks if isinstance(cb, ArchitectureSearch)]
    assert search.best_architecture is not None
    assert made.datamodule.hparams["batch_size"] == search.best_architecture["data.batch_size"]


def test_subclasses() -> None:
    class OfClasses(AutoArchCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.link_arguments("data.init_args.batch_size", "model.init_args.batch_size")

    paths = {"model": {"class_path": f"{__name__}.Model"}, "data": {"class_path": f"{__name__}.Data"}}
    given = config({"data.batch_size": [24]}, **paths)
    OfClasses(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        args={"subcommand": "search", "search": given},
    )
    assert [(size, hparams["batch_size"]) for size, _, hparams, _ in Model.seen] == [(24, 24)]


@pytest.mark.filterwarnings("ignore:The config's `optimizer` replaces")
@pytest.mark.parametrize(
    ("cli", "space", "said"),
    [
        (Linked, {"batch_size": [1, 2]}, "set by the command line's link from `data.batch_size`: search that instead"),
        (Linked, {"outputs": [1, 2]}, "set by the command line's link from `data.n_classes`"),
        (OptimizerLinked, {"width": [1, 2]}, "`width` of the space is linked to `sgd.lr` by the command line"),
    ],
)
def test_what_cannot_follow_is_refused(cli: type[AutoArchCLI], space: dict[str, Any], said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli(Model, Data, args={"subcommand": "search", "search": config(space)})
    assert said in capsys.readouterr().err
    assert Model.seen == []


@pytest.mark.filterwarnings("ignore:Attribute 'encoder' is an instance of `nn.Module`")  # of `load_from_checkpoint`
def test_names_inside_of_what_the_config_makes() -> None:
    section = {"encoder": {"class_path": f"{__name__}.Encoder", "init_args": {"dim": 9}}}
    given = config({"encoder.init_args.dim": {"low": 5, "high": 7}}, model=section)
    cli = AutoArchCLI(Model, Data, args={"subcommand": "search", "search": given})
    [search] = [cb for cb in cli.trainer.callbacks if isinstance(cb, ArchitectureSearch)]
    assert search.best_architecture is not None
    dim = search.best_architecture["encoder.init_args.dim"]
    best = yaml.safe_load(Path("best.yaml").read_text())
    assert best["model"] == {"encoder": {**section["encoder"], "init_args": {"dim": dim}}}
    fitted = AutoArchCLI(Model, Data, args=["fit", "--config", "best.yaml"])
    assert fitted.model.net[0].out_features == dim
    fitted.trainer.save_checkpoint("final.ckpt")
    assert Model.load_from_checkpoint("final.ckpt").net[0].out_features == dim


def test_names_of_the_trainer() -> None:
    given = config({"trainer.gradient_clip_val": [0.5], "width": [5]})
    AutoArchCLI(Model, Data, args={"subcommand": "search", "search": given})
    best = yaml.safe_load(Path("best.yaml").read_text())
    assert best["trainer"]["gradient_clip_val"] == 0.5 and best["model"] == {"width": 5}
    fitted = AutoArchCLI(Model, Data, args=["fit", "--config", "best.yaml"])
    assert fitted.trainer.gradient_clip_val == 0.5


def test_a_config_in_one_argument() -> None:
    given = config({"cfg.width": {"low": 5, "high": 7}}, model={"cfg": {"width": 4, "depth": 1}})
    AutoArchCLI(InOne, Data, args={"subcommand": "search", "search": given})
    best = yaml.safe_load(Path("best.yaml").read_text())
    assert best["model"]["cfg"]["depth"] == 1 and 5 <= best["model"]["cfg"]["width"] <= 7
    fitted = AutoArchCLI(InOne, Data, args=["fit", "--config", "best.yaml"])
    assert fitted.model.net[0].out_features == best["model"]["cfg"]["width"]


class InOne(Model):
    def __init__(self, cfg: dict[str, int]) -> None:
        super(nets.Net, self).__init__()
        self.save_hyperparameters(cfg)
        self.net = nn.Sequential(nn.Linear(4, cfg["width"]), nn.Linear(cfg["width"], 1))

    on_train_start = L.LightningModule.on_train_start


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"batch_sizes": [1, 2]}, "Did you mean `batch_size`?"),
        ({"classes": [1, 2]}, "is no argument of Model.__init__. Did you mean `data.classes`?"),
        (
            {"data.batch": [1, 2]},
            "Did you mean `data.batch_size`? Its arguments are `data.batch_size`, `data.classes`.",
        ),
        ({"encoder.init_args.size": [1]}, "`encoder.init_args` has no `size`, but `dim`"),
    ],
)
def test_unknown_names_are_one_line(space: dict[str, Any], said: str, capsys: Any) -> None:
    section = {"encoder": {"class_path": f"{__name__}.Encoder"}}
    with pytest.raises(SystemExit) as ended:
        AutoArchCLI(Model, Data, args={"subcommand": "search", "search": config(space, model=section)})
    assert ended.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said in line
