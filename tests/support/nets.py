"""Small modules and data that several tests train. All of it takes milliseconds."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

SPACE: dict[str, Any] = {
    "width": {"low": 2, "high": 32, "log": True},
    "act": ["relu", "tanh"],
    "lr": {"low": 1e-3, "high": 1e-1, "log": True},
}


class Net(L.LightningModule):
    """A regression net that saves its hyperparameters."""

    def __init__(self, width: int = 4, act: str = "relu", lr: float = 1e-2, layers: Any = (), dropout: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        widths = [width, *[layer["width"] for layer in layers]]
        parts: list[nn.Module] = []
        before = 4
        for w in widths:
            parts += [nn.Linear(before, w), nn.ReLU() if act == "relu" else nn.Tanh(), nn.Dropout(dropout)]
            before = w
        self.net = nn.Sequential(*parts, nn.Linear(before, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])

    def _loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self(x), y)


def samples(n: int = 48, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return TensorDataset(x, (x[:, :2].prod(1) + x.sum(1)).unsqueeze(1))


def loaders(shuffle: bool = True, **options: Any) -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(samples(), batch_size=16, shuffle=shuffle, **options), DataLoader(samples(16, 1), batch_size=16)


class Data(L.LightningDataModule):
    """Counts how often it is prepared and set up."""

    def __init__(self, batch_size: int = 16):
        super().__init__()
        self.save_hyperparameters()
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare")

    def setup(self, stage: str) -> None:
        self.calls.append("setup")
        self.train, self.val = samples(), samples(16, 1)

    def teardown(self, stage: str) -> None:
        self.calls.append("teardown")

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=16)


def trainer(root: Any, *callbacks: L.Callback, max_epochs: int = 2, **options: Any) -> L.Trainer:
    return L.Trainer(
        **{
            "max_epochs": max_epochs,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "callbacks": list(callbacks),
            "default_root_dir": str(root),
            **options,
        }
    )


def same_batches() -> DataLoader[Any]:
    """Three times the same batch: Lightning begins an interrupted epoch's data anew."""
    return DataLoader(ConcatDataset([samples(16)] * 3), batch_size=16)
