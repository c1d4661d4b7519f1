"""Dropout in frozen layers: on as Lightning has it, or off."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from transfer_nets import Tuned, fit

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.tune.thawing import Thawing


class Dropping(Tuned):
    """Dropout behind layers, within one, and as a function of a block's mode."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(4, 8), nn.Dropout(0.5), nn.TransformerEncoderLayer(8, 2, 8, 0.5), nn.Linear(8, 8), nn.Dropout(0.5)
        )
        self.dropped: list[list[bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = []
        for layer in self.backbone:
            a, b = layer(x), layer(x)
            outputs.append(not torch.equal(a, b))
            x = a
        if self.training:
            self.dropped.append(outputs)
        return self.head(x)


class FirstOfEpoch(L.Callback):
    def __init__(self) -> None:
        self.seen: list[list[bool]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Dropping)
        self.seen.append(pl_module.dropped[-1])


@pytest.mark.parametrize(
    ("dropout", "expected"),
    [
        (True, [[False, True, True, False, True]] * 2),
        (False, [[False, False, False, False, True], [False, False, True, False, True]]),
    ],
)
def test_it_is_off_where_it_is_asked(dropout: bool, expected: list[list[bool]]) -> None:
    module, spy = Dropping(), FirstOfEpoch()
    transfer = TransferLearning(
        freeze=["backbone.0", "backbone.2"], frozen_dropout=dropout, thawing=Thawing(unfreeze={1: "backbone.2"})
    )
    fit(module, transfer, spy, max_epochs=2)
    assert spy.seen == expected
    assert all(layer.training for layer in module.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


@pytest.mark.parametrize("value", [0, "off", None])
def test_what_is_none(value: Any) -> None:
    with pytest.raises(TransferError, match="`frozen_dropout` to be True or False"):
        TransferLearning(frozen_dropout=value)
