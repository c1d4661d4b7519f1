"""A name that goes in by `**kwargs`, is saved, and is used by nothing."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import pytest
from torch import nn

from lightning_autoarch.training.module import ModuleBuilder

DRAWS: list[dict[str, Any]] = [{"width": 152, "lr": 0.5}]


class Base(L.LightningModule):
    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(3, width)


class Swallowing(Base):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.save_hyperparameters()

    def learning_rate(self) -> float:
        return self.hparams.lr


class Passing(Base):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters()

    def learning_rate(self) -> float:
        return self.hparams["lr"]


class Keeping(Base):
    """What is kept as an attribute may be read by anything."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.options = kwargs


class HandingAll(Base):
    """A function outside of the class gets all hyperparameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.save_hyperparameters()

    def configure_optimizers(self) -> Any:
        return dict(**self.hparams)


def check(module: L.LightningModule) -> None:
    ModuleBuilder.of(module, None).check_taken(module, DRAWS)


def test_a_name_that_is_swallowed_is_named() -> None:
    with pytest.warns(UserWarning, match=r"`width` of the space: Swallowing takes it by") as told:
        check(Swallowing())
    assert len(told) == 1  # and `lr`, which a method reads, is none


@pytest.mark.parametrize("kind", [Base, Passing, Keeping, HandingAll])
def test_no_word_where_it_is_or_may_be_used(kind: type[L.LightningModule]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(kind())


def test_no_word_where_the_source_is_not_known() -> None:
    made: dict[str, Any] = {"Base": Base, "__name__": "typed_in"}
    exec("class Typed(Base):\n    def __init__(self, **kwargs):\n        super().__init__()\n"
         "        self.save_hyperparameters()", made)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(made["Typed"]())
