"""What every test shares: one thread, and a reason where a GPU is missing."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: small nets on a busy machine run many times slower with two threads than with one.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import hypothesis
import pytest
import torch
from guarded import Guard
from optuna_migrations import read_migrations_once
from torchvision_operators import declare_missing

read_migrations_once()
declare_missing()  # before Lightning, which imports torchvision where it is installed

from entry_points import read_entry_points_once

import lightning_autoarch
from lightning_autoarch.prune import _ops

read_entry_points_once()

# No test is a stopwatch: on a busy machine an example takes as long as it takes.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="module")
def _small_collections() -> None:
    """Leave what earlier modules imported out of the garbage collection after each trial: 0.2 s with it."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    where = Path(lightning_autoarch.__file__).parent
    return f"lightning_autoarch: {lightning_autoarch.__version__} in {where}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := why_no_gpu():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def why_no_gpu() -> str:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if _ops.LOAD_ERROR is not None:
        return f"no extension: {_ops.LOAD_ERROR}"
    return _ops.cuda_state()["error"]  # "built without CUDA" among them; empty where it works


@pytest.fixture
def checkout() -> Path:
    """The source tree that the tests lie in."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def guard() -> Iterator[Guard]:
    """A process whose forks read hostile inputs; started where a test asks for it."""
    with Guard() as guard:
        yield guard
