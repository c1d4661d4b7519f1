"""`autoarch transfer`, and `transfer:` in the configs of the other subcommands."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_nets
import lightning as L
import pytest
import torch
import yaml
from cli_nets import TRAINER

from lightning_autoarch import ArchitectureSearch, TransferLearning
from lightning_autoarch.cli import AutoArchCLI, main

BY_CLASS = "lightning_autoarch.TransferLearning"
DEEP = {"class_path": "cli_nets.Called", "init_args": {"layers": [{"width": 3}]}}
Config = Callable[..., str]


@pytest.fixture
def known() -> dict[str, torch.Tensor]:
    """Weights of a net as the configs have it, in known.pt."""
    torch.manual_seed(7)
    state = cli_nets.Called().state_dict()
    torch.save(state, "known.pt")
    return {name: tensor.clone() for name, tensor in state.items()}


def transfer_of(cli: AutoArchCLI) -> TransferLearning:
    [found] = [callback for callback in cli.trainer.callbacks if isinstance(callback, TransferLearning)]
    return found


def test_takes_over_fine_tunes_reports(config: Config, known: dict[str, torch.Tensor], capsys: Any) -> None:
    cli = AutoArchCLI(args=["transfer", "--config", config(), "--ckpt_path", "known.pt"])
    said = capsys.readouterr().out
    assert "100.0% of 25 parameters taken over" in said
    source = cli_nets.Called()
    source.load_state_dict(known)
    [before] = L.Trainer(**TRAINER).validate(source, datamodule=cli_nets.Data(), verbose=False)
    [after] = L.Trainer(**TRAINER).validate(cli.model, datamodule=cli_nets.Data(), verbose=False)
    assert f"val_loss  {before['val_loss']:>6.4g}  {after['val_loss']:>5.4g}".split() in [
        line.split() for line in said.splitlines()
    ]
    assert cli.trainer.current_epoch == 2 and after["val_loss"] < before["val_loss"]
    assert sorted(p.name for p in Path().iterdir()) == ["finetuned.ckpt", "finetuned.html", "given.yaml", "known.pt"]
    tuned = cli_nets.Called.load_from_checkpoint("finetuned.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), cli.model.parameters(), strict=True))
    assert "callbacks" not in torch.load("finetuned.ckpt", weights_only=True)
    page = Path("finetuned.html").read_text("utf-8")
    assert "100.0%</b><span>of the parameters taken over" in page and "How it was trained" in page


def test_section_and_options(config: Config, known: dict[str, torch.Tensor], capsys: Any) -> None:
    section = {"strategy": "linear_probe", "lr_scale": {"net.1*": 0.5}, "reinit": ["net.1"]}
    args = ["--ckpt_path", "known.pt", "--output", "out/t.ckpt", "--transfer.layer_decay", "0.5", "--report", ""]
    cli = AutoArchCLI(args=["transfer", "--config", config(transfer=section), *args])
    assert torch.equal(cli.model.net[0][0].weight, known["net.0.0.weight"])  # frozen
    assert not torch.equal(cli.model.net[1].weight, known["net.1.weight"])
    body, head = transfer_of(cli).blocks
    assert (body.name, body.epochs, body.frozen, body.rates) == ("net.0.0", None, 20, (0.5, 0.5))
    assert (head.name, head.epochs, head.frozen, head.rates) == ("net.1", (0, 0), 0, (0.5, 0.5))
    assert Path("out/t.ckpt").exists() and not list(Path().rglob("*.html"))
    assert "initialised" in capsys.readouterr().out


def test_keys_that_are_numbers_and_rules(config: Config, known: dict[str, torch.Tensor]) -> None:
    torch.save({f"old.{name}": tensor for name, tensor in known.items()}, "old.pt")
    section = {"freeze": ["net.0*"], "thawing": {"unfreeze": {1: ["net.0*"]}}, "rules": [["old", ""]]}
    section["checkpoint"] = "old.pt"
    cli = AutoArchCLI(args=["transfer", "--config", config(transfer=section)])
    assert transfer_of(cli).report.share == 1.0
    assert [block.epochs for block in transfer_of(cli).blocks] == [(1, 1), (0, 0)]


def test_arguments_of_shares_adapters_and_dropout(config: Config, known: dict[str, torch.Tensor]) -> None:
    section = {"matching": {"lora_alpha": 8}, "frozen_dropout": False}
    args = [
        "--ckpt_path",
        "known.pt",
        "--transfer.matching.min_share",
        "0.9",
        "--trainer.max_epochs",
        "1",
        "--report",
        "",
    ]
    transfer = transfer_of(AutoArchCLI(args=["transfer", "--config", config(transfer=section), *args]))
    assert transfer.matching.lora_alpha == 8 and transfer.matching.min_share == 0.9
    assert not transfer.frozen_dropout


@pytest.mark.parametrize(
    ("section", "args", "times"),
    [
        ({"every": 1}, ["--transfer.thawing.unit", "step"], [[1, 1], [0, 0]]),
        ({"monitor": "val_loss", "mode": "max"}, ["--transfer.thawing.patience", "1"], [[2, 2], [0, 0]]),
        ({"monitor": "val_loss", "min_delta": 99.0}, ["--transfer.thawing.every", "1"], [[1, 1], [0, 0]]),
    ],
)
def test_when_blocks_thaw(
    config: Config, known: dict[str, torch.Tensor], section: Any, args: list[str], times: Any, capsys: Any
) -> None:
    written = config(transfer={"strategy": "gradual", "thawing": section})
    options = ["--ckpt_path", "known.pt", "--trainer.max_epochs", "3", *args]
    transfer = transfer_of(AutoArchCLI(args=["transfer", "--config", written, *options]))
    unit = "steps" if "unit" in args[0] else "epochs"
    assert [getattr(block, unit) and list(getattr(block, unit)) for block in transfer.blocks] == times
    assert "trained from epoch" in capsys.readouterr().out


def test_callback_of_the_config(config: Config, known: dict[str, torch.Tensor], capsys: Any) -> None:
    for init in ({}, {"checkpoint": "known.pt"}):
        path = config({"callbacks": [{"class_path": BY_CLASS, "init_args": {"strategy": "linear_probe", **init}}]})
        cli = AutoArchCLI(args=["transfer", "--config", path, "--ckpt_path", "known.pt"])
        assert torch.equal(cli.model.net[0][0].weight, known["net.0.0.weight"])
        assert "100.0% of 25 parameters taken over" in capsys.readouterr().out


def test_the_model_is_the_configs(config: Config, capsys: Any) -> None:
    module = cli_nets.Called(width=32)
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, "wide.ckpt")
    path = config(model=DEEP, transfer={"on_mismatch": "slice"})
    cli = AutoArchCLI(args=["transfer", "--config", path, "--ckpt_path", "wide.ckpt"])
    assert [layer.out_features for layer in (cli.model.net[0][0], cli.model.net[1][0])] == [4, 3]
    assert "sliced" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
def test_without_validation(config: Config, known: dict[str, torch.Tensor], capsys: Any) -> None:
    path = config(model={"class_path": "cli_nets.NoValidation"})
    main(["transfer", "--config", path, "--ckpt_path", "known.pt"])
    said = capsys.readouterr()
    assert said.out.count("parameters taken over") == 1 and "val_loss" not in said.out
    assert "parameters taken over" not in said.err


def test_fast_dev_run_writes_nothing(config: Config, known: dict[str, torch.Tensor], capsys: Any) -> None:
    main(["transfer", "--config", config(), "--ckpt_path", "known.pt", "--trainer.fast_dev_run", "true"])
    assert "finetuned.ckpt is not written" in capsys.readouterr().out
    assert not Path("finetuned.ckpt").exists() and not Path("finetuned.html").exists()


def test_searches_and_masks_have_no_part_in_it(config: Config, known: dict[str, torch.Tensor]) -> None:
    search = {"space": {"width": [2, 3]}, "monitor": "val_loss", "n_trials": 1}
    path = config(search=search, prune={"scope": "layer"})
    cli = AutoArchCLI(args=["transfer", "--config", path, "--ckpt_path", "known.pt"])
    assert not Path("autoarch").exists() and cli.model.net[0][0].out_features == 4
    assert not any((parameter == 0).any() for parameter in cli.model.parameters())


@pytest.mark.parametrize(
    ("sections", "options", "code", "said"),
    [
        ({}, [], 2, "Expected a checkpoint, got none: pass `--ckpt_path`"),
        ({}, ["--ckpt_path", "nothing.ckpt"], 2, "Expected a checkpoint at nothing.ckpt"),
        ({}, ["--ckpt_path", "given.yaml"], 2, "given.yaml"),
        ({}, ["--ckpt_path", "broken.pt"], 2, "broken.pt"),
        ({}, ["--ckpt_path", "foreign.pt"], 1, "Expected weights for Called in foreign.pt, but not one parameter"),
        ({}, ["--ckpt_path", "known.pt", "--transfer.strategy", "lp"], 2, "Expected `strategy` to be one of 'full',"),
        ({"transfer": {"layer_decay": 2.0}}, ["--ckpt_path", "known.pt"], 2, "`layer_decay`"),
        ({"transfer": {"matching": {"grid": [[2, 2], [3, 2]]}}}, ["--ckpt_path", "known.pt"], 1,
         "got 2x2 in the source and 3x2 in the module"),
        ({"transfer": {"matching": {"min_share": 2.0}}}, ["--ckpt_path", "known.pt"], 2, "`min_share`"),
        ({"transfer": {"matching": {"min_share": 0.9}}}, ["--ckpt_path", "foreign.pt"], 1, "`min_share`"),
        ({}, ["--ckpt_path", "known.pt", "--transfer.thawing.every", "5"], 2, "`strategy='full'` thaws none"),
        ({"transfer": {"freeze": ["nett*"]}}, ["--ckpt_path", "known.pt"], 1, "`nett*`"),
        ({"transfer": {"checkpoint": "a.pt"}}, ["--ckpt_path", "known.pt"], 2, "Expected one checkpoint, got"),
        ({"trainer": {"callbacks": [{"class_path": BY_CLASS, "init_args": {"checkpoint": "a.pt"}}]}},
         ["--ckpt_path", "known.pt"], 2, "Expected one checkpoint, got"),
        ({"trainer": {"callbacks": [{"class_path": BY_CLASS}]}, "transfer": {"layer_decay": 0.5}},
         ["--ckpt_path", "known.pt"], 2, "not both"),
        ({}, ["--ckpt_path", "known.pt", "--output", "known.pt/x.ckpt"], 2, "write `output` to known.pt/x.ckpt"),
        ({}, ["--ckpt_path", "known.pt", "--output", "."], 2, "`output` to name a file, got the directory ."),
        ({}, ["--ckpt_path", "known.pt", "--report", "known.pt/x.html"], 2, "write `report` to known.pt/x.html"),
        ({}, ["--ckpt_path", "known.pt", "--report", "finetuned.ckpt"], 2, "got finetuned.ckpt for both"),
    ],
)  # fmt: skip
def test_errors_are_one_line(
    config: Config, known: dict[str, torch.Tensor], fails: Any, sections: Any, options: list[str], code: int, said: str
) -> None:
    Path("broken.pt").write_bytes(Path("known.pt").read_bytes()[:500])
    torch.save({"net.0.0.weight": torch.zeros(9, 9), "conv.weight": torch.zeros(2, 2)}, "foreign.pt")
    got, line = fails("transfer", "--config", config(**sections), *options)
    assert (got, said in line) == (code, True), line
    assert not Path("finetuned.ckpt").exists()


class TestElsewhere:
    def test_fit_starts_from_it(self, config: Config, known: dict[str, torch.Tensor]) -> None:
        section = {"checkpoint": "known.pt", "strategy": "linear_probe"}
        path = config({"enable_checkpointing": True}, transfer=section)
        cli = AutoArchCLI(args=["fit", "--config", path])
        assert torch.equal(cli.model.net[0][0].weight, known["net.0.0.weight"])
        checkpoint = cli.trainer.checkpoint_callback.best_model_path
        tested = AutoArchCLI(args=["test", "--config", path, "--ckpt_path", checkpoint], save_config_callback=None)
        assert tested.trainer.callback_metrics["test_loss"] > 0

    def test_search_keeps_it_for_the_winner(self, config: Config, known: dict[str, torch.Tensor]) -> None:
        search = {"space": {"act": ["relu", "tanh"]}, "monitor": "val_loss", "n_trials": 1, "sampler": "random",
                  "trial": {"trainer": {"max_epochs": 1}}}  # fmt: skip
        section = {"checkpoint": "known.pt", "strategy": "linear_probe"}
        AutoArchCLI(args=["search", "--config", config(search=search, transfer=section)])
        best = yaml.safe_load(Path("best.yaml").read_text())
        assert {key: best["transfer"][key] for key in section} == section
        fitted = AutoArchCLI(args=["fit", "--config", "best.yaml"], save_config_callback=None)
        assert torch.equal(fitted.model.net[0][0].weight, known["net.0.0.weight"])

    def test_search_and_transfer_in_one_fit(self, config: Config, known: dict[str, torch.Tensor]) -> None:
        search = {"space": {"act": ["relu", "tanh"]}, "monitor": "val_loss", "n_trials": 1, "sampler": "random",
                  "trial": {"trainer": {"max_epochs": 1}}}  # fmt: skip
        section = {"checkpoint": "known.pt", "strategy": "linear_probe"}
        cli = AutoArchCLI(args=["fit", "--config", config(search=search, transfer=section)])
        assert isinstance(cli.trainer.callbacks[0], ArchitectureSearch)
        assert torch.equal(cli.model.net[0][0].weight, known["net.0.0.weight"])


def test_help(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["transfer", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--ckpt_path CKPT_PATH" in text and "--transfer.strategy" in text and "--report REPORT" in text
    for name in ("thawing.every", "thawing.unit", "thawing.monitor", "thawing.mode", "thawing.patience",
                 "thawing.min_delta", "matching.grid", "matching.min_share", "matching.lora_alpha"):  # fmt: skip
        assert f"--transfer.{name} " in text
    assert "A logged metric by which" in text
    with pytest.raises(SystemExit):
        main(["validate", "--help"])
    text = capsys.readouterr().out
    assert "--transfer TRANSFER" in text and "--transfer.strategy" not in text


def test_which_weights_of_a_checkpoint(config: Config, known: dict[str, torch.Tensor], capsys: Any) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in known.items()}
    torch.save({"nets": {"student": zeros}, "ema": known, "args": Namespace(lr=1)}, "many.pt")
    for options, first in (({"weights": "average"}, known), ({"key": "nets.student"}, zeros)):
        source = {"path": "many.pt", "trusted": ["argparse.Namespace"], **options}
        path = config(transfer={"checkpoint": source})
        cli = AutoArchCLI(args=["transfer", "--config", path, "--trainer.max_epochs", "0"])
        assert "100.0% of 25 parameters taken over" in capsys.readouterr().out
        assert all(torch.equal(cli.model.state_dict()[name], tensor) for name, tensor in first.items())
    with pytest.raises(SystemExit):
        main(["transfer", "--config", config(), "--ckpt_path", "many.pt"])
    assert "argparse.Namespace" in capsys.readouterr().err
