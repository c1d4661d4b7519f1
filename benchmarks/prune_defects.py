"""What the checks of the pruning tables share: a net, its fits and steps, and what is to be seen of its weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning

STEPS = 12  # batches of an epoch
QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1,
}  # fmt: skip


class Net(L.LightningModule):
    """SGD with momentum and weight decay: what moves a masked weight if nothing holds it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(*(layers or (nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)


class AfterBatch(L.Callback):
    """Calls a function with the Trainer and the module after every batch; stands behind the pruning."""

    def __init__(self, function: Callable[[L.Trainer, L.LightningModule], None]) -> None:
        self.function = function

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.function(trainer, pl_module)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16 * STEPS, 8, generator=generator)
    return DataLoader(TensorDataset(x, torch.stack([x[:, 0], x[:, 1] * x[:, 2]], 1)), batch_size=16)


def fit(module: L.LightningModule, *callbacks: L.Callback, ckpt_path: Any = None, **options: Any) -> L.Trainer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(**{**QUIET, "max_epochs": 1, "callbacks": list(callbacks), **options})
        trainer.fit(module, loader(), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


def steps(module: nn.Module, x: Tensor, count: int = 2) -> torch.optim.Optimizer:
    """Plain training steps, without a Trainer."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
    for _ in range(count):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    return optimizer


def linear_layers(module: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(child, "weight") for child in module.modules() if isinstance(child, nn.Linear)]


def zeros(module: nn.Module) -> float:
    """Share of zeros among the weights of the linear layers."""
    weights = [getattr(layer, name).detach() for layer, name in linear_layers(module)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def values(pruning: MagnitudePruning) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights, and as booleans what of them is kept."""
    assert pruning.weights is not None
    for parameter, mask in zip(pruning.weights.parameters, pruning.weights.masks, strict=True):
        yield parameter.detach(), mask.unpack()
