"""Models of timm as they are, without weights: checkpoints as its scripts write them, other heads, inputs and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from zoo_nets import CLASSES, Wrapped, blocks, fit, images, moved, weights

from lightning_autoarch import ChannelPruning, MagnitudePruning, OneShot, TransferLearning
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.transfer_weights import transfer_weights

timm = pytest.importorskip("timm", reason="timm is not installed: the extra `zoo` has it")


def vit(**options: Any) -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    return timm.create_model("vit_tiny_patch16_224", **{**sizes, **options})


def resnet(**options: Any) -> nn.Module:
    return timm.create_model("resnet10t", **{"num_classes": CLASSES, "channels": (8, 16, 32, 64), **options})


def convnext(**options: Any) -> nn.Module:
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64), "num_classes": CLASSES}
    return timm.create_model("convnext_atto", **{**sizes, **options})


MODELS: dict[str, tuple[Any, Tensor, str]] = {  # with the name of the head
    "vit": (vit, images(), "head"),
    "resnet": (resnet, images(32), "fc"),
    "convnext": (convnext, images(32), "head.fc"),
}


class Backbone(L.LightningModule):
    """A net without its head, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = resnet(num_classes=0, in_chans=4), nn.Linear(64, 3)


class TestSaved:
    def test_a_checkpoint_of_its_training_script(self, tmp_path: Path) -> None:
        source = vit()
        average = {name: tensor + 1 for name, tensor in source.state_dict().items()}
        kept = {"epoch": 3, "arch": "vit", "state_dict": source.state_dict(), "state_dict_ema": average}
        torch.save(kept, file := tmp_path / "model_best.pth.tar")
        module = Wrapped(vit(img_size=24, in_chans=1, num_classes=3), images(24, 1))
        report = transfer_weights(module, file)
        assert report.counts == {"loaded": 28, "interpolated": 2, "skipped": 2}
        assert set(report.names("skipped")) == {"model.head.weight", "model.head.bias"}
        assert torch.equal(read_checkpoint(file, weights="average")["norm.bias"], source.norm.bias + 1)

    def test_a_bare_backbone_into_a_part_of_a_module(self, tmp_path: Path) -> None:
        safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
        safetensors.save_file(weights(resnet(num_classes=0)), tmp_path / "model.safetensors")
        report = transfer_weights(Backbone(), tmp_path / "model.safetensors")
        assert report.counts == {"loaded": 89, "interpolated": 1, "missing": 2}
        assert report.names("interpolated") == ["backbone.conv1.0.weight"]

    @pytest.mark.parametrize(
        ("make", "options", "x"),
        [
            (vit, {"embed_dim": 64, "num_heads": 4}, images()),
            (vit, {"depth": 4}, images()),
            (resnet, {"channels": (16, 32, 64, 128)}, images(32)),
        ],
    )
    def test_larger_it_computes_the_same(self, make: Any, options: dict[str, Any], x: Tensor) -> None:
        source, module = make().eval(), make(**options).eval()
        transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=x))
        with torch.no_grad():
            torch.testing.assert_close(module(x), source(x), rtol=1e-4, atol=1e-5)

    def test_relative_positions_of_another_window(self) -> None:
        sizes: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "num_classes": CLASSES}
        name = "swin_tiny_patch4_window7_224"
        source = timm.create_model(name, img_size=56, window_size=7, **sizes)
        module = timm.create_model(name, img_size=64, window_size=8, **sizes)
        assert transfer_weights(module, source).counts == {"loaded": 35, "interpolated": 2}


class TestFineTuned:
    def test_blocks_are_the_layers(self) -> None:
        first, *rest = blocks(vit(), 2)
        assert first == ["cls_token", "patch_embed.proj", "pos_embed"]
        assert rest == [["blocks.0"], ["blocks.1", "norm.bias", "norm.weight"], ["head.bias", "head.weight"]]
        stages = [[f"layer{i}.0"] for i in range(1, 5)]
        assert blocks(resnet(), 2)[-5:] == [*stages, ["fc.bias", "fc.weight"]]

    @pytest.mark.parametrize("strategy", ["full", "linear_probe", "gradual", "lora"])
    @pytest.mark.parametrize("name", MODELS)
    def test_strategies(self, name: str, strategy: Any) -> None:
        make, x, head = MODELS[name]
        options: dict[str, Any] = {}
        if strategy == "lora":
            pytest.importorskip("peft", reason="peft is not installed: the extra `lora` has it")
            options = {} if name == "vit" else {"lora": {"r": 2, "target_modules": ["conv2", "mlp.fc1"]}}
        module, start = Wrapped(make(), x), weights(make())
        fit(module, x, TransferLearning(start, strategy=strategy, reinit=[f"model.{head}"], **options))
        if strategy == "lora":
            assert any("lora_" in path for path, _ in module.named_parameters())
        else:
            below = {path for path in moved(module.model, start) if not path.startswith((head, "head.norm"))}
            assert bool(below) == (strategy != "linear_probe")


class TestPruned:
    @pytest.mark.parametrize("name", MODELS)
    def test_weights(self, name: str) -> None:
        make, x, _ = MODELS[name]
        module = Wrapped(make(), x)
        fit(module, x, MagnitudePruning(OneShot(0.8)), max_epochs=1)
        matrices = [p for p in module.parameters() if p.dim() > 1 and min(p.shape[:2]) > 1]
        assert sum(int((p == 0).sum()) for p in matrices) > 0.7 * sum(p.numel() for p in matrices)

    @pytest.mark.parametrize("name", ["resnet", "convnext"])
    def test_channels(self, name: str) -> None:
        make, x, _ = MODELS[name]
        module = Wrapped(make(), x)
        before = sum(p.numel() for p in module.parameters())
        fit(module, x, ChannelPruning(0.5), max_epochs=1)
        assert sum(p.numel() for p in module.parameters()) < 0.7 * before
