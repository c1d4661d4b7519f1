"""`autoarch prune`: what it says, what it measures, and the page that it writes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_nets
import pytest
import torch

from lightning_autoarch import ChannelPruning, TransferLearning, load_pruned
from lightning_autoarch.cli import AutoArchCLI, main

CHANNELS = {
    "class_path": "lightning_autoarch.ChannelPruning",
    "init_args": {"ratio": 0.5, "at": {"step": 1}, "round_to": 4},
}


@pytest.fixture
def trained() -> str:
    """Weights of a net of 32 hidden units, with its hyperparameters."""
    torch.manual_seed(0)
    module = cli_nets.Called(width=32)
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, "dense.ckpt")
    return "dense.ckpt"


def rows(said: str) -> dict[str, list[str]]:
    """Lines of the tables, by their first cell."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in said.splitlines()]
    return {row[0]: row[1:] for row in cells if row}


def test_masks_in_numbers_and_on_a_page(config: Callable[..., str], trained: str, capsys: Any) -> None:
    main(["prune", "--config", config(), "--ckpt_path", trained])
    said = capsys.readouterr().out
    table = rows(said)
    assert table["parameters"] == ["193", "193"]
    assert table["parameters not 0"] == ["193", "49"]  # 16 of 160 weights, 33 biases
    assert table["FLOPs"] == ["5.12k", "5.12k"]  # 2 x 16 samples x 160 weights
    assert table["FLOPs of weights not 0"] == ["5.12k", "512"]
    assert [cell.split()[1] in ("ms", "µs", "s") for cell in table["latency"]] == [True, True]
    assert "of the first batch of the validation (16 x 4) on the CPU, 1 thread, dense and pruned in turns." in said
    assert "Zeros under masks make no forward faster" in said
    page = Path("pruned.html").read_text("utf-8")
    assert "90.0%</b><span>sparsity" in page and "net.0.0.weight" in page and "Content-Security-Policy" in page


@pytest.mark.parametrize(("given", "written"), [("", []), ("pages/one.html", ["pages/one.html"])])
def test_page_elsewhere_or_none(
    config: Callable[..., str], trained: str, given: str, written: list[str], capsys: Any
) -> None:
    main(["prune", "--config", config(), "--ckpt_path", trained, "--output", "out/p.ckpt", "--report", given])
    assert [str(path) for path in sorted(Path().rglob("*.html"))] == written
    assert Path("out/p.ckpt").exists()
    assert all(f"Wrote {path}" in capsys.readouterr().out for path in written)


