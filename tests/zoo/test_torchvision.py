"""Models of torchvision as they are, without weights; and into those of timm, whose names are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo_nets import CLASSES, Wrapped, blocks, fit, images, moved, weights

from lightning_autoarch import ChannelPruning, MagnitudePruning, OneShot, TransferLearning
from lightning_autoarch.transfer.transfer_weights import transfer_weights

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed: the extra `zoo` has it")


def resnet() -> nn.Module:
    models = torchvision.models.resnet
    return models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES, width_per_group=64)


def vit(**options: Any) -> nn.Module:
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64, "num_classes": CLASSES}
    return torchvision.models.VisionTransformer(**{"image_size": 16, "patch_size": 4, **sizes, **options})


def mobilenet() -> nn.Module:
    setting = [[1, 8, 1, 1], [4, 16, 2, 2]]
    return torchvision.models.MobileNetV2(num_classes=CLASSES, width_mult=0.5, inverted_residual_setting=setting)


MODELS: dict[str, tuple[Any, Tensor, str]] = {
    "resnet": (resnet, images(), "fc"),
    "vit": (vit, images(), "heads"),
    "mobilenet": (mobilenet, images(), "classifier"),
}


def test_another_image_size() -> None:
    module = Wrapped(vit(image_size=24, num_classes=3), images(24))
    assert transfer_weights(module, vit()).counts == {"loaded": 29, "interpolated": 1, "skipped": 2}


def test_into_a_resnet_of_timm() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed: the extra `zoo` has it")
    source, module = (
        torchvision.models.resnet18(num_classes=CLASSES),
        timm.create_model("resnet18", num_classes=CLASSES),
    )
    transfer_weights(module, source)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(images(32)), source.eval()(images(32)))


def test_blocks_are_the_layers() -> None:
    stem, *layers, head = blocks(vit(), 3)
    assert stem == ["class_token", "conv_proj.bias", "conv_proj.weight", "encoder.pos_embedding"]
    last = ["encoder.layers.encoder_layer_1", "encoder.ln.bias", "encoder.ln.weight"]
    assert layers == [["encoder.layers.encoder_layer_0"], last] and head == ["heads.head.bias", "heads.head.weight"]


@pytest.mark.parametrize("strategy", ["linear_probe", "gradual"])
@pytest.mark.parametrize("name", MODELS)
def test_strategies(name: str, strategy: Any) -> None:
    make, x, head = MODELS[name]
    module, start = Wrapped(make(), x), weights(make())
    fit(module, x, TransferLearning(start, strategy=strategy, layer_decay=0.9))
    below = {path for path in moved(module.model, start) if not path.startswith(head)}
    assert bool(below) == (strategy == "gradual")


@pytest.mark.parametrize("name", ["vit", "mobilenet"])
def test_pruned(name: str) -> None:
    make, x, _ = MODELS[name]
    module = Wrapped(make(), x)
    before = sum(p.numel() for p in module.parameters())
    fit(module, x, ChannelPruning(0.5), MagnitudePruning(OneShot(0.8)), max_epochs=1)
    matrices = [p for p in module.parameters() if p.dim() > 1 and min(p.shape[:2]) > 1]
    assert sum(p.numel() for p in module.parameters()) < 0.7 * before
    assert sum(int((p == 0).sum()) for p in matrices) > 0.7 * sum(p.numel() for p in matrices)
