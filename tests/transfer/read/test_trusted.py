"""Classes that the user trusts in one file, and nowhere else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save({"state_dict": {"w": torch.ones(1)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


@pytest.mark.parametrize("trusted", [["argparse.Namespace"], [argparse.Namespace]])
def test_for_this_file_alone(trusted: Any, path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    assert read_checkpoint(path, trusted=trusted)["w"] == 1
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(CheckpointError, match=r"`argparse\.Namespace`.*`trusted`"):
        read_checkpoint(path)


def test_what_the_user_has_declared_before_stays(path: Path) -> None:
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_checkpoint(path, trusted=[argparse.Namespace])
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_only_what_is_named(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"`argparse\.Namespace`"):
        read_checkpoint(path, trusted=["argparse.ArgumentParser"])


@pytest.mark.parametrize("name", ["argparse.None", "no_such_package.Class", "Namespace", "os.system", ""])
def test_what_is_no_class(name: str, path: Path) -> None:
    with pytest.raises(CheckpointError, match="in `trusted`"):
        read_checkpoint(path, trusted=[name])


def test_a_word_is_no_list(path: Path) -> None:
    with pytest.raises(CheckpointError, match="a list of classes as `trusted`"):
        read_checkpoint(path, trusted="argparse.Namespace")