def test_without_plotly(config: Callable[..., str], trained: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
    main(["prune", "--config", config(), "--ckpt_path", trained])
    assert capsys.readouterr().out.splitlines()[-1] == (
        'No page was written. A report needs plotly: pip install "lightning-autoarch[report]"'
    )
    assert Path("pruned.ckpt").exists() and not Path("pruned.html").exists()


def test_a_forward_that_cannot_be_run_is_said(config: Callable[..., str], trained: str, capsys: Any) -> None:
    path = config(model={"class_path": "cli_nets.OwnOptimizer"})  # without a forward
    main(["prune", "--config", path, "--ckpt_path", trained])
    said = capsys.readouterr().out
    assert "FLOPs and latency are not known: the forward does not take the first batch of the validation (" in said
    assert "Set `self.example_input_array`" in said
    assert "latency" not in rows(said) and rows(said)["parameters"] == ["193", "193"]
    assert Path("pruned.html").exists()


def test_channels_are_removed(config: Callable[..., str], trained: str, capsys: Any) -> None:
    cli = AutoArchCLI(args=["prune", "--config", config({"callbacks": [CHANNELS]}), "--ckpt_path", trained])
    said = capsys.readouterr().out
    table = rows(said)
    left = cli.model.net[0][0].out_features
    assert left < 32 and left % 4 == 0
    assert table["net.0.0"][:2] == ["160", str(5 * left)]
    assert table["all of them"][:2] == ["193", str(6 * left + 1)]
    assert table["parameters"] == ["193", str(6 * left + 1)]
    assert "sparsity" not in said and "Zeros" not in said
    dense, size = torch.nn.Module.state_dict(cli_nets.Called(width=32)), Path("pruned.ckpt").stat().st_size
    lost = 4 * (sum(t.numel() for t in dense.values()) - (6 * left + 1))
    assert f"on disk  before {(size + lost) / 1000:.3g} kB, dense {size / 1000:.3g} kB" in said
    assert 'load it with `load_pruned(Called(...), "pruned.ckpt")`' in said
    small = load_pruned(cli_nets.Called(width=32), "pruned.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), cli.model.parameters(), strict=True))
    page = Path("pruned.html").read_text("utf-8")
    assert "Channels removed, by layer" in page and "Sparsity, by layer" not in page


def test_channels_and_masks_together(config: Callable[..., str], trained: str, capsys: Any) -> None:
    path = config({"callbacks": [CHANNELS]}, prune={"every_n_steps": 1})
    cli = AutoArchCLI(args=["prune", "--config", path, "--ckpt_path", trained])
    assert any(isinstance(callback, ChannelPruning) for callback in cli.trainer.callbacks)
    said = capsys.readouterr().out
    assert "removed" in said and "sparsity" in said
    page = Path("pruned.html").read_text("utf-8")
    assert "Channels removed, by layer" in page and "Sparsity, by layer" in page


def test_the_checkpoint_is_not_fine_tuned_once_more(config: Callable[..., str], trained: str) -> None:
    torch.save(cli_nets.Called(width=32).state_dict(), "other.ckpt")
    transfer = {"class_path": "lightning_autoarch.TransferLearning", "init_args": {"checkpoint": "other.ckpt"}}
    cli = AutoArchCLI(args=["prune", "--config", config({"callbacks": [transfer]}), "--ckpt_path", trained])
    assert not any(isinstance(callback, TransferLearning) for callback in cli.trainer.callbacks)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output", "there"], "Expected `output` to name a file, got the directory there."),
        (["--output", f"{300 * 'p'}.ckpt"], "Expected to write `output` to ppp"),
        (["--output", "given.yaml/p.ckpt"], "Expected to write `output` to given.yaml/p.ckpt, cannot: "),
        (["--report", "given.yaml/p.html"], "Expected to write `report` to given.yaml/p.html, cannot: "),
        (["--output", "both.html"], "Expected one file for the checkpoint and another for the page, got both.html"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_an_error_before_training(
    config: Callable[..., str], trained: str, fails: Callable[..., tuple[int, str]], options: list[str], said: str
) -> None:
    Path("there").mkdir()
    code, line = fails("prune", "--config", config(), "--ckpt_path", trained, *options)
    assert code == 2 and said in line
    assert not list(Path("there").iterdir())


def test_hyperparameters_of_another_module(
    config: Callable[..., str], trained: str, fails: Callable[..., tuple[int, str]]
) -> None:
    torch.save({**torch.load(trained), "hyper_parameters": {"depth": 3}}, "other.ckpt")
    code, line = fails("prune", "--config", config(), "--ckpt_path", "other.ckpt")
    assert code == 2
    assert (
        "other.ckpt was saved with the hyperparameter `depth`, which Called does not have: it is of another module."
        in line
    )


def test_a_trial_run_of_a_schedule_in_steps(config: Callable[..., str], trained: str, capsys: Any) -> None:
    schedule = {
        "class_path": "CubicSparsity",
        "init_args": {"final_sparsity": 0.9, "start": {"step": 2}, "end": {"step": 5}},
    }
    path = config({"fast_dev_run": True}, prune={"schedule": schedule})
    main(["prune", "--config", path, "--ckpt_path", trained])
    assert "fast_dev_run: one batch was trained; pruned.ckpt is not written." in capsys.readouterr().out
