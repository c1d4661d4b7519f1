"""The task that transfer is measured on: a small convolutional net, pretrained on MNIST, for scikit-learn's digits.

Digits are images of 8 x 8 pixels, made by averaging larger bitmaps. MNIST is brought to that size in the same way (its
inner 24 x 24 pixels, averaged in blocks of 3), so that pretraining sees the resolution that counts and costs seconds.
The hands and scanners are others, as they are where one transfers. The head is fresh in every fit: that both have ten
classes is an accident that no contender may use.
"""

from __future__ import annotations

import functools
import itertools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (1, 16, 16, 32, 32)
CLASSES = 10
BATCH, LARGER_BATCH = 32, 64  # the larger one from 500 samples on
POOL = 1000  # of the 1,797 digits; the others are the test set
PRETRAIN_EPOCHS, PRETRAIN_LR, PRETRAIN_BATCH = 3, 2e-3, 128
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip


class Images(NamedTuple):
    x: Tensor  # (n, 1, 8, 8) in [0, 1]
    y: Tensor  # (n,)

    def take(self, rows: Tensor) -> Images:
        return Images(self.x[rows], self.y[rows])


@functools.cache
def mnist(directory: Path) -> tuple[Images, Images]:
    """To train on, and to test on."""
    arrays = np.load(directory / "mnist" / "mnist.npz")

    def part(name: str) -> Images:
        inner = torch.from_numpy(arrays[f"x_{name}"])[:, None, 2:26, 2:26].float() / 255
        return Images(F.avg_pool2d(inner, 3), torch.from_numpy(arrays[f"y_{name}"]).long())

    return part("train"), part("test")


@functools.cache
def digits() -> tuple[Images, Images]:
    """The pool that samples are drawn from, and the test set; the same in every fit."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = Images(torch.as_tensor(x, dtype=torch.float32).div(16).reshape(-1, 1, 8, 8), torch.as_tensor(y).long())
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return images.take(order[:POOL]), images.take(order[POOL:])


def draw(pool: Images, samples: int, seed: int) -> tuple[Images, Images]:
    """As many of each class; and what is left of the pool."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(pool.y), generator=generator)
    chosen = torch.cat([shuffled[pool.y[shuffled] == label][: samples // CLASSES] for label in range(CLASSES)])
    left = torch.ones(len(pool.y), dtype=torch.bool)
    left[chosen] = False
    return pool.take(chosen), pool.take(left.nonzero()[:, 0])


class Batches:
    """Shuffled anew for each epoch, in parts of nearly one size: a norm must not see a batch of a few images."""

    def __init__(self, data: Images, seed: int, batch: int | None = None) -> None:
        self.data, self.generator = data, torch.Generator().manual_seed(seed)
        self.count = -(-len(data.y) // (batch or (BATCH if len(data.y) < 500 else LARGER_BATCH)))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Images]:
        for rows in torch.randperm(len(self.data.y), generator=self.generator).tensor_split(self.count):
            yield self.data.take(rows)


class Classifier(L.LightningModule):
    """How all nets here are trained and scored."""

    def training_step(self, batch: Images, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Images, batch_idx: int) -> None:
        right = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("accuracy", right, batch_size=len(batch[1]))


class Net(Classifier):
    """Four convolutions with norms, and a head; AdamW at a constant learning rate.

    Args:
        lr: of AdamW.
        seed: of the weights.
    """

    def __init__(self, lr: float, seed: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(seed)
        blocks = [block(*pair, pool=i % 2 == 1) for i, pair in enumerate(itertools.pairwise(CHANNELS))]
        self.backbone = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(4 * CHANNELS[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=self.hparams["lr"], fused=True)


def block(inputs: int, outputs: int, *, pool: bool) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class Curve(L.Callback):
    """The validation accuracy after each epoch."""

    def __init__(self) -> None:
        self.accuracies: list[float] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.accuracies.append(float(trainer.callback_metrics["accuracy"]))


def fit(
    module: L.LightningModule,
    train: Batches,
    measured: Images,
    callbacks: list[L.Callback],
    epochs: int,
    every: int = 1,
) -> tuple[L.Trainer, list[float]]:  # the accuracy on `measured` after each epoch, or `every` few
    """Train quietly, in this process, on one thread."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    curve = Curve()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(**QUIET, max_epochs=epochs, check_val_every_n_epoch=every, callbacks=[*callbacks, curve])
        trainer.fit(module, train, Batches(measured, 0, len(measured.y)))
    return trainer, curve.accuracies


def pretrain(directory: Path, path: Path) -> float:  # accuracy on MNIST's test images
    """Train on MNIST and save an ordinary Lightning checkpoint."""
    train, test = mnist(directory)
    module = Net(PRETRAIN_LR, seed=0)
    trainer, accuracies = fit(module, Batches(train, 0, PRETRAIN_BATCH), test, [], PRETRAIN_EPOCHS)
    trainer.save_checkpoint(path)
    return accuracies[-1]
