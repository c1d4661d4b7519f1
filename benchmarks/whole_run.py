"""The whole way on one device: search, transfer, prune. Each stage takes up what one before it made, and is checked.

    python benchmarks/whole_run.py [--device cuda]

    search      a net for the digits 0 to 4 (scikit-learn's), its trials inheriting weights; the winner is trained
    transfer    the winner's checkpoint, a new head, the digits 5 to 9: thawed from the top, one rate a layer
    masks       90 % of its weights go while it trains on; a fit that resumes has the same masks
    2:4         half of each four go, and are handed to torch's sparse kernels (on a GPU from Ampere on)
    channels    half of its FLOPs go in the middle of a fit; the checkpoint loads

This is no measurement: it holds facts (`assert`), and prints them with the seconds. Exit status 1 with the first that
does not hold.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the nets are small

import lightning as L
import torch
from harness import machine
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoarch import (
    ArchitectureSearch,
    ChannelPruning,
    CubicSparsity,
    Int,
    MagnitudePruning,
    Repeat,
    SemiStructuredPruning,
    Step,
    TransferLearning,
    load_pruned,
)
from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.training.sparse_kernels import is_two_of_four, to_semi_structured, why_no_chip

CLASSES = 5  # of each of the two tasks
TRIALS = 4
HIDDEN = 128  # a multiple of what 2:4 kernels need
GOOD = 0.9  # accuracy; a coin of five sides has 0.2


class Net(L.LightningModule):
    """Convolutions with norms, then two linear layers; an ordinary module, whose batches are pairs.

    Args:
        blocks: `{"width": channels}` of each convolution.
        lr: of AdamW.
    """

    def __init__(self, blocks: Any = ({"width": 16}, {"width": 16}), lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        widths = [1, *(block["width"] for block in blocks)]
        self.body = nn.Sequential()
        for i in range(len(blocks)):
            self.body += nn.Sequential(nn.Conv2d(*widths[i : i + 2], 3, padding=1), nn.BatchNorm2d(widths[i + 1]))
            self.body += nn.Sequential(nn.ReLU())
        self.body += nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(16 * widths[-1], HIDDEN), nn.ReLU())
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.example_input_array = torch.zeros(2, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:  # (n, 1, 8, 8) -> (n, 5)
        return self.head(self.hidden(self.body(x)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


class Way:
    """Where it runs, and what one stage leaves for the next."""

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.searched, self.tuned = folder / "searched.ckpt", folder / "tuned.ckpt"
        self.blocks: Any = None

    def fit(
        self, module: L.LightningModule, digits: range, *callbacks: L.Callback, epochs: int, ckpt_path: Any = None
    ) -> L.Trainer:
        train, val = loaders(digits)
        saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        trainer = L.Trainer(
            max_epochs=epochs, accelerator=self.device, devices=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=saves, callbacks=list(callbacks),
            default_root_dir=self.folder, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, train, val, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        assert trainer.strategy.root_device.type == self.device, "it must have run where it was told to"
        return trainer

    def net(self) -> Net:
        return Net(blocks=self.blocks)


def loaders(chosen: range) -> tuple[DataLoader[Any], DataLoader[Any]]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rows = torch.as_tensor([label in chosen for label in y])
    images = torch.as_tensor(x, dtype=torch.float32).div(16).reshape(-1, 1, 8, 8)[rows]
    data = TensorDataset(images, torch.as_tensor(y)[rows] - chosen.start)
    train, val = torch.utils.data.random_split(data, [600, len(data) - 600], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=512)


FIRST, SECOND = range(CLASSES), range(CLASSES, 2 * CLASSES)


def accuracy(trainer: L.Trainer) -> float:
    return float(trainer.callback_metrics["accuracy"])


def good(trainer: L.Trainer) -> str:
    found = accuracy(trainer)
    assert found >= GOOD, f"accuracy {found:.3f}, expected {GOOD}"
    return f"accuracy {found:.3f}"


def search(way: Way) -> str:
    found = ArchitectureSearch(
        {"blocks": Repeat(1, 3, {"width": Int(8, 32, log=True)})}, monitor="accuracy", mode="max", n_trials=TRIALS,
        trial={"trainer": {"max_epochs": 2}, "inherit": "nearest"},
    )  # fmt: skip
    module = Net()
    trainer = way.fit(module, FIRST, found, epochs=6)
    trials = found.optuna_study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * TRIALS, "each trial must have ended well"
    assert found.best_score == max(trial.value for trial in trials)
    assert all(trial.user_attrs["inherited"] > 0 for trial in trials[1:]), "children must have weights of parents"
    way.blocks = found.best_architecture["blocks"]
    assert [m.out_channels for m in module.body if isinstance(m, nn.Conv2d)] == [b["width"] for b in way.blocks]
    trainer.save_checkpoint(way.searched)
    return f"{TRIALS} trials, channels {[block['width'] for block in way.blocks]}, {good(trainer)}"


class Counts(L.Callback):
    """How many parameters train in each epoch."""

    def __init__(self) -> None:
        self.trained: list[int] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trained.append(sum(p.requires_grad for p in pl_module.parameters()))


def transfer(way: Way) -> str:
    tuning = TransferLearning(way.searched, strategy="gradual", layer_decay=0.75, reinit=["head"])
    module, counts = way.net(), Counts()
    trainer = way.fit(module, SECOND, tuning, counts, epochs=8)
    body = sum(p.numel() for name, p in module.named_parameters() if not name.startswith("head"))
    assert tuning.report.taken == body, "all but the head must come from the checkpoint"
    assert counts.trained[0] == 2, "the head alone"
    assert counts.trained[-1] == len(list(module.parameters())), "everything"
    assert counts.trained == sorted(counts.trained)
    trainer.save_checkpoint(way.tuned)
    return f"{tuning.report.share:.0%} taken over, {counts.trained} parameters trained, {good(trainer)}"


def zeros(module: nn.Module, names: Any) -> float:
    weights = [module.get_parameter(name) for name in names]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def tuned(way: Way) -> Net:
    module = way.net()
    module.load_state_dict(torch.load(way.tuned, weights_only=True)["state_dict"])
    return module


def masks(way: Way) -> str:
    def pruning() -> MagnitudePruning:
        return MagnitudePruning(CubicSparsity(0.9, end=Step(30)), every_n_steps=5)

    module, whole = tuned(way), pruning()
    saving = ModelCheckpoint(way.folder / "masks", "{epoch}", save_top_k=-1)
    trainer = way.fit(module, SECOND, whole, saving, epochs=8)
    share = zeros(module, whole.masks)
    assert abs(share - 0.9) < 1e-3, f"{share:.4f} of the weights are 0"
    again, rest = way.net(), pruning()
    way.fit(again, SECOND, rest, epochs=8, ckpt_path=way.folder / "masks" / "epoch=5.ckpt")
    same = [mask.digest() for mask in whole.masks.values()] == [mask.digest() for mask in rest.masks.values()]
    assert same, "a resumed fit must have the same masks"
    assert zeros(again, rest.masks) == share
    return f"{share:.1%} of the weights are 0, resumed with the same masks, {good(trainer)}"


def refusal(module: nn.Module) -> str:
    try:
        to_semi_structured(module, targets="hidden.0")
    except PruneValueError as error:
        return str(error)
    raise AssertionError("without a GPU that has 2:4 kernels it must say so")


def two_of_four(way: Way) -> str:
    module, pruning = tuned(way), SemiStructuredPruning(2, 4, targets="hidden.0")
    trainer = way.fit(module, SECOND, pruning, epochs=3)
    layer = module.hidden[0]
    assert is_two_of_four(layer.weight), "two of each four must be 0"
    said = good(trainer)
    module = module.to(way.device).half().eval()
    if why_no_chip(layer.weight.device):
        return f"2:4 after training, {said}; not handed to torch: {refusal(module)}"
    x = torch.randn(64, 16 * way.blocks[-1]["width"], device=way.device, dtype=torch.float16)
    dense = module.hidden(x)
    assert to_semi_structured(module, targets="hidden.0") == ["hidden.0.weight"]
    apart = float((module.hidden(x) - dense).abs().max() / dense.abs().max())
    assert apart < 1e-2, f"outputs are {apart:.3g} apart"
    return f"2:4 after training, {said}; torch's sparse kernel {apart:.1g} from the dense layer"


def channels(way: Way) -> str:
    module, pruning = tuned(way), ChannelPruning(0.5, of="flops", at=0.5)
    saving = ModelCheckpoint(way.folder / "channels", "last")
    trainer = way.fit(module, SECOND, pruning, saving, epochs=6)
    before, after = pruning.removed.before, pruning.removed.after
    assert after.flops <= 0.5 * before.flops
    assert before.parameters > after.parameters == sum(p.numel() for p in module.parameters())
    small = load_pruned(way.net(), way.folder / "channels" / "last.ckpt").eval()
    x = next(iter(loaders(SECOND)[1]))[0]
    with torch.no_grad():
        apart = float((small(x) - module.cpu().eval()(x)).abs().max())
    assert apart < 1e-4, f"the loaded module is {apart:.3g} from the one that was trained"
    return f"{after.flops / before.flops:.0%} of the FLOPs, {after.parameters:,} parameters, {good(trainer)}, loads"


STAGES: dict[str, Callable[[Way], str]] = {
    "search": search, "transfer": transfer, "masks": masks, "2:4": two_of_four, "channels": channels,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    device = parser.parse_args().device
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)
    print(machine(device))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        way = Way(device, Path(folder))
        for name, stage in STAGES.items():
            start = time.perf_counter()
            said = stage(way)
            print(f"{name:10} {time.perf_counter() - start:6.1f} s   {said}", flush=True)


if __name__ == "__main__":
    main()
