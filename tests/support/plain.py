"""A module whose fits can be repeated by a plain loop of torch: no dropout, no validation, data in one order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import nets
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Net(L.LightningModule):
    """A regression net; its optimizer is made by a function of the module, or SGD."""

    def __init__(self, configure: Callable[[Any], Any] | None = None, width: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))
        self.configure = configure

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self._loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1) if self.configure is None else self.configure(self)

    def _loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])


class Watch(L.Callback):
    """Calls a function as each batch ends."""

    def __init__(self, look: Callable[[L.Trainer, Any], None]) -> None:
        self.look = look

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.look(trainer, pl_module)


class Shown(Logger):
    """Remembers what is logged."""

    name = version = "shown"

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen.append((step or 0, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def of(self, key: str) -> dict[int, float]:
        return {step: metrics[key] for step, metrics in self.seen if key in metrics}


def net(configure: Callable[[Any], Any] | None = None) -> Net:
    """The same each time."""
    torch.manual_seed(0)
    return Net(configure)


def batches() -> DataLoader[Any]:
    """Three, in one order."""
    return nets.loaders(shuffle=False)[0]


def fit(root: Path, module: L.LightningModule, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """Two epochs of `batches`."""
    trainer = nets.trainer(root, *callbacks, **options)
    trainer.fit(module, batches())
    return trainer


def same(a: nn.Module, b: nn.Module) -> None:
    """Their parameters are close."""
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, msg=lambda m, name=name: f"{name}: {m}")
