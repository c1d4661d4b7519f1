"""A net with norms to fine-tune, and the optimizers that users write for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import nets
import torch
from torch import nn

from lightning_autoarch.transfer.tune.thawing import Thawing

QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1,
}  # fmt: skip


def grouped(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `TransferLearning` with those of `Thawing` put into one."""
    thawing = {name: value for name, value in options.items() if name in Thawing.__dataclass_fields__}
    others = {name: value for name, value in options.items() if name not in thawing}
    return {**others, "thawing": Thawing(**thawing)} if thawing else others


class Tuned(nets.Net):
    """Linear, BatchNorm, ReLU, twice, and a head: three blocks with four, four and two parameters.

    Args:
        optimizer: "all" of the parameters, or a "filter" for what requires a gradient, or the "head" alone.
        scheduler: a function of the optimizer.
    """

    def __init__(self, lr: float = 0.05, optimizer: str = "all", scheduler: Any = None, seed: int = 0):
        L.LightningModule.__init__(self)
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()
        )
        self.head = nn.Linear(8, 1)
        self.lr, self.chosen, self.scheduler = lr, optimizer, scheduler

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))

    def make_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.01)

    def configure_optimizers(self) -> Any:
        parameters = {
            "all": list(self.parameters()),
            "filter": [p for p in self.parameters() if p.requires_grad],
            "head": list(self.head.parameters()),
        }[self.chosen]
        optimizer = self.make_optimizer(parameters)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class Stepped(Tuned):
    """Has `rates`: of each optimizer step, the learning rates of the groups after it."""

    def make_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        self.rates = seen = []

        class Own(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                loss = super().step(closure)
                seen.append([group["lr"] for group in self.param_groups])
                return loss

        return Own(parameters, lr=0.1)


def fit(module: L.LightningModule, *callbacks: L.Callback, ckpt_path: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, "max_epochs": 4, "callbacks": list(callbacks), **options})
    trainer.fit(module, *nets.loaders(shuffle=False), ckpt_path=ckpt_path)
    return trainer


def source(seed: int = 1) -> dict[str, torch.Tensor]:
    """Weights of such a net, with statistics that are not those of a new one."""
    net = Tuned(seed=seed)
    for i, norm in enumerate([net.backbone[1], net.backbone[4]]):
        norm.running_mean.fill_(0.1 + i)
        norm.running_var.fill_(2.0 + i)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


class Epochs(L.Callback):
    """At the first batch of each epoch: what is trained, which norms are in train, and the learning rates."""

    def __init__(self) -> None:
        self.trained: list[list[str]] = []
        self.in_train: list[list[str]] = []
        self.rates: list[list[float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if args[-1] == 0:
            self.trained.append([name for name, p in pl_module.named_parameters() if p.requires_grad])
            self.in_train.append(
                [path for path, m in pl_module.named_modules() if isinstance(m, nn.BatchNorm1d) and m.training]
            )
            self.rates.append([group["lr"] for o in trainer.optimizers for group in o.param_groups])


def moved(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of what is not as it was."""
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
