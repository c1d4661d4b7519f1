"""A module, data and callbacks for the command line, which reads their annotations."""

from __future__ import annotations

import itertools
from typing import Any

import lightning as L
import nets
import torch
from torch import nn


class Net(L.LightningModule):
    """Gets its optimizer from the config."""

    def __init__(self, width: int = 4, act: str = "relu", layers: list[dict[str, Any]] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        widths = [4, width, *(layer["width"] for layer in layers or [])]
        kind = nn.ReLU if act == "relu" else nn.Tanh
        hidden = [nn.Sequential(nn.Linear(before, after), kind()) for before, after in itertools.pairwise(widths)]
        self.net = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))


class OwnOptimizer(Net):
    """Makes its optimizer itself."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Data(nets.Data):
    """With a test set."""

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__(batch_size)

    def test_dataloader(self) -> Any:
        return self.val_dataloader()


class PressCtrlC(L.Callback):
    """In the second trial, as a person would."""

    trials = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        PressCtrlC.trials += 1
        if PressCtrlC.trials == 2:
            raise KeyboardInterrupt
