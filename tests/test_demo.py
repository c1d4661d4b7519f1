"""The demo, with two epochs: what it says, writes, and does when it is run again."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_autoarch import cli, demo
from lightning_autoarch.demo import DigitsData, DigitsNet


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "TRIAL_EPOCHS", 1)
    monkeypatch.setattr(demo, "EPOCHS", 2)


def test_it_goes_the_whole_way_once(tmp_path: Path, capsys: Any) -> None:
    threads = torch.get_num_threads()
    cli.main(["demo", "--n-trials", "3"])
    said = capsys.readouterr().out
    directory = tmp_path / "autoarch-demo"
    assert torch.get_num_threads() == threads

    result = json.loads((directory / "result.json").read_text())
    net = DigitsNet.load_from_checkpoint(directory / "winner.ckpt")
    chosen = {k: v for k, v in result["architecture"].items() if not k.startswith("data.")}
    assert {name: net.hparams[name] for name in chosen} == chosen
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    [logged] = trainer.test(net, datamodule=DigitsData(), verbose=False)
    assert logged["test_acc"] == pytest.approx(result["winner"]["test_accuracy"])
    assert f"{logged['test_acc']:.1%}" in said
    assert result["winner"]["parameters"] == sum(p.numel() for p in net.parameters()) <= demo.MAX_PARAMS
    for name in ("study.db", "winner.ckpt", "trials", "result.json"):
        assert name in said
        assert (directory / name).exists()

    cli.main(["demo", "--n-trials", "3"])
    again = capsys.readouterr().out
    assert again.startswith("Done already")
    assert again.partition("\nFound")[2] == said.partition("\nFound")[2]

    cli.main(["demo", "--n-trials", "4"])
    assert "the 4 trials" in capsys.readouterr().out


def test_without_plotly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
    assert 'pip install "lightning-autoarch[report]"' in demo._report(tmp_path)


def test_ctrl_c_ends_it_with_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def press(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DigitsNet, "on_train_start", press)
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--directory", "elsewhere"])
    assert ended.value.code == 130
    assert not (tmp_path / "elsewhere" / "result.json").exists()


def test_data_are_split_once_and_for_all() -> None:
    data = DigitsData()
    data.setup("fit")
    parts = [data.train, data.val, data.test]
    assert [len(part) for part in parts] == [1078, 359, 360]
    images = torch.cat([part.tensors[0] for part in parts]).flatten(1)
    assert images.shape == (1797, 64)
    assert images.min() == 0
    assert images.max() == 1


@pytest.mark.parametrize("stem", ["none", "conv"])
def test_every_stem_takes_a_batch(stem: str) -> None:
    net = DigitsNet(stem=stem, channels=4, kernel=5, layers=[{"width": 8, "act": "gelu"}, {"width": 9, "act": "tanh"}])
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["search.py"], ["train.py", "search", "--config", "search.yaml"]])
def test_examples_run(arguments: list[str], tmp_path: Path, checkout: Path) -> None:
    for file in (checkout / "examples").iterdir():
        shutil.copy(file, tmp_path)
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rank  trial" in done.stdout
