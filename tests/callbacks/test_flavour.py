"""A Trainer of `pytorch_lightning`, which knows nothing of the classes of `lightning.pytorch`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
import nets
import pytest

from lightning_autoarch import (
    ArchitectureSearch,
    AutoArchError,
    ChannelPruning,
    ConstantSparsity,
    Distillation,
    GroupLasso,
    Int,
    L1Regularization,
    L2Regularization,
    MagnitudePruning,
    RigL,
    SemiStructuredPruning,
    TransferLearning,
)


class Trainer:
    """As far as callbacks ask before they look at its class."""

    __module__ = "pytorch_lightning.trainer.trainer"
    callbacks: tuple[Any, ...] = ()
    strategy: Any = None
    world_size = 1


WHAT = r"expected a Trainer of `lightning.pytorch`, got pytorch_lightning.trainer.trainer.Trainer. .*import lightning "


@pytest.mark.parametrize(
    "callback",
    [
        ArchitectureSearch({"width": Int(2, 8)}, monitor="val_loss"),
        MagnitudePruning(ConstantSparsity(0.5)),
        SemiStructuredPruning(),
        RigL(0.5),
        ChannelPruning(0.5),
        ChannelPruning(0.5, at=1.0),
        L1Regularization(0.1),
        L2Regularization(0.1),
        GroupLasso(0.1),
        Distillation(),
        TransferLearning({}),
        TransferLearning(strategy="gradual"),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_every_callback_names_the_two_packages(callback: L.Callback) -> None:
    with pytest.raises(AutoArchError, match=f"^{type(callback).__name__} {WHAT}"):
        callback.setup(Trainer(), nets.Net(), "fit")  # type: ignore[arg-type]


def test_a_validation_before_fine_tuning_names_them_too() -> None:
    with pytest.raises(AutoArchError, match=f"^TransferLearning {WHAT}"):
        TransferLearning({}).take_over(Trainer(), nets.Net())  # type: ignore[arg-type]


def test_a_module_of_the_other_package_is_named() -> None:
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    with pytest.raises(AutoArchError, match=r"expected a module of `lightning.pytorch`, got types.SimpleNamespace"):
        ChannelPruning(0.5, at=1.0).setup(trainer, SimpleNamespace(), "fit")  # type: ignore[arg-type]
