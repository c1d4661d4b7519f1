"""What the checks of the transfer tables share: a net with norms, its fits, and what is to be seen of them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from conformance import Seen
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoarch import TransferLearning
from lightning_autoarch.transfer.tune.thawing import Thawing

EPOCHS, THAW = 4, 1  # of a fit; when the backbone thaws
QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0,
}  # fmt: skip
Make = Callable[[], L.Callback]


class Net(L.LightningModule):
    """Linear, BatchNorm, ReLU, twice, and a head: ten parameters; its optimizer takes what requires a gradient."""

    def __init__(self, scheduler: Callable[[Optimizer], Any] | None = None, classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Linear(8, classes)
        self.lr, self.scheduler = 0.05, scheduler

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr, momentum=0.9)
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "monitor": "val_loss"}}


class Theirs(BaseFinetuning):
    """As its documentation has it: the backbone, norms included, is frozen and then added with a group of its own."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == THAW:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.05)


def ours(**options: Any) -> TransferLearning:
    return TransferLearning(freeze="backbone", thawing=Thawing(unfreeze={THAW: "backbone"}), **options)


class AtEpochStart(L.Callback):
    """Calls a function with the Trainer and the module when the first batch of an epoch is about to be trained."""

    def __init__(self, function: Callable[[L.Trainer, L.LightningModule], None]) -> None:
        self.function = function

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if args[-1] == 0:
            self.function(trainer, pl_module)


def loader(seed: int = 1) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(96, 4, generator=generator) * 2 + 1
    return DataLoader(TensorDataset(x, torch.stack([x[:, 0], x[:, 1] * x[:, 2]], 1)), batch_size=16)


def fit(module: L.LightningModule, *callbacks: L.Callback, ckpt_path: Any = None, **options: Any) -> L.Trainer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(**{**QUIET, "max_epochs": EPOCHS, "callbacks": list(callbacks), **options})
        trainer.fit(module, loader(), loader(2), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


def in_optimizer(trainer: L.Trainer) -> int:
    return sum(len(group["params"]) for group in trainer.optimizers[0].param_groups)


def trained(module: nn.Module) -> int:
    return sum(parameter.requires_grad for parameter in module.parameters())


def resumed(make: Make, saved: int) -> Seen:
    """Gone on with from the checkpoint after epoch `saved`, against all epochs at once."""
    whole, rest, counts = Net(), Net(), []
    watch = AtEpochStart(lambda trainer, module: counts.append(trained(module)))
    with tempfile.TemporaryDirectory() as folder:
        saving = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        fit(whole, make(), saving, enable_checkpointing=True, default_root_dir=folder)
        fit(rest, make(), watch, ckpt_path=Path(folder, f"epoch={saved}.ckpt"))
    same = all(torch.equal(a, rest.state_dict()[name]) for name, a in whole.state_dict().items())
    each = ", ".join(map(str, counts))
    return Seen(f"trains {each} of 10 parameters, weights {'as' if same else 'not as'} in one fit", same)
