"""A directory of its own for each call of the program, and configs in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_nets import TRAINER


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["autoarch"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")  # what seed_everything sets goes away with the test
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    """Writes a config with sections replaced; `trainer` is added to the usual one."""

    def write(trainer: dict[str, Any] | None = None, **sections: Any) -> str:
        whole = {
            "seed_everything": 1,
            "trainer": {**TRAINER, **(trainer or {})},
            "model": {"class_path": "cli_nets.Called"},
            "data": {"class_path": "cli_nets.Data"},
            **sections,
        }
        path = tmp_path / "given.yaml"
        path.write_text(yaml.safe_dump(whole))
        return str(path)

    return write


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the program to its end in an error: the exit code, and the one line that says why."""
    from lightning_autoarch.cli import main

    def run(*args: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(args)
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        return int(str(ended.value.code)), line

    return run
