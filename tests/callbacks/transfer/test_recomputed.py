"""Blocks under reentrant activation checkpointing: what is thawed learns, or an error says why it would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.checkpoint import checkpoint
from transfer_nets import Tuned, fit, grouped

from lightning_autoarch.callbacks.transfer import recomputed
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import TransferError

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x).relu_()


class Recomputing(Tuned):
    def __init__(self, reentrant: bool = True) -> None:
        L.LightningModule.__init__(self)
        torch.manual_seed(0)
        self.lr, self.chosen, self.scheduler, self.reentrant = 0.05, "filter", None, reentrant
        self.stem = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


class Gradients(L.Callback):
    """Of the first step of each epoch: how many tensors require a gradient, and how many have one."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, int]] = {}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        own = list(pl_module.parameters())
        counts = sum(p.requires_grad for p in own), sum(p.grad is not None for p in own)
        self.seen.setdefault(trainer.current_epoch, counts)


@pytest.mark.parametrize(("strategy", "counts"), [("gradual", [4, 6, 8, 10]), ("lp_ft", [2, 2, 10, 10])])
def test_what_thaws_has_gradients_and_they_are_the_usual_ones(strategy: Any, counts: list[int]) -> None:
    modules = []
    for reentrant in (True, False):
        module, spy = Recomputing(reentrant), Gradients()
        fit(module, TransferLearning(Recomputing().state_dict(), strategy=strategy), spy)
        assert [spy.seen[epoch] for epoch in range(4)] == [(n, n) for n in counts]
        assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
        modules.append(module)
    torch.testing.assert_close(dict(modules[0].state_dict()), dict(modules[1].state_dict()))


@pytest.mark.parametrize("options", [{"every": 2, "unit": "step"}, {"monitor": "val_loss", "patience": 1,
                                                                         "min_delta": 99.0}])  # fmt: skip
def test_what_thaws_by_step_or_metric_has_gradients(options: dict[str, Any]) -> None:
    modules = []
    for reentrant in (True, False):
        module, spy = Recomputing(reentrant), Gradients()
        fit(
            module,
            TransferLearning(Recomputing().state_dict(), strategy="gradual", **grouped(options)),
            spy,
            max_epochs=6,
        )
        assert spy.seen[5] == (10, 10) and all(required == had for required, had in spy.seen.values())
        modules.append(module)
    torch.testing.assert_close(dict(modules[0].state_dict()), dict(modules[1].state_dict()))


@pytest.mark.parametrize("reentrant", [True, False])
def test_frozen_below(reentrant: bool) -> None:
    spy = Gradients()
    fit(Recomputing(reentrant), TransferLearning(freeze="stem"), spy, max_epochs=1)
    assert spy.seen == {0: (8, 8)}


def test_one_that_nobody_could_see_coming() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recomputed, "NAMES", set())
        with pytest.raises(TransferError, match=r"`blocks.0.inner.weight` is trained, but would get no gradient"):
            fit(Recomputing(), TransferLearning(freeze="stem"))


def test_nothing_is_watched_where_nothing_is_frozen() -> None:
    class Hooks(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            assert not any(layer._forward_pre_hooks for layer in pl_module.modules())

    fit(Recomputing(), TransferLearning(), Hooks(), max_epochs=1)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
def test_a_resumed_fit_knows_it(tmp_path: Path) -> None:
    save, spy = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1), Gradients()
    transfer = TransferLearning(Recomputing().state_dict(), strategy="gradual")
    fit(Recomputing(), transfer, save, enable_checkpointing=True)
    module = Recomputing()
    fit(module, TransferLearning(strategy="gradual"), spy, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert spy.seen == {2: (8, 8), 3: (10, 10)}
