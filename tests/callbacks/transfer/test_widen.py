"""A fit of a wider module starts as what the narrower one was."""

from __future__ import annotations

from typing import Any

import lightning as L
import nets
import pytest
import torch
from torch import Tensor

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.matching import Matching


def net(width: int, example: bool = False) -> nets.Net:
    torch.manual_seed(width)
    module = nets.Net(width, layers=[{"width": width}], dropout=0.0)
    if example:
        module.example_input_array = torch.zeros(2, 4)
    return module


class Outputs(L.Callback):
    """Of the module as training starts."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with torch.no_grad():
            self.outputs = pl_module(inputs())


def inputs() -> Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def fit(tmp_path: Any, module: nets.Net, transfer: TransferLearning) -> Tensor:
    spy = Outputs()
    nets.trainer(tmp_path, transfer, spy, max_epochs=1).fit(module, *nets.loaders())
    return spy.outputs


@pytest.mark.parametrize("where", ["module", "argument"])
def test_the_function_is_kept(tmp_path: Any, where: str) -> None:
    narrow, wide = net(6), net(15, example=where == "module")
    matching = Matching(example_inputs=torch.zeros(2, 4)) if where == "argument" else None
    transfer = TransferLearning(narrow.state_dict(), on_mismatch="widen", matching=matching)
    got = fit(tmp_path, wide, transfer)
    assert torch.allclose(got, narrow(inputs()), atol=1e-5)
    assert transfer.report is not None and transfer.report.share == 1.0
    assert "widened" in transfer.report.counts
    assert not torch.equal(wide(inputs()), got)  # and it was trained


def test_the_argument_comes_first(tmp_path: Any) -> None:
    wide = net(15)
    wide.example_input_array = torch.zeros(2, 7)  # no input of it
    fit(
        tmp_path,
        wide,
        TransferLearning(net(6), on_mismatch="widen", matching=Matching(example_inputs=torch.zeros(2, 4))),
    )


def test_slices_the_same_channels_everywhere(tmp_path: Any) -> None:
    wide = net(6)
    with torch.no_grad():
        wide.net[0].weight[[1, 4]] *= 100  # by norm these are kept
    transfer = TransferLearning(
        wide, on_mismatch="slice", reinit=["net.6"], matching=Matching(example_inputs=torch.zeros(2, 4))
    )
    narrow = nets.Net(2, layers=[{"width": 6}], dropout=0.0)
    kept: list[Tensor] = []

    class Look(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            kept.append(pl_module.net[0].weight.detach().clone())

    nets.trainer(tmp_path, transfer, Look(), max_epochs=1).fit(narrow, *nets.loaders())
    assert torch.equal(kept[0], wide.net[0].weight[[1, 4]])


def test_without_an_input(tmp_path: Any) -> None:
    module = net(15)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(TransferError, match=r"`self.example_input_array`.*Matching\(example_inputs"):
        fit(tmp_path, module, TransferLearning(net(6), on_mismatch="widen"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_no_way_at_all() -> None:
    with pytest.raises(TransferError, match="`on_mismatch` to be one of 'skip', 'slice', 'widen', 'error', got 'wide'"):
        TransferLearning(net(6), on_mismatch="wide")  # type: ignore[arg-type]
