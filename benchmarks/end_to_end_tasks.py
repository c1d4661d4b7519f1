"""The tasks of search_end_to_end.py: what is trained, on what, and in which conditional space.

Every task is a `Task`: a LightningModule made from an architecture, a datamodule with a batch size, a space. Scores are
accuracies on a validation set; the test set is seen once, by the best net of a run.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoarch import Categorical, Float, Int, Repeat

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}
OPTIMIZERS = {"sgd": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), "adamw": torch.optim.AdamW}
Split = tuple[Tensor, Tensor]

TRAINING: dict[str, Any] = {
    "lr": Float(1e-4, 1e-1, log=True),
    "optimizer": Categorical(["sgd", "adamw"]),
    "data.batch_size": Categorical([16, 32, 64, 128]),
}


@dataclass(frozen=True)
class Splits:
    train: Split
    val: Split
    test: Split


class Data(L.LightningDataModule):
    """A task's splits, in memory, read once in a process."""

    def __init__(self, task: str, folder: str, batch_size: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.splits, self.batch_size = splits_of(task, folder), batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*self.splits.train), self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*self.splits.val), 500)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*self.splits.test), 500)


@functools.cache
def splits_of(task: str, folder: str) -> Splits:
    return TASKS[task].splits(Path(folder))


class Classifier(L.LightningModule):
    """What all nets share: cross-entropy, accuracy, one of two optimizers."""

    net: nn.Module

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def _score(self, batch: Any, name: str) -> None:
        self.log(name, (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), on_epoch=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._score(batch, "val_acc")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._score(batch, "test_acc")

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.hparams["optimizer"]](self.parameters(), self.hparams["lr"])


class ImageNet(Classifier):
    """An optional convolution, then linear layers."""

    def __init__(
        self, size: int = 14, stem: str = "none", channels: int = 8, kernel: int = 3, layers: list[Any] | None = None,
        norm: bool = False, dropout: float = 0.0, lr: float = 1e-2, optimizer: str = "sgd",
    ) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        parts: list[nn.Module] = [nn.Flatten()]
        features = size * size
        if stem == "conv":
            parts = [nn.Conv2d(1, channels, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
            features = channels * (size // 2) ** 2
        for layer in layers or [{"width": 64, "act": "relu"}]:
            parts += [nn.Linear(features, layer["width"]), *([nn.BatchNorm1d(layer["width"])] if norm else [])]
            parts += [ACTIVATIONS[layer["act"]](), nn.Dropout(dropout)]
            features = layer["width"]
        self.net = nn.Sequential(*parts, nn.Linear(features, 10))


IMAGE_SPACE: dict[str, Any] = {
    "stem": Categorical(["none", "conv"]),
    "channels": Int(4, 32, log=True, when={"stem": ["conv"]}),
    "kernel": Categorical([3, 5], when={"stem": ["conv"]}),
    "layers": Repeat(1, 4, {"width": Int(16, 256, log=True), "act": Categorical(["relu", "gelu", "tanh"])}),
    "norm": Categorical([False, True]),
    "dropout": Float(0.0, 0.5),
    **TRAINING,
}


def mnist(folder: Path) -> Splits:
    """4,000 images of MNIST at 14 x 14 to train on, 2,000 to validate, 10,000 to test."""
    with np.load(folder / "mnist" / "mnist.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    images = {name: nn.functional.avg_pool2d(arrays[name][:, None].float() / 255, 2) for name in ("x_train", "x_test")}
    order = torch.randperm(len(images["x_train"]), generator=torch.Generator().manual_seed(0))
    labels = arrays["y_train"].long()
    train, val = order[:4000], order[4000:6000]
    return Splits(
        (images["x_train"][train], labels[train]), (images["x_train"][val], labels[val]),
        (images["x_test"], arrays["y_test"].long()),
    )  # fmt: skip


def digits(folder: Path) -> Splits:
    """The 1,797 digits of scikit-learn, 8 x 8."""
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 16
    return split(images, torch.from_numpy(found.target).long(), 900, 400)


def split(inputs: Tensor, labels: Tensor, train: int, val: int) -> Splits:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    parts = order[:train], order[train : train + val], order[train + val :]
    return Splits(*((inputs[part], labels[part]) for part in parts))


class SeriesNet(Classifier):
    """A GRU, a stack of dilated convolutions, or a perceptron over a window."""

    def __init__(
        self, block: str = "mlp", width: int = 32, depth: int = 2, kernel: int = 3, bidirectional: bool = False,
        act: str = "relu", dropout: float = 0.0, lr: float = 1e-2, optimizer: str = "sgd",
    ) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        if block == "gru":
            self.net = Recurrent(width, depth, bidirectional, dropout)
        elif block == "tcn":
            self.net = dilated(width, depth, kernel, ACTIVATIONS[act], dropout)
        else:
            sizes = [STEPS, *[width] * depth]
            layers = [
                part for a, b in itertools.pairwise(sizes)
                for part in (nn.Linear(a, b), ACTIVATIONS[act](), nn.Dropout(dropout))
            ]  # fmt: skip
            self.net = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], SERIES_CLASSES))


class Recurrent(nn.Module):
    def __init__(self, width: int, depth: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        dropout = dropout if depth > 1 else 0.0
        self.gru = nn.GRU(1, width, depth, batch_first=True, bidirectional=bidirectional, dropout=dropout)
        self.head = nn.Linear(width * (1 + bidirectional), SERIES_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x.transpose(1, 2))[0][:, -1])


def dilated(width: int, depth: int, kernel: int, act: Callable[[], nn.Module], dropout: float) -> nn.Module:
    parts: list[nn.Module] = []
    for level in range(depth):
        padding = (kernel - 1) * 2**level // 2
        parts += [nn.Conv1d(width if level else 1, width, kernel, padding=padding, dilation=2**level), act()]
        parts += [nn.Dropout(dropout)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, SERIES_CLASSES))


