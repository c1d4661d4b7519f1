"""Defects of loading: `load_state_dict`, which takes all of a tensor or raises, and timm, which adapts two layers."""

from __future__ import annotations

import argparse
import logging
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from conformance import Defect, Seen
from harness import Skip
from torch import Tensor, nn
from transfer_defects import Net

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_report import TransferReport
from lightning_autoarch.transfer.transfer_weights import transfer_weights

CLASSES = {4: 0, 1: 1}  # of the old output layer and of the new one: the new task knows two of the old classes


class Eyes(nn.Module):
    """A convolution, a norm, a head."""

    def __init__(self, channels: int, classes: int = 5) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:  # (n, channels, h, w) -> (n, classes)
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class Settings:
    """What a user's hyperparameters may be: an object of the user's own class."""

    width = 8


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def timm_loads(module: nn.Module, source: Mapping[str, Tensor], channels: int, classes: int) -> Any:
    """As timm's `create_model(pretrained=True)` does: `channels` and `classes` are the source's."""
    try:
        from timm.models._builder import load_pretrained
    except (ImportError, RuntimeError) as error:  # RuntimeError: its torchvision is of another build of torch
        raise Skip(f"timm cannot be imported ({error})") from error
    logging.getLogger("timm").setLevel(logging.ERROR)
    about = {"first_conv": "conv", "classifier": "head", "input_size": (channels, 8, 8), "num_classes": classes}
    own = module.head.out_features, module.conv.in_channels
    return load_pretrained(module, {**about, "state_dict": dict(source)}, num_classes=own[0], in_chans=own[1])


def size_of_peer() -> Seen:
    module = Net()
    module.load_state_dict(weights(Net(classes=7)), strict=False)
    return Seen("loads the other tensors", True)


def size_of_ours() -> Seen:
    report = transfer_weights(Net(), weights(Net(classes=7)))
    skipped = report.names("skipped")
    return Seen(f"loads {report.counts['loaded']} tensors, skips {', '.join(skipped)}", len(skipped) == 2)


def told_of(names: set[str], module: nn.Module) -> Seen:
    """Right if of every tensor, of the module and of the source, is said what became of it."""
    all_names = {*module.state_dict(), "extra"}
    return Seen(f"says it of {len(names)} of {len(all_names)} tensors", names == all_names)


def partly(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the head, with something else: what `strict=False` can load."""
    return {"extra": torch.zeros(2), **{k: v for k, v in source.items() if not k.startswith("head")}}


def report_of_peer() -> Seen:
    module = Net()
    said = module.load_state_dict(partly(weights(Net())), strict=False)
    return told_of({*said.missing_keys, *said.unexpected_keys}, module)


def report_of_ours() -> Seen:
    module = Net()
    return told_of({tensor.name for tensor in transfer_weights(module, partly(weights(Net())))}, module)


def half_written(loading: Any) -> Seen:
    """A source whose last tensor does not fit; right if the module is as it was after the error."""
    module = Net()
    before = weights(module)
    source = {name: tensor + 1 for name, tensor in before.items()} | {"head.bias": torch.zeros(7)}
    try:
        loading(module, source)
    except Exception as error:
        changed = sum(not torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
        return Seen(f"{type(error).__name__}, {changed} of {len(before)} tensors are changed", changed == 0)
    return Seen("no error", False)


def half_of_peer() -> Seen:
    return half_written(lambda module, source: module.load_state_dict(source))


def half_of_ours() -> Seen:
    return half_written(lambda module, source: transfer_weights(module, source, on_mismatch="error"))


def same_on_grey(module: Eyes, source: Eyes) -> Seen:
    """Right if images whose channels are equal look to the new net as to the old one."""
    grey = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    old, new = (net.eval()(grey.expand(-1, net.conv.in_channels, -1, -1)) for net in (source, module))
    apart = float((old - new).detach().abs().max() / old.abs().max())
    return Seen(f"outputs on grey images are {apart:.2g} apart", apart < 1e-5)


def channels_of_peer(old: int, new: int) -> Seen:
    source, module = Eyes(old), Eyes(new)
    timm_loads(module, weights(source), old, 5)
    return same_on_grey(module, source)


def channels_of_ours(old: int, new: int) -> Seen:
    source, module = Eyes(old), Eyes(new)
    transfer_weights(module, weights(source))
    return same_on_grey(module, source)


def kept_classes(module: Eyes, source: Eyes) -> Seen:
    kept = sum(torch.equal(source.head.weight[old], module.head.weight[new]) for old, new in CLASSES.items())
    return Seen(f"{kept} of the {len(CLASSES)} known classes keep their row", kept == len(CLASSES))


def classes_of_peer() -> Seen:
    source, module = Eyes(3), Eyes(3, classes=3)
    timm_loads(module, weights(source), 3, 5)
    return kept_classes(module, source)


def classes_of_ours() -> Seen:
    source, module = Eyes(3), Eyes(3, classes=3)
    transfer_weights(module, weights(source), matching=Matching(classes=CLASSES))
    return kept_classes(module, source)


def says_of_peer() -> Seen:
    said = timm_loads(Eyes(3, classes=3), weights(Eyes(3)), 3, 5)
    return Seen(f"returns {said}", said is not None)


def says_of_ours() -> Seen:
    report = transfer_weights(Eyes(3, classes=3), weights(Eyes(3)))
    return Seen(f"returns a {type(report).__name__}: {report.counts}", isinstance(report, TransferReport))


def own_objects(loading: Any) -> Seen:
    """A checkpoint with objects of two classes beside the weights; right if no code of them runs and both are named."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "last.ckpt")
        objects = {"settings": Settings(), "where": argparse.Namespace(path=folder)}
        torch.save({"state_dict": Eyes(3).state_dict(), "hyper_parameters": objects}, path)
        try:
            loading(Eyes(3), path)
        except (CheckpointError, RuntimeError, pickle.UnpicklingError) as error:
            named = [name for name in ("Settings", "Namespace") if name in str(error)]
            return Seen(f"{type(error).__name__}; names {', '.join(named) or 'none'} of the 2 classes", len(named) == 2)
    return Seen("no error", False)


def objects_of_peer() -> Seen:
    try:
        from timm.models import load_checkpoint
    except (ImportError, RuntimeError) as error:
        raise Skip(f"timm cannot be imported ({error})") from error
    return own_objects(lambda module, path: load_checkpoint(module, str(path)))


def objects_of_ours() -> Seen:
    return own_objects(transfer_weights)


TORCH = [
    Defect("`strict=False`, and a head of another size", size_of_peer, size_of_ours),
    Defect("is told what became of each tensor", report_of_peer, report_of_ours),
    Defect("an error leaves the module half written", half_of_peer, half_of_ours),
]
TIMM = [
    Defect("a first convolution of 3 channels for 4", lambda: channels_of_peer(3, 4), lambda: channels_of_ours(3, 4)),
    Defect("a first convolution of 4 channels for 6", lambda: channels_of_peer(4, 6), lambda: channels_of_ours(4, 6)),
    Defect("a first convolution of 4 channels for 2", lambda: channels_of_peer(4, 2), lambda: channels_of_ours(4, 2)),
    Defect("the head is dropped where classes differ", classes_of_peer, classes_of_ours),
    Defect("what became of the tensors is only logged", says_of_peer, says_of_ours),
    Defect("objects that are no tensors in the checkpoint", objects_of_peer, objects_of_ours),
]
