"""Two processes, one mask: real DistributedDataParallel with gloo on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("ddp_fit.py")
SUPPORT = Path(__file__).parents[2] / "support"


KINDS = ["magnitude", "random", "rigl", "before", "after"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def done(folder: Path) -> subprocess.CompletedProcess[str]:
    """One launch for all kinds. The last ends it with an error."""
    path = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), *KINDS, "other"]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_ends_with_the_same(kind: str, folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    files = [folder / f"{kind}{rank}.pt" for rank in (0, 1)]
    assert all(file.exists() for file in files), done.stderr[-2000:]
    first, second = (torch.load(file, weights_only=True) for file in files)
    for part in ("masks", "weights"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    check(kind, first)


def check(kind: str, state: dict[str, Any]) -> None:
    weights = [value for name, value in state["weights"].items() if name.endswith("weight")]
    if kind in ("before", "after"):
        assert sum(len(weight) for weight in weights) <= 20
    else:
        expected = 0.5 if kind in ("rigl", "set") else 0.75
        pruned = sum(int((~mask).sum()) for mask in state["masks"].values())
        assert pruned == pytest.approx(expected * sum(w.numel() for w in weights), abs=3)


@pytest.mark.slow
def test_ranks_that_differ_are_seen(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode != 0
    assert "MagnitudePruning chose other masks on another rank" in done.stderr