STEPS, SERIES_CLASSES = 48, 6
SERIES_SPACE: dict[str, Any] = {
    "block": Categorical(["mlp", "tcn", "gru"]),
    "width": Int(8, 96, log=True),
    "depth": Int(1, 3),
    "kernel": Categorical([3, 5, 7], when={"block": ["tcn"]}),
    "act": Categorical(["relu", "gelu", "tanh"], when={"block": ["mlp", "tcn"]}),
    "bidirectional": Categorical([False, True], when={"block": ["gru"]}),
    "dropout": Float(0.0, 0.4),
    **TRAINING,
}


def series(folder: Path) -> Splits:
    """Six kinds of noisy oscillations: amplitude or frequency constant, growing, falling, in a random phase."""
    random = np.random.default_rng(0)
    labels = random.integers(0, SERIES_CLASSES, 4000)
    time = np.linspace(0, 1, STEPS)
    frequency = random.uniform(3, 6, (4000, 1))
    drift = (
        np.where(labels >= 3, 1.0, 0.0)[:, None] * random.uniform(1.0, 3.0, (4000, 1)) * np.sign(labels - 3.5)[:, None]
    )
    envelope = np.stack([np.ones_like(time), 0.3 + time, 1.3 - time])[labels % 3]
    phase = random.uniform(0, 2 * math.pi, (4000, 1))
    waves = envelope * np.sin(2 * math.pi * (frequency * time + 0.5 * drift * time**2) + phase)
    noisy = waves + random.normal(0, 0.5, waves.shape)
    return split(torch.from_numpy(noisy).float()[:, None], torch.from_numpy(labels), 2000, 1000)


class TextNet(Classifier):
    """A small transformer encoder over bytes."""

    def __init__(
        self, dim: int = 32, heads: int = 2, layers: list[Any] | None = None, pool: str = "mean", dropout: float = 0.0,
        lr: float = 1e-3, optimizer: str = "adamw",
    ) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        self.net = Encoder(dim, heads, layers or [{"mlp": 2, "act": "gelu"}], pool, dropout)


class Encoder(nn.Module):
    def __init__(self, dim: int, heads: int, layers: list[Any], pool: str, dropout: float) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(128, dim), nn.Parameter(0.02 * torch.randn(LENGTH, dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, dim * layer["mlp"], dropout, layer["act"], batch_first=True)
            for layer in layers
        )
        self.head, self.pool = nn.Linear(dim, len(LIBRARIES)), pool

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(1) if self.pool == "mean" else h.amax(1))


LENGTH, LIBRARIES = 32, ("numpy", "sklearn", "torch", "optuna")
TEXT_SPACE: dict[str, Any] = {
    "dim": Categorical([16, 32, 64]),
    "heads": Categorical([1, 2, 4]),
    "layers": Repeat(1, 3, {"mlp": Int(1, 4), "act": Categorical(["relu", "gelu"])}),
    "pool": Categorical(["mean", "max"]),
    "dropout": Float(0.0, 0.3),
    **TRAINING,
}


def text(folder: Path) -> Splits:
    """Lines of docstrings, as bytes: which of four libraries do they come from?"""
    lines, labels = [], []
    for label, library in enumerate(LIBRARIES):
        found = sorted(set(docstring_lines(library)))
        chosen = np.random.default_rng(0).permutation(len(found))[:1500]
        lines += [found[i] for i in chosen]
        labels += [label] * len(chosen)
    encoded = torch.zeros(len(lines), LENGTH, dtype=torch.long)
    for row, line in zip(encoded, lines, strict=True):
        row[: min(len(line), LENGTH)] = torch.tensor(list(line.encode("ascii", "replace")[:LENGTH]))
    return split(encoded, torch.tensor(labels), 1600, 800)


def docstring_lines(library: str) -> Iterator[str]:
    root = importlib.import_module(library)
    names = [library, *(f"{library}.{info.name}" for info in pkgutil.iter_modules(root.__path__))]
    for name in names:
        if "._" in name or name.endswith(("test", "tests", "testing", "conftest")):
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for _, value in inspect.getmembers(module, lambda value: callable(value)):
            if str(getattr(value, "__module__", "")).partition(".")[0] == library:
                yield from (
                    line.strip() for line in (inspect.getdoc(value) or "").splitlines() if len(line.strip()) > 24
                )


@dataclass(frozen=True)
class Task:
    """What one run searches.

    Attributes:
        splits: the data, from the folder of data sets.
        net: `net(**architecture)`.
        space: of the architecture, and of the datamodule's batch size as `data.batch_size`.
        epochs: of a whole trial.
    """

    splits: Callable[[Path], Splits]
    net: Callable[..., Classifier]
    space: dict[str, Any]
    epochs: int = 8


TASKS = {
    "mnist": Task(mnist, ImageNet, IMAGE_SPACE),
    "digits": Task(digits, lambda **chosen: ImageNet(8, **chosen), IMAGE_SPACE),
    "series": Task(series, SeriesNet, SERIES_SPACE),
    "text": Task(text, TextNet, TEXT_SPACE),
}
