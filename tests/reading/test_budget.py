"""What a pickle may take: real checkpoints of many small objects pass, and what they take was counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from guarded import SLACK, TIMES, Guard

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.reading.archive import read_archive
from lightning_autoarch.reading.budget import BYTES, BYTES_TIMES, Budget, table_bytes


def adam(count: int) -> dict[str, object]:
    """The checkpoint of an optimizer of many parameters of 2 numbers: three tensors of each."""
    state = {
        i: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)} for i in range(count)
    }
    return {"state_dict": {"weight": torch.zeros(3)}, "optimizer_states": [{"state": state}]}


def read(path: str) -> None:
    read_archive(Path(path))


def counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of memory that are counted for a file."""
    made: list[Budget] = []
    init = Budget.__init__
    with monkeypatch.context() as patched:
        patched.setattr(Budget, "__init__", lambda self, *args: (made.append(self), init(self, *args))[1])
        read_archive(path)
    [budget] = made
    return BYTES + BYTES_TIMES * os.path.getsize(path) - budget._bytes


def test_the_limits_are_those_of_the_promise() -> None:
    assert (BYTES, BYTES_TIMES) == (SLACK, TIMES)


def test_optimizer_states_of_50_000_tensors(tmp_path: Path, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are linear, so small files tell what a large one takes."""
    sizes, counts, peaks = [], [], []
    for count in (500, 2000):
        path = tmp_path / f"{count}.ckpt"
        torch.save(adam(count), path)
        sizes.append(os.path.getsize(path))
        counts.append(counted(path, monkeypatch))
        peaks.append(guard.run(read, path, folder=tmp_path, size=sizes[-1]).peak)
    tensors = 3 * 1500
    size, count, peak = ((b - a) / tensors for a, b in (sizes, counts, peaks))
    assert 50_000 * count < BYTES + BYTES_TIMES * 50_000 * size  # such a checkpoint is read
    assert 0.8 * peak < count < 1.5 * peak  # and what it takes was counted


def test_logged_histories(tmp_path: Path) -> None:
    history = {"loss": [i / 7 for i in range(100_000)], "step": list(range(100_000))}
    rows = [{"epoch": i, "loss": i / 7} for i in range(5000)]
    torch.save({"state_dict": {}, "callbacks": {"Own": {**history, "rows": rows}}}, tmp_path / "x.ckpt")
    held = read_archive(tmp_path / "x.ckpt")["callbacks"]["Own"]
    assert held["loss"][-1] == 99_999 / 7 and held["step"][-1] == 99_999 and held["rows"][-1]["epoch"] == 4999


def test_spending() -> None:
    budget = Budget("x.pt", 10)
    budget.spend(BYTES + 30)
    with pytest.raises(CheckpointError, match=r"in proportion to the size of x\.pt"):
        budget.spend(1)
    budget = Budget("x.pt", 0)
    budget.spend(BYTES - table_bytes(1000) - table_bytes(500))
    budget.grow(0, 500)
    budget.grow(500, 1000)  # the old table and the new one
    with pytest.raises(CheckpointError):
        budget.grow(1000, 2000)
