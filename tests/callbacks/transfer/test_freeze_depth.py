"""So many blocks from the input on are not trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transfer_nets import Epochs, Tuned, fit, moved, source

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.tune.thawing import Thawing


@pytest.mark.parametrize(("depth", "frozen"), [(0, 0), (1, 4), (2, 8)])
def test_what_stays(depth: int, frozen: int) -> None:
    module, spy = Tuned(), Epochs()
    fit(module, TransferLearning(source(), freeze_depth=depth), spy, max_epochs=2)
    expected = [name for name, _ in module.named_parameters()][frozen:]
    assert spy.trained == [expected] * 2
    norms = ["backbone.1", "backbone.4"][depth:]
    assert spy.in_train == [norms] * 2
    # what is frozen keeps parameters and statistics
    assert all(torch.equal(module.state_dict()[n], source()[n]) for n in list(source())[: {0: 0, 1: 7, 2: 14}[depth]])
    assert {"head.weight", "head.bias"} <= moved(module, source())


def test_norms_without_parameters() -> None:
    class Plain(Tuned):
        def __init__(self) -> None:
            super().__init__()
            self.backbone[1] = nn.BatchNorm1d(8, affine=False)

    module, spy = Plain(), Epochs()
    fit(module, TransferLearning(freeze_depth=1), spy, max_epochs=1)
    assert spy.in_train == [["backbone.4"]]


def test_gradual_thaws_the_rest_at_its_own_pace() -> None:
    spy = Epochs()
    fit(Tuned(), TransferLearning(source(), strategy="gradual", freeze_depth=1), spy, max_epochs=3)
    assert [len(names) for names in spy.trained] == [2, 6, 6]
    fit(Tuned(), TransferLearning(source(), strategy="gradual", freeze_depth=2), spy, max_epochs=1)
    assert len(spy.trained[-1]) == 2


def test_unfreeze_gives_back() -> None:
    spy = Epochs()
    fit(
        Tuned(),
        TransferLearning(source(), freeze_depth=2, thawing=Thawing(unfreeze={1: "backbone.3"})),
        spy,
        max_epochs=2,
    )
    assert [len(names) for names in spy.trained] == [2, 4]


@pytest.mark.parametrize("depth", [-1, True, 1.0, "1", None])
def test_no_number(depth: Any) -> None:
    with pytest.raises(TransferError, match="`freeze_depth` to be an int >= 0"):
        TransferLearning(freeze_depth=depth)


def test_more_than_there_are() -> None:
    module = Tuned()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(TransferError, match=r"`freeze_depth` to be at most 2, the blocks of Tuned below.*, got 3"):
        fit(module, TransferLearning(source(), freeze_depth=3))
    assert moved(module, before) == set()


def test_resumes(tmp_path: Path) -> None:
    trainer = fit(Tuned(), TransferLearning(source(), freeze_depth=1), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "part.ckpt")
    spy, module = Epochs(), Tuned()
    fit(module, TransferLearning(source(), freeze_depth=1), spy, max_epochs=3, ckpt_path=tmp_path / "part.ckpt")
    assert [len(names) for names in spy.trained] == [6]
    whole = Tuned()
    fit(whole, TransferLearning(source(), freeze_depth=1), max_epochs=3)
    assert moved(module, whole.state_dict()) == set()
    with pytest.raises(TransferError, match=r"`freeze_depth=1`, as in the fit that is resumed, got 2"):
        fit(Tuned(), TransferLearning(source(), freeze_depth=2), max_epochs=3, ckpt_path=tmp_path / "part.ckpt")
