"""A module, data and callbacks for the command line, which reads their annotations."""

from __future__ import annotations

import enum
import itertools
from typing import Any

import lightning as L
import nets
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

TRAINER = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


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


class Called(OwnOptimizer):
    """With a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class NoValidation(L.LightningModule):
    """Trains, and that is all."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net().net

    training_step = Net.training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Act(enum.Enum):
    """What a person writes by its name."""

    relu = 1
    tanh = 2


class Encoder(nn.Module):
    """A part given by class path."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(4, size)


class WithParts(OwnOptimizer):
    """Takes a module, an enum and a callable, which a config writes as class paths and names."""

    def __init__(
        self,
        encoder: Encoder,
        width: int = 4,
        act: Act = Act.relu,
        optimizer: OptimizerCallable = torch.optim.SGD,
    ) -> None:
        super().__init__(width, act.name)
        self.save_hyperparameters()
        self.net[0][0] = nn.Sequential(encoder.linear, nn.Linear(encoder.linear.out_features, width))
        self.optimizer = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


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


class Rated(OwnOptimizer):
    """With the initials of an argument's usual name."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
