"""What is known to go wrong with `BaseFinetuning` of Lightning 2.6, by number of its issue: each is a case here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning, LearningRateFinder, ModelCheckpoint
from nets import Data
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from transfer_nets import QUIET, Epochs, Tuned, fit, grouped, moved, source

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.transfer.tune.thawing import Thawing


class Theirs(BaseFinetuning):
    """Thaws the backbone at epoch 1."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.05)


def ours(**options: Any) -> TransferLearning:
    return TransferLearning(freeze="backbone", thawing=Thawing(unfreeze={1: "backbone"}), **grouped(options))


def in_optimizer(trainer: L.Trainer) -> int:
    return sum(len(group["params"]) for group in trainer.optimizers[0].param_groups)


def test_parameters_of_equal_value_are_not_the_same_parameter() -> None:
    """Fresh norms have weights of one and biases of zero: compared by value, the second one is never trained."""

    class Fresh(Tuned):
        def __init__(self) -> None:
            super().__init__(optimizer="head")
            self.backbone = nn.Sequential(
                nn.Linear(4, 8, bias=False),
                nn.BatchNorm1d(8),
                nn.ReLU(),
                nn.Linear(8, 8, bias=False),
                nn.BatchNorm1d(8),
            )  # six parameters, and two of the head

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([*self.head.parameters(), *self.backbone[1].parameters()], lr=0.1)

    with pytest.warns(UserWarning, match="already exist within another group"):
        trainer = fit(Fresh(), Theirs())
    assert in_optimizer(trainer) == 6  # of 8
    module = Fresh()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert in_optimizer(fit(module, ours())) == 8
    assert moved(module, before) == before.keys()


@pytest.mark.parametrize("callback", [Theirs, ours])
def test_15062_a_frozen_norm_is_one_function(callback: Any) -> None:
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watched(Tuned):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.trainer.current_epoch == 0:
                training = self.backbone(batch[0]).detach()
                self.backbone.eval()
                outputs.append((training, self.backbone(batch[0]).detach()))
                self.backbone.train()
            return super().training_step(batch, batch_idx)

    module = Watched(optimizer="filter")
    module.load_state_dict(source())
    fit(module, callback(), max_epochs=2)
    assert len(outputs) == 3
    assert all(torch.equal(a, b) for a, b in outputs) == (callback is ours)


def test_15062_statistics_do_not_drift_before_they_thaw() -> None:
    class Last(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            statistics = {name for name in moved(pl_module, source()) if "running" in name}
            assert len(statistics) == (0 if trainer.current_epoch == 0 else 4)

    module = Tuned()
    module.load_state_dict(source())
    fit(module, ours(), Last(), max_epochs=2)


RESUMED = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")


@RESUMED
def test_21901_a_resumed_fit_does_not_freeze_again(tmp_path: Path) -> None:
    trained: dict[Any, int] = {}
    for callback in (Theirs, ours):
        folder = tmp_path / callback.__name__
        save = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        fit(Tuned(optimizer="filter"), callback(), save, enable_checkpointing=True, max_epochs=3)
        spy = Epochs()
        fit(Tuned(optimizer="filter"), callback(), spy, ckpt_path=folder / "epoch=2.ckpt", max_epochs=4)
        trained[callback] = len(spy.trained[0])
    assert trained == {Theirs: 2, ours: 10}


@RESUMED
@pytest.mark.parametrize("saved", [0, 1, 2])
def test_8502_and_6891_the_groups_of_a_checkpoint_fit(saved: int, tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    options = {"layer_decay": 0.5, "warmup_epochs": 1}
    fit(Tuned(optimizer="filter"), ours(**options), save, enable_checkpointing=True)
    module, spy = Tuned(optimizer="filter"), Epochs()
    trainer = fit(module, ours(**options), spy, ckpt_path=tmp_path / f"epoch={saved}.ckpt")
    assert [len(names) for names in spy.trained] == [2, 10, 10, 10][saved + 1 :]
    assert in_optimizer(trainer) == 10


def test_14674_the_finder_of_a_learning_rate(tmp_path: Path) -> None:
    module, spy = Tuned(optimizer="filter"), Epochs()
    finder = LearningRateFinder(num_training_steps=25, early_stop_threshold=None)
    trainer = L.Trainer(**QUIET, max_epochs=3, callbacks=[finder, ours(), spy], default_root_dir=tmp_path)
    trainer.fit(module, datamodule=Data(batch_size=4))
    assert [len(names) for names in spy.trained] == [2, 10, 10]
    assert {rate for rates in spy.rates for rate in rates} == {module.lr}


def test_8720_plateau_when_something_thaws() -> None:
    def plateau(optimizer: Optimizer) -> Any:
        return lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=9.0, min_lr=[0.0] * len(optimizer.param_groups)
        )

    with pytest.raises(RuntimeError, match="number of param groups"):
        fit(Tuned(optimizer="filter", scheduler=plateau), Theirs())
    spy = Epochs()
    fit(Tuned(optimizer="filter", scheduler=plateau), ours(layer_decay=0.5), spy)
    assert [rates[-1] for rates in spy.rates] == [0.05, 0.025, 0.0125, 0.00625]
    assert all(rates == [rates[-1] / 4, rates[-1] / 2, rates[-1]] for rates in spy.rates)


def test_a_head_of_another_size_is_no_error() -> None:
    weights = {**source(), "head.weight": torch.zeros(3, 8), "head.bias": torch.zeros(3)}
    with pytest.raises(RuntimeError, match="size mismatch"):
        Tuned().load_state_dict(weights, strict=False)
    transfer = TransferLearning(weights, freeze="backbone")
    fit(Tuned(), transfer, max_epochs=1)
    assert transfer.report is not None and transfer.report.names("skipped") == ["head.weight", "head.bias"]
