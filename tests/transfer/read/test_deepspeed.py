"""Folders as DeepSpeed lays them out: one file has all weights, or what to do is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint


def folder(path: Path, tag: str, *files: str, latest: str | None = None, module: Any = None) -> Path:
    inner = path / "run.ckpt" / tag
    inner.mkdir(parents=True)
    if latest is not None:
        (path / "run.ckpt" / "latest").write_text(latest)
    held = {"module": {"net.weight": torch.ones(2).bfloat16()} if module is None else module, "ds_version": "0.18.2"}
    for file in files:
        torch.save(held, inner / file)
    return path / "run.ckpt"


@pytest.mark.parametrize(
    ("tag", "latest"), [("checkpoint", "checkpoint"), ("global_step7", "global_step7\n"), (".", None)]
)
def test_one_file_has_all_weights(tag: str, latest: str | None, tmp_path: Path) -> None:
    path = folder(
        tmp_path, tag, "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt", latest=latest
    )
    assert read_checkpoint(path)["net.weight"].tolist() == [1, 1]


def test_without_a_tag_lightnings_folder_is_taken(tmp_path: Path) -> None:
    assert list(read_checkpoint(folder(tmp_path, "checkpoint", "mp_rank_00_model_states.pt"))) == ["net.weight"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["zero_pp_rank_0_mp_rank_00_model_states.pt"], "ZeRO 3.*zero_to_fp32.py"),
        (
            ["mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt"],
            "ZeRO 3.*convert_zero_checkpoint",
        ),
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "2 parts of a model.*zero_to_fp32.py"),
    ],
)
def test_weights_in_parts(files: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder(tmp_path, "checkpoint", *files, latest="checkpoint"))


@pytest.mark.parametrize("tag", ["../other", "/etc", "", "..", "a/b"])
def test_a_tag_that_leads_elsewhere(tag: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    torch.save({"module": {"w": torch.ones(1)}}, tmp_path / "other" / "mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError, match=r"run\.ckpt"):
        read_checkpoint(folder(tmp_path, "checkpoint", latest=tag))


def test_a_tag_that_is_a_link(tmp_path: Path) -> None:
    path = folder(tmp_path, "checkpoint", latest="away")
    (tmp_path / "other").mkdir()
    torch.save({"module": {"w": torch.ones(1)}}, tmp_path / "other" / "mp_rank_00_model_states.pt")
    (path / "away").symlink_to("../other")
    with pytest.raises(CheckpointError, match="not followed"):
        read_checkpoint(path)
