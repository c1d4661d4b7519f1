"""What the package relies on in LightningCLI beyond its public interface, at whatever version is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_autoarch.seam.lightning_cli import ExtensibleCLI, subcommand_parsers


class Net(BoringModel):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.save_hyperparameters()


class WithoutOptimizer(Net):
    configure_optimizers = L.LightningModule.configure_optimizers


class Program(ExtensibleCLI):
    own_subcommands: ClassVar = {"shrink": "Make it small."}
    listed_subcommands: ClassVar = {"tell": "Write a page."}
    usage = "%(prog)s [--anything]"
    calls: ClassVar[list[Any]] = []

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        self.calls.append(("building", self.building))
        super().add_core_arguments_to_parser(parser)

    def add_own_arguments(self, subcommand: str, parser: LightningArgumentParser) -> list[str]:
        parser.add_argument("--much", type=int, default=1)
        return ["much"]

    def shrink(self, model: L.LightningModule, much: int) -> None:
        self.calls.append(("shrink", type(model), much))

    def take_hyperparameters(self) -> None:
        self.calls.append("hyperparameters")
        super().take_hyperparameters()

    def set_configure_optimizers(self, subcommand: str | None) -> None:
        self.calls.append(("optimizers", *self.automatic_optimizers(subcommand)))
        super().set_configure_optimizers(subcommand)

    def run_subcommand(self, subcommand: str) -> None:
        self.calls.append(("run", subcommand))
        super().run_subcommand(subcommand)


@pytest.fixture(autouse=True)
def calls() -> list[Any]:
    Program.calls.clear()
    return Program.calls


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")  # what seed_everything sets goes away with the test
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
SHORT = {**QUIET, "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "enable_model_summary": False}


def program(*args: str, model: type[Net] = Net, **given: Any) -> Program:
    return Program(
        model, args=list(args), seed_everything_default=1, save_config_callback=None, trainer_defaults=SHORT, **given
    )


def test_a_subcommand_of_its_own_is_built_and_run(calls: list[Any]) -> None:
    made = program("shrink", "--much=3", "--model.width=8", parser_kwargs={"shrink": {"description": "its own"}})
    assert ("building", "shrink") in calls
    assert ("building", "fit") in calls
    order = [call for call in calls if call[0] not in ("building", "optimizers")]
    assert order == ["hyperparameters", ("run", "shrink"), ("shrink", Net, 3)]
    assert (made.given("much"), made.given("model").width, made.given("none")) == (3, 8, None)
    assert type(made.instantiated("model")) is Net
    assert made.instantiated("none", {}) == {}
    assert made.model_type is Net
    assert made.parser_of("shrink").description == "its own"
    assert made.parser_of("fit").usage == Program.usage


def test_a_subcommand_of_lightning_runs(calls: list[Any]) -> None:
    made = program("fit")
    assert ("run", "fit") in calls
    assert made.trainer.global_step == 1


def test_optimizers_of_the_config(calls: list[Any]) -> None:
    made = program("fit", "--optimizer=SGD", "--optimizer.lr=0.25", "--lr_scheduler=ConstantLR", model=WithoutOptimizer)
    ((_, optimizers, schedulers),) = [call for call in calls if call[0] == "optimizers"]
    assert [key for key, _ in optimizers] == ["optimizer"]
    assert [key for key, _ in schedulers] == ["lr_scheduler"]
    assert made.trainer.optimizers[0].defaults["lr"] == 0.25


def test_hyperparameters_of_a_checkpoint(tmp_path: Path) -> None:
    trainer = L.Trainer(**SHORT)
    trainer.fit(Net(width=5))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert program("validate", f"--ckpt_path={tmp_path / 'a.ckpt'}").given("model").width == 5


@pytest.mark.parametrize("subcommand", ["", "shrink", "fit"])
def test_help_lists_all_and_shows_a_short_usage(subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        program(*filter(None, [subcommand, "--help"]))
    said = capsys.readouterr().out
    wanted = ["[--anything]"] if subcommand else ["shrink", "Make it small.", "tell", "Write a page.", "fit"]
    assert [text for text in wanted if text not in said] == []


def test_parsers_of_subcommands() -> None:
    made = program("shrink")
    found = subcommand_parsers(made.parser)
    assert {"fit", "shrink", "tell"} <= found.keys()
    assert found["shrink"] is made.parser_of("shrink")
    assert subcommand_parsers(LightningArgumentParser()) == {}


def test_without_subcommands_nothing_is_being_built(calls: list[Any]) -> None:
    made = Program(
        Net, run=False, args=[], seed_everything_default=1, save_config_callback=None, trainer_defaults=SHORT
    )
    assert calls[0] == ("building", None)
    assert ("run", "fit") not in calls
    assert made.parser_of(None) is made.parser
