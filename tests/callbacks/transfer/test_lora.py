"""Adapters by `peft`, where it is installed; and a clear word where it is not."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from transfer_nets import Epochs, Tuned, fit, moved, source

from lightning_autoarch.callbacks.transfer import TransferLearning, merge_lora
from lightning_autoarch.errors import TransferError


def test_peft_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TransferError, match=r'`pip install "lightning-autoarch\[lora\]"`'):
        fit(Tuned(), TransferLearning(source(), strategy="lora"))


class TestWithPeft:
    @pytest.fixture(autouse=True)
    def peft(self) -> Any:
        return pytest.importorskip("peft", reason="peft is not installed")

    def test_adapters_and_the_head_are_trained(self) -> None:
        module, spy = Tuned(optimizer="filter"), Epochs()
        fit(module, TransferLearning(source(), strategy="lora", lora={"r": 2}), spy, max_epochs=3)
        assert len(spy.trained[0]) == 2 * 2 + 2 and spy.in_train == [[]] * 3
        assert all("lora_" in name or name.startswith("head.") for name in spy.trained[0])
        base = {name.replace(".base_layer", ""): t for name, t in module.state_dict().items() if "lora_" not in name}
        assert {name for name in base if not torch.equal(base[name], source()[name])} == {"head.weight", "head.bias"}

    def test_merged_it_is_a_plain_module(self) -> None:
        module, x = Tuned(optimizer="filter"), torch.randn(8, 4)
        fit(module, TransferLearning(source(), strategy="lora", lora={"r": 2}))
        expected = module.eval()(x)
        merge_lora(module)
        torch.testing.assert_close(module(x), expected)
        assert list(module.state_dict()) == list(source())
        assert {"backbone.0.weight", "backbone.3.weight", "head.weight"} <= moved(module, source())
        assert all(p.requires_grad for p in (module.backbone[0].weight, module.head.weight))

    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
    def test_it_resumes(self, tmp_path: Path) -> None:
        def run(seed: int, *callbacks: Any, **options: Any) -> Tuned:
            torch.manual_seed(seed)
            module = Tuned(optimizer="filter", seed=seed)
            transfer = TransferLearning(source(), strategy="lora", lora={"r": 2}, layer_decay=0.5)
            fit(module, transfer, *callbacks, **options)
            return module

        save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        expected = run(0, save, enable_checkpointing=True)
        module = run(3, ckpt_path=tmp_path / "epoch=1.ckpt")
        torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=0, atol=0)

    def test_a_second_fit_adapts_no_adapter(self) -> None:
        module, transfer = Tuned(optimizer="filter"), TransferLearning(source(), strategy="lora", lora={"r": 2})
        fit(module, transfer, max_epochs=1)
        names = list(module.state_dict())
        fit(module, transfer, max_epochs=1)
        assert list(module.state_dict()) == names

    def test_nothing_to_adapt(self) -> None:
        class Fused(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        with pytest.raises(TransferError, match="a linear layer outside of the head"):
            fit(Fused(), TransferLearning(strategy="lora"))

    def test_layers_that_are_named_need_not_be_linear(self) -> None:
        class Convolutions(Tuned):
            def __init__(self) -> None:
                super().__init__()
                shapes = [nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Flatten()]
                self.backbone, self.head = nn.Sequential(*shapes), nn.Linear(16, 1)

        module, spy = Convolutions(), Epochs()
        options = {"r": 2, "target_modules": ["backbone.1"]}
        fit(module, TransferLearning(strategy="lora", lora=options), spy, max_epochs=1)
        assert len(spy.trained[0]) == 2 + 2
        assert sum("backbone.1.lora_" in name for name in spy.trained[0]) == 2
