"""Defects of Lightning's ModelPruning: a callback around torch.nn.utils.prune, its masks not in its state."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from conformance import Defect, Seen, quiet
from lightning.pytorch.callbacks import ModelCheckpoint, ModelPruning
from prune_defects import AfterBatch, Net, fit, linear_layers, values, zeros
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.prune.schedule import ConstantSparsity, CubicSparsity, IterativeSparsity, Step

EPOCHS = 4


class AfterEpoch(L.Callback):
    """What the linear layers train with when an epoch starts."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        layers = [layer for layer, _ in linear_layers(pl_module)]
        self.seen.append([getattr(layer, "weight_orig", layer.weight).detach().clone() for layer in layers])


def model_pruning(module: L.LightningModule, amount: float = 0.3, **options: Any) -> ModelPruning:
    options = {"use_lottery_ticket_hypothesis": False, **options}
    return ModelPruning("l1_unstructured", linear_layers(module), amount=amount, **options)


def rewound(distances: list[float]) -> Seen:
    """Right if the weights that are left are the first ones after every round."""
    each = ", ".join(f"{distance:.3f}" for distance in distances)
    return Seen(f"after rounds 1 to {len(distances)} off the first weights by {each}", max(distances) == 0)


def lottery_of_peer() -> Seen:
    module = Net()
    watch = AfterEpoch()
    fit(module, model_pruning(module, use_lottery_ticket_hypothesis=True), watch, max_epochs=EPOCHS)
    first, *later = watch.seen
    return rewound([max(float((a - b).abs().max()) for a, b in zip(first, each, strict=True)) for each in later])


def lottery_of_ours() -> Seen:
    module = Net()
    first = [layer.weight.detach().clone() for layer, _ in linear_layers(module)]
    pruning = MagnitudePruning(IterativeSparsity(0.75, rounds=3, rewind_to="init"))
    at, distances = {12, 24, 36}, []

    def watch(trainer: L.Trainer, own: L.LightningModule) -> None:
        if trainer.global_step in at:
            pairs = zip(values(pruning), first, strict=True)
            distances.append(max(float(((weight - old) * keep).abs().max()) for (weight, keep), old in pairs))

    fit(module, pruning, AfterBatch(watch), max_epochs=EPOCHS)
    return rewound(distances)


