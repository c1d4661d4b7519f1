"""Adapters by `peft`, where it is installed; and a clear word where it is not."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn
from transfer_nets import Epochs, Tuned, fit, moved, source

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.callbacks.transfer.lora import merge_lora
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.transfer_weights import transfer_weights


def test_peft_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    module = Tuned()
    with pytest.raises(TransferError, match=r'`pip install "lightning-autoarch\[lora\]"`'):
        fit(module, TransferLearning(source(), strategy="lora"))
    assert moved(module, Tuned().state_dict()) == set()


class TestWithPeft:
    @pytest.fixture(autouse=True)
    def peft(self) -> Any:
        return pytest.importorskip("peft", reason="peft is not installed")

    def test_adapters_and_the_head_are_trained(self) -> None:
        module, spy = Tuned(optimizer="filter"), Epochs()
        fit(module, TransferLearning(source(), strategy="lora", lora={"r": 2}), spy, max_epochs=3)
        assert len(spy.trained[0]) == 2 * 2 + 2 and spy.in_train == [[]] * 3
        assert all("lora_" in name or name.startswith("head.") for name in spy.trained[0])
        own = [*module.named_parameters(), *module.named_buffers()]
        base = {name.replace(".base_layer", ""): t for name, t in own if "lora_" not in name}
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

    @pytest.mark.parametrize(
        ("lora", "message"),
        [
            ({"rank": 2}, "`lora` as options of `peft.LoraConfig`, got .*rank"),
            ({"r": 0}, "`r` of `lora` to be an int >= 1, got 0"),
            ({"target_modules": ["trunk"]}, "`target_modules` of `lora` to name layers of the module"),
            ({"target_modules": None}, "`target_modules` of `lora` as names of layers, got None"),
        ],
    )
    def test_wrong_options_change_nothing(self, lora: dict[str, Any], message: str) -> None:
        module = Tuned()
        with pytest.raises(TransferError, match=message):
            fit(module, TransferLearning(source(), strategy="lora", lora=lora))
        assert moved(module, Tuned().state_dict()) == set()

    def test_what_only_peft_finds_wrong(self) -> None:
        with pytest.raises(
            TransferError, match=r"peft could not put adapters into Tuned: .*BatchNorm1d.* is not supported"
        ):
            fit(Tuned(), TransferLearning(source(), strategy="lora", lora={"target_modules": ["backbone.1"]}))

    def test_nothing_to_adapt(self) -> None:
        class Fused(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        with pytest.raises(TransferError, match="a linear layer outside of the head"):
            fit(Fused(), TransferLearning(strategy="lora"))

    def test_layers_that_are_named_where_no_linear_one_is(self) -> None:
        class Convolution(Tuned):
            def __init__(self) -> None:
                super().__init__(optimizer="filter")
                self.backbone = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 1), nn.Flatten())

        module = Convolution()
        fit(module, TransferLearning(strategy="lora", lora={"r": 2, "target_modules": ["backbone.1"]}))
        merge_lora(module)
        assert type(module.backbone[1]) is nn.Conv1d

    def test_conv1d_of_transformers_is_a_linear_layer(self) -> None:
        class Turned(Tuned):
            def __init__(self) -> None:
                super().__init__(optimizer="filter")
                self.backbone = Conv1D(8, 4)  # of 4 inputs 8

        from transformers.pytorch_utils import Conv1D

        module, x = Turned(), torch.randn(8, 4)
        before = module.backbone.weight.clone()
        fit(module, TransferLearning(strategy="lora", lora={"r": 2}))
        expected = module.eval()(x)
        merge_lora(module)
        torch.testing.assert_close(module(x), expected)
        assert not torch.equal(module.backbone.weight, before)


class TestCheckpoints:
    """They hold the plain module, and the way back to the adapters."""

    @pytest.fixture(autouse=True)
    def peft(self) -> Any:
        return pytest.importorskip("peft", reason="peft is not installed")

    def run(self, folder: Path, *callbacks: Any, **options: Any) -> tuple[Tuned, TransferLearning]:
        module, transfer = Tuned(optimizer="filter"), TransferLearning(source(), strategy="lora", lora={"r": 2})
        save = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_weights_only=options.pop("bare", False))
        fit(module, transfer, *callbacks, save, enable_checkpointing=True, **options)
        return module, transfer

    @pytest.mark.parametrize("bare", [False, True])
    def test_the_plain_module_loads_them(self, bare: bool, tmp_path: Path) -> None:
        module, _ = self.run(tmp_path, max_epochs=2, bare=bare)
        file, x = tmp_path / "epoch=1.ckpt", torch.randn(8, 4)
        held = torch.load(file, weights_only=True)
        assert list(held["state_dict"]) == list(source())
        plain = Tuned.load_from_checkpoint(file)
        torch.testing.assert_close(plain.eval()(x), module.eval()(x))
        taken = Tuned()
        assert transfer_weights(taken, file, on_mismatch="error").share == 1
        assert torch.equal(taken.eval()(x), plain(x))
        assert "backbone.0.weight" in moved(plain, source())

    def test_so_does_one_that_is_saved_after_the_fit(self, tmp_path: Path) -> None:
        module, transfer = Tuned(optimizer="filter"), TransferLearning(source(), strategy="lora", lora={"r": 2})
        trainer = fit(module, transfer, max_epochs=1)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        merge_lora(module)
        plain = Tuned.load_from_checkpoint(tmp_path / "end.ckpt")
        torch.testing.assert_close(dict(plain.state_dict()), dict(module.state_dict()))
        assert not module._state_dict_hooks and not module._load_state_dict_pre_hooks

    def test_what_is_saved_and_loaded_computes_the_same(self) -> None:
        module = Tuned(optimizer="filter")
        fit(module, TransferLearning(source(), strategy="lora", lora={"r": 2}), max_epochs=1)
        x = torch.randn(8, 4)
        expected = module.eval()(x)
        module.load_state_dict(module.state_dict())
        torch.testing.assert_close(module(x), expected)

    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
    @pytest.mark.filterwarnings("ignore:Checkpoint directory")
    def test_averages_resume_bit_for_bit(self, tmp_path: Path) -> None:
        def average() -> EMAWeightAveraging:
            return EMAWeightAveraging(decay=0.5)

        expected, _ = self.run(tmp_path, average(), max_epochs=3)
        (tmp_path / "epoch=0.ckpt").rename(tmp_path / "first.ckpt")
        module, _ = self.run(tmp_path, average(), max_epochs=3, ckpt_path=tmp_path / "first.ckpt")
        torch.testing.assert_close(dict(module.named_parameters()), dict(expected.named_parameters()), rtol=0, atol=0)
        plain = Tuned.load_from_checkpoint(tmp_path / "epoch=2.ckpt")  # of the average, as Lightning has it
        merge_lora(expected)
        torch.testing.assert_close(dict(plain.state_dict()), dict(expected.state_dict()))

    def test_an_average_that_would_have_no_adapters(self, tmp_path: Path) -> None:
        transfer = TransferLearning(source(), strategy="lora", lora={"r": 2})
        with pytest.raises(TransferError, match=r'`strategy="lora"` before EMAWeightAveraging among the callbacks'):
            fit(Tuned(), EMAWeightAveraging(), transfer)

    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
    def test_other_adapters_are_refused(self, tmp_path: Path) -> None:
        self.run(tmp_path, max_epochs=1)
        with pytest.raises(TransferError, match="adapters of the checkpoint that is resumed, got others"):
            fit(
                Tuned(optimizer="filter"), TransferLearning(strategy="lora", lora={"r": 3}),
                ckpt_path=tmp_path / "epoch=0.ckpt",
            )  # fmt: skip
