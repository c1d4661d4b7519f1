"""`fine_tune`: scores before and after, and how each block was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_autoarch.callbacks.transfer.fine_tune import FineTuned, fine_tune
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.callbacks.transfer.lora import merge_lora
from lightning_autoarch.core.errors import TransferError


def source() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {name: tensor.clone() for name, tensor in nets.Net(8, layers=[{"width": 6}]).state_dict().items()}


def tuned(root: Path, transfer: TransferLearning, epochs: int = 3) -> tuple[FineTuned, Any]:
    module = nets.Net(8, layers=[{"width": 6}])
    trainer = nets.trainer(root, transfer, max_epochs=epochs)
    result = fine_tune(trainer, module, nets.Data())
    assert trainer.callbacks == [transfer]  # nothing of ours is left
    return result, module


def test_before_is_the_score_of_the_source(tmp_path: Path) -> None:
    result, module = tuned(tmp_path, TransferLearning(source()))
    reference = nets.Net(8, layers=[{"width": 6}])
    reference.load_state_dict(source())
    [before] = nets.trainer(tmp_path).validate(reference, nets.Data(), verbose=False)
    [after] = nets.trainer(tmp_path).validate(module, nets.Data(), verbose=False)
    assert result.before == before and result.after == after
    assert result.report is not None and result.report.share == 1.0


def test_is_the_fit_that_it_is_without(tmp_path: Path) -> None:
    class Ordered(nets.Data):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.train, batch_size=16)

    weights = []
    for fit in (fine_tune, lambda trainer, module, data: trainer.fit(module, datamodule=data)):
        module = nets.Net(8, layers=[{"width": 6}], dropout=0.0)
        fit(nets.trainer(tmp_path, TransferLearning(source(), strategy="gradual", layer_decay=0.5)), module, Ordered())
        weights.append([parameter.detach().clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_blocks_from_the_input_to_the_output(tmp_path: Path) -> None:
    result, _ = tuned(tmp_path, TransferLearning(source(), strategy="gradual", layer_decay=0.5, freeze=["net.3.bias"]))
    assert [(b.name, b.parameters, b.frozen, b.epochs) for b in result.blocks] == [
        ("net.0", 40, 0, (2, 2)), ("net.3", 54, 6, (1, 1)), ("net.6", 7, 0, (0, 0)),
    ]  # fmt: skip
    assert [b.rates for b in result.blocks] == [(0.25, 0.25), (0.5, 0.5), (1.0, 1.0)]


def test_a_module_that_comes_with_its_weights(tmp_path: Path) -> None:
    result, _ = tuned(tmp_path, TransferLearning(strategy="linear_probe"))
    assert result.report is None
    assert [b.epochs for b in result.blocks] == [None, None, (0, 0)]


@pytest.mark.parametrize("n", [0, 2])
def test_exactly_one_callback(tmp_path: Path, n: int) -> None:
    trainer = nets.trainer(tmp_path, max_epochs=1)
    trainer.callbacks = [TransferLearning(source()) for _ in range(n)]
    with pytest.raises(TransferError, match=f"one TransferLearning among the Trainer's callbacks, got {n}"):
        fine_tune(trainer, nets.Net(8), nets.Data())


def test_nothing_that_fits(tmp_path: Path) -> None:
    module = nets.Net(8)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = nets.trainer(tmp_path, transfer := TransferLearning({"conv.weight": torch.zeros(3, 3)}))
    with pytest.raises(TransferError):
        fine_tune(trainer, module, nets.Data())
    assert trainer.callbacks == [transfer]
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))


def test_adapters_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra `lora` is not installed")
    result, module = tuned(tmp_path, TransferLearning(source(), strategy="lora", lora={"r": 2}))
    assert list(module.state_dict()) == list(source())
    [after] = nets.trainer(tmp_path).validate(module, nets.Data(), verbose=False)
    assert after["val_loss"] == pytest.approx(result.after["val_loss"], rel=1e-4)
    merge_lora(module)  # there is nothing left to merge
    assert list(module.state_dict()) == list(source())