class WithMask(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("attention_mask", torch.ones(3))


def saved_with_buffer(module: L.LightningModule, pruning: L.Callback) -> Seen:
    with tempfile.TemporaryDirectory() as folder:
        fit(module, pruning).save_checkpoint(path := Path(folder, "last.ckpt"))
        saved = "attention_mask" in torch.load(path, weights_only=True)["state_dict"]
    return Seen(f"saved, the buffer {'with it' if saved else 'without it'}", saved)


def buffer_of_peer() -> Seen:
    module = WithMask()
    return saved_with_buffer(module, model_pruning(module))


def buffer_of_ours() -> Seen:
    return saved_with_buffer(WithMask(), MagnitudePruning(ConstantSparsity(0.5)))


def resumed(make: Callable[[L.LightningModule], L.Callback]) -> Seen:
    """Gone on with from the checkpoint after half of the epochs, against all of them at once."""
    whole, rest = Net(), Net()
    with tempfile.TemporaryDirectory() as folder:
        saving = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True)
        options = {"max_epochs": EPOCHS, "enable_checkpointing": True, "default_root_dir": folder}
        fit(whole, make(whole), saving, **options)
        fit(rest, make(rest), max_epochs=EPOCHS, ckpt_path=Path(folder, f"epoch={EPOCHS // 2 - 1}.ckpt"))
    pairs = zip(whole.state_dict().values(), rest.state_dict().values(), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    text = f"sparsity {zeros(rest):.2f} of {zeros(whole):.2f} after resuming, weights {'equal' if same else 'differ'}"
    return Seen(text, same)


def resume_of_peer() -> Seen:
    return resumed(model_pruning)


def resume_unmade_of_peer() -> Seen:
    return resumed(lambda module: model_pruning(module, make_pruning_permanent=False))


def resume_of_ours() -> Seen:
    return resumed(lambda module: MagnitudePruning(CubicSparsity(0.77, end=Step(40)), every_n_steps=4))


def second_of_peer() -> Seen:
    module, pruning = Net(), ModelPruning("l1_unstructured", amount=0.3, make_pruning_permanent=False)
    fit(module, pruning)
    fit(module, pruning)
    return Seen(f"sparsity {zeros(module):.2f} after two fits", True)


def second_of_ours() -> Seen:
    module, pruning = Net(), MagnitudePruning(ConstantSparsity(0.5))
    fit(module, pruning)
    first = [mask.digest() for mask in pruning.masks.values()]
    fit(module, pruning)
    same = first == [mask.digest() for mask in pruning.masks.values()]
    return Seen(f"sparsity {zeros(module):.2f} after two fits, masks {'kept' if same else 'new'}", same)


def named(names: list[str]) -> Seen:
    others = [name for name in names if name not in ("net.0.weight", "net.3.weight")]
    return Seen(f"prunes also {', '.join(others)}" if others else f"prunes {', '.join(names)}", not others)


def defaults_of_peer() -> Seen:
    module = Net()
    pruning = ModelPruning("l1_unstructured", amount=0.5, make_pruning_permanent=False)
    fit(module, pruning)
    return named([name.removesuffix("_mask") for name, _ in module.named_buffers() if name.endswith("_mask")])


def defaults_of_ours() -> Seen:
    pruning = MagnitudePruning(ConstantSparsity(0.5))
    fit(Net(), pruning)
    return named(list(pruning.masks))


def changes(module: L.LightningModule, pruning: L.Callback) -> Seen:
    seen = [0.0]
    fit(module, pruning, AfterBatch(lambda _, own: seen.append(zeros(own))))
    count = sum(a != b for a, b in itertools.pairwise(seen))
    return Seen(f"sparsity changes {count} times within an epoch of {len(seen) - 1} steps", count > 1)


def steps_of_peer() -> Seen:
    module = Net()
    return changes(module, model_pruning(module))


def steps_of_ours() -> Seen:
    return changes(Net(), MagnitudePruning(CubicSparsity(0.9, end=1.0), every_n_steps=1))


class Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextlib.contextmanager
def heard(name: str) -> Iterator[list[str]]:
    """What a logger says."""
    logger, messages = logging.getLogger(name), Messages()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(messages)
    try:
        yield messages.texts
    finally:
        logger.removeHandler(messages)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def log_of_peer() -> Seen:
    module = Net(nn.Linear(8, 2))
    with heard("lightning.pytorch.callbacks.pruning") as texts:
        fit(module, ModelPruning("l1_unstructured", amount=0.5, verbose=1, make_pruning_permanent=False))
    told = float(re.findall(r"\(([\d.]+)%\)", texts[-1])[-1]) / 100
    masks = [buffer for name, buffer in module.named_buffers() if name.endswith("_mask")]
    counted = 1 - sum(float(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    return Seen(f"says {told:.3f}, counted {counted:.3f}", abs(told - counted) < 1e-3)


def log_of_ours() -> Seen:
    module = Net(nn.Linear(8, 2))
    told = fit(module, MagnitudePruning(ConstantSparsity(0.5))).callback_metrics["sparsity"].item()
    return Seen(f"says {told:.3f}, counted {zeros(module):.3f}", told == zeros(module))


class OneMore(L.Callback):
    """Draws one random number more on rank 1, as augmentation or dropout on other data does."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.rand(trainer.global_rank)


def random_pruning(kind: str) -> L.Callback:
    if kind == "ours":
        return MagnitudePruning(ConstantSparsity(0.5), criterion="random")
    options: dict[str, Any] = {"make_pruning_permanent": False, "use_lottery_ticket_hypothesis": False}
    return ModelPruning(torch_prune.RandomUnstructured, parameter_names=["weight"], amount=0.5, **options)


def in_one_rank(kind: str, folder: str) -> None:
    """What a process of the fit on two ranks runs: it writes which weights are masked."""
    quiet()
    module, pruning = Net(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 2)), random_pruning(kind)
    trainer = fit(module, OneMore(), pruning, devices=2, strategy="ddp", use_distributed_sampler=False)
    if isinstance(pruning, MagnitudePruning):
        keep = torch.cat([mask.unpack().flatten() for mask in pruning.masks.values()])
    else:
        keep = torch.cat([layer.weight_mask.flatten().bool() for layer, _ in linear_layers(module)])
    Path(folder, f"{trainer.global_rank}.json").write_text(json.dumps(keep.tolist()))


def on_two_ranks(kind: str) -> Seen:
    code = f"import prune_defects_lightning as d; d.in_one_rank({kind!r}, __import__('sys').argv[1])"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "fit.py")  # Lightning starts the second process from the file of the first
        script.write_text(code)
        command = [sys.executable, str(script), folder]
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            return Seen(done.stderr.strip().splitlines()[-1], False)
        first, second = (json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2))
    differ = sum(a != b for a, b in zip(first, second, strict=True))
    return Seen(f"masks differ between two ranks in {differ} of {len(first)} weights", differ == 0)


def ranks_of_peer() -> Seen:
    return on_two_ranks("peer")


def ranks_of_ours() -> Seen:
    return on_two_ranks("ours")


DEFECTS = [
    Defect("lottery rewind works once", lottery_of_peer, lottery_of_ours),
    Defect("a buffer named like a mask crashes saving", buffer_of_peer, buffer_of_ours),
    Defect("resuming loses the masks", resume_of_peer, resume_of_ours),
    Defect("no resume with make_pruning_permanent=False", resume_unmade_of_peer, resume_of_ours),
    Defect("a second fit fails", second_of_peer, second_of_ours),
    Defect("normalisation and biases are pruned by default", defaults_of_peer, defaults_of_ours),
    Defect("prunes between epochs only", steps_of_peer, steps_of_ours),
    Defect("the logged sparsity is wrong", log_of_peer, log_of_ours),
    Defect("random pruning differs between ranks", ranks_of_peer, ranks_of_ours),
]
