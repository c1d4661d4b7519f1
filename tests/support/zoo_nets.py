"""Nets of other people's libraries as they are, in a LightningModule, and a fit of them."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transfer_nets import QUIET

CLASSES = 5


class Wrapped(L.LightningModule):
    """A classifier. Of what transformers return it takes the logits; of tokens' logits those of the first.

    Args:
        model: the net.
        x: a batch for it.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = model
        self.example_input_array = x[:2]

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        return getattr(out, "logits", out)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        logits = self(batch[0])
        return nn.functional.cross_entropy(logits if logits.dim() == 2 else logits[:, 0], batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def images(size: int = 16, channels: int = 3) -> Tensor:  # (8, channels, size, size)
    return torch.randn(8, channels, size, size, generator=torch.Generator().manual_seed(0))


def tokens(vocabulary: int = 50) -> Tensor:  # (8, 8)
    return torch.randint(3, vocabulary, (8, 8), generator=torch.Generator().manual_seed(0))


def loader(x: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, torch.arange(len(x)) % CLASSES), batch_size=4)


def fit(module: L.LightningModule, x: Tensor, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, "max_epochs": 2, "callbacks": list(callbacks), **options})
    trainer.fit(module, loader(x), loader(x))
    return trainer


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of its state_dict."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of parameters that are not as they were."""
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def blocks(module: nn.Module, depth: int) -> list[list[str]]:
    """The paths of what is in each block, so many segments of them."""
    from lightning_autoarch.transfer.tune.blocks import blocks_of
    from lightning_autoarch.transfer.tune.trainable import TrainableNames

    found = blocks_of(module, TrainableNames(module))
    return [sorted({".".join(name.split(".")[:depth]) for name in block}) for block in found]
