"""Two processes: what thaws is averaged from then on, so that the ranks stay one module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from transfer_nets import Tuned, fit, grouped, source

pytestmark = pytest.mark.slow

SCRIPT = """
import ast, os, sys, warnings
import torch
import lightning as L
from nets import samples
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler
from transfer_nets import QUIET, Epochs, Tuned, source, grouped
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
warnings.simplefilter("ignore")


def fit(folder, options, ddp, resume):
    module, spy = Tuned(lr=0.05, optimizer="filter", seed=7), Epochs()
    transfer = TransferLearning(source(), **grouped(options))
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = L.Trainer(**{
        **QUIET, "devices": 2, "strategy": DDPStrategy(process_group_backend="gloo", **ddp), "max_epochs": 4,
        "callbacks": [transfer, spy, saver], "enable_checkpointing": True, "default_root_dir": folder,
        "use_distributed_sampler": False,
    })
    sampler = DistributedSampler(samples(), 2, int(os.environ.get("LOCAL_RANK", 0)), shuffle=False)
    data = DataLoader(samples(), batch_size=8, sampler=sampler)
    trainer.fit(module, data, DataLoader(samples(16, 1), batch_size=8), ckpt_path=resume or None, weights_only=False)
    weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    everybody = trainer.strategy.all_gather(weights)
    assert (everybody == weights).all(), "the ranks differ"
    if trainer.global_rank == 0:
        torch.save({"state": module.state_dict(), "trained": [len(n) for n in spy.trained]}, folder + "/end.pt")


for case in ast.literal_eval(sys.argv[1]):
    fit(*case)
"""


GRADUAL: dict[str, Any] = {"strategy": "gradual", "layer_decay": 0.5, "warmup_epochs": 1, "l2_sp": 0.1}
BY_STEP: dict[str, Any] = {"strategy": "gradual", "every": 4, "unit": "step", "warmup_epochs": 1}
BY_STEP |= {"monitor": "val_loss", "patience": 1, "min_delta": 99.0}
FROZEN: dict[str, Any] = {"freeze": "backbone", "unfreeze": {1: "backbone.3", 2: "backbone.0"}}
DDP: dict[str, dict[str, Any]] = {
    "plain": {},
    "static graph": {"static_graph": True},
    "views": {"gradient_as_bucket_view": True},
}

Ends = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """What each fit ended with, by its name. One launch: starting two processes takes longer than all of the fits."""
    root = tmp_path_factory.mktemp("ddp")
    cases = [(name, GRADUAL, ddp, "") for name, ddp in DDP.items()]
    cases += [("resumed", GRADUAL, {}, str(root / "plain" / "epoch=1.ckpt"))]
    cases += [("by step", BY_STEP, {}, ""), ("frozen", FROZEN, {}, "")]
    for name, *_ in cases:
        (root / name).mkdir()
    (root / "fit.py").write_text(SCRIPT)
    paths = [str(Path(nets.__file__).parent), *sys.path[1:]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, str(root / "fit.py"), repr([(str(root / name), *rest) for name, *rest in cases])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: torch.load(root / name / "end.pt", weights_only=True) for name, *_ in cases}


@pytest.mark.parametrize("ddp", DDP)
def test_gradual_thawing(ddp: str, ends: Ends) -> None:
    found = ends[ddp]
    assert found["trained"] == [2, 6, 10, 10]
    assert not torch.equal(found["state"]["backbone.0.weight"], source()["backbone.0.weight"])


def test_resumed(ends: Ends) -> None:
    assert ends["resumed"]["trained"] == [10, 10]
    torch.testing.assert_close(ends["resumed"]["state"], ends["plain"]["state"])


def test_thawing_within_an_epoch_and_by_a_metric_that_ranks_see_differently(ends: Ends) -> None:
    found = ends["by step"]
    assert found["trained"] == [2, 2, 10, 10]  # at the first of three batches: one at step 4, one by the metric at 6


def test_as_in_one_process(ends: Ends) -> None:
    """Where all norms are in eval two half batches are one whole batch: rank r has samples r, r + 2, ... of it."""
    from lightning_autoarch.callbacks.transfer.learning import TransferLearning

    module = Tuned(lr=0.05, optimizer="filter", seed=7)
    fit(module, TransferLearning(source(), **grouped(FROZEN)))
    torch.testing.assert_close(ends["frozen"]["state"], module.state_dict(), rtol=1e-4, atol=1e-5)
