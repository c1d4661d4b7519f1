"""Fits on two processes, run by test_ddp.py: `python ddp_fit.py FOLDER KIND...`.

One after the other, as starting two processes takes longer than a fit. Each rank writes what it ended with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from nets import Net, samples
from torch.utils.data import DataLoader

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.dynamic import SET, RigL
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.prune.schedule import CubicSparsity


def callback(kind: str) -> L.Callback:
    if kind in ("before", "after"):
        return ChannelPruning(0.5, at=0.0 if kind == "before" else 1.0, example_inputs=torch.zeros(2, 4))
    if kind in ("rigl", "set"):
        return (RigL if kind == "rigl" else SET)(0.5, every_n_steps=2)
    criterion: Any = "magnitude" if kind == "other" else kind
    return MagnitudePruning(CubicSparsity(0.75, end=0.75), criterion=criterion, every_n_steps=2)


class Drift(L.Callback):
    """Changes a parameter on one rank, as a bug would."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_rank == 1:
            pl_module.net[0].weight.data.mul_(torch.linspace(0, 2, 16).unsqueeze(1))


def fit(kind: str, folder: Path) -> None:
    L.seed_everything(0, verbose=False)
    module = Net(16, layers=[{"width": 16}], dropout=0.0)
    pruning = callback(kind)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[pruning, *([Drift()] if kind == "other" else
        [])],
    )  # fmt: skip
    trainer.fit(module, DataLoader(samples(), batch_size=8))
    masks = {name: mask.unpack() for name, mask in getattr(pruning, "masks", {}).items()}
    torch.save({"masks": masks, "weights": module.state_dict()}, folder / f"{kind}{trainer.global_rank}.pt")


if __name__ == "__main__":
    for kind in sys.argv[2:]:
        fit(kind, Path(sys.argv[1]))
