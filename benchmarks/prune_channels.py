"""Channels that are really gone: what half of the FLOPs is worth in time, and what it costs in accuracy.

    python benchmarks/prune_channels.py [--data DIRECTORY] [--quick] [--json results.json]

Latency: a ResNet-18 of width 64 at 32 x 32 and a transformer encoder of width 256, each to 50 % of its FLOPs, the same
share of every layer, in multiples of 32 channels; a forward in eval mode on one thread, dense and pruned in turn,
medians of the ratio of neighbours.
Accuracy: small nets on MNIST, trained, pruned to 50 % of the FLOPs and fine-tuned, against the same net trained on
densely for as many epochs. DIRECTORY has mnist/mnist.npz.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import torch
from harness import Report, Skip, machine, write_json
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_autoarch.prune.channels import Removed, Selection, prune_channels_

RESULTS = Path(__file__).parent / "results"
FLOPS = 0.5
BARS = {1: 1.3, 64: 1.5}  # batch -> how many times faster
EPOCHS = 2


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        same = stride == 1 and inside == out
        conv = nn.Conv2d(inside, out, 1, stride, bias=False)
        self.shortcut = nn.Identity() if same else nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet(nn.Module):
    """Two blocks of each width."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512), channels: int = 3) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(nn.Conv2d(channels, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        blocks, inside = [], first
        for i, width in enumerate(widths):
            blocks += [Block(inside, width, 1 if i == 0 else 2), Block(width, width, 1)]
            inside = width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inside, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Encoder(nn.Module):
    """A transformer encoder over rows of numbers, their places learned."""

    def __init__(self, tokens: int = 64, inputs: int = 256, width: int = 256, layers: int = 4, heads: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.places = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x.squeeze(1)) + self.places).mean(1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-18, width 64, 32 x 32": (ResNet, (3, 32, 32)),
    "encoder, width 256, 64 tokens": (Encoder, (64, 256)),
}
SMALL: dict[str, Callable[[], nn.Module]] = {
    "ResNet, widths 16 to 64": lambda: ResNet((16, 32, 64), 1),
    "encoder, width 64": lambda: Encoder(28, 28, 64, 2, 4),
}


def latency(report: Report, name: str, batch: int, rounds: int) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    dense = make().eval()
    x = torch.randn(batch, *shape)
    pruned = copy.deepcopy(dense)
    removed = prune_channels_(pruned, x[:1], 1 - FLOPS, of="flops", selection=Selection(scope="layer", round_to=32))
    times: dict[str, list[float]] = {"dense": [], "pruned": []}
    with torch.no_grad():
        for number in range(rounds + 2):
            for kind, module in (("dense", dense), ("pruned", pruned)):
                start = time.perf_counter()
                module(x)
                if number > 1:
                    times[kind].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(times["dense"], times["pruned"], strict=True)]
    case = {kind: statistics.median(each) for kind, each in times.items()}
    report.cases[f"{name}, batch {batch}"] = {**case, **costs(removed), "quartiles": statistics.quantiles(ratios, n=4)}
    print(f"{name}, batch {batch}: {case['dense'] * 1e3:.2f} -> {case['pruned'] * 1e3:.2f} ms", flush=True)
    report.bar(f"{name}, batch {batch}: faster", statistics.median(ratios), BARS[batch], least=True)


def costs(removed: Removed) -> dict[str, Any]:
    before, after = removed.before, removed.after
    return {"parameters": [before.parameters, after.parameters], "flops": [before.flops, after.flops]}


class Mnist:
    def __init__(self, directory: Path) -> None:
        path = directory / "mnist" / "mnist.npz"
        if not path.exists():
            raise Skip(f"{path} is not there: give --data")
        arrays = np.load(path)
        self.train, self.test = ((self._images(arrays, part), self._labels(arrays, part)) for part in ("train", "test"))

    def _images(self, arrays: Any, part: str) -> Tensor:
        return torch.from_numpy(arrays[f"x_{part}"]).float().sub_(33.3).div_(78.6).unsqueeze(1)

    def _labels(self, arrays: Any, part: str) -> Tensor:
        return torch.from_numpy(arrays[f"y_{part}"]).long()


def train(module: nn.Module, data: Mnist, epochs: int, lr: float, seed: int) -> None:
    """Adam; the learning rate falls to 0 by a cosine."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr)
    x, y = data.train
    total = epochs * (len(y) // 128)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=generator)[: len(y) // 128 * 128].split(128):
            optimizer.zero_grad()
            F.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def accuracy(module: nn.Module, data: Mnist) -> float:
    module.eval()
    x, y = data.test
    right = sum(int((module(a).argmax(1) == b).sum()) for a, b in zip(x.split(1000), y.split(1000), strict=True))
    return 100 * right / len(y)


def accuracy_kept(report: Report, name: str, data: Mnist, epochs: int) -> None:
    torch.manual_seed(0)
    dense = SMALL[name]()
    train(dense, data, epochs, 2e-3, seed=0)
    pruned = copy.deepcopy(dense)
    removed = prune_channels_(pruned, data.test[0][:1], 1 - FLOPS, of="flops")
    at_once = accuracy(pruned, data)
    for module in (dense, pruned):
        train(module, data, epochs, 1e-3, seed=1)
    ends = accuracy(dense, data), accuracy(pruned, data)
    case = {"dense": ends[0], "pruned": ends[1], "before fine-tuning": at_once, **costs(removed)}
    report.cases[f"MNIST, {name}"] = case
    print(f"MNIST, {name}: dense {ends[0]:.2f} %, pruned {at_once:.2f} -> {ends[1]:.2f} %", flush=True)
    report.bar(f"MNIST, {name}: points lost", ends[0] - ends[1], 1.0, unit="points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--quick", action="store_true", help="few rounds, no training; nothing is written")
    parser.add_argument("--json", type=Path, default=RESULTS / "prune_channels.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about, report = machine("cpu"), Report()
    print("; ".join(f"{key}: {value}" for key, value in about.items()))
    for name in NETS:
        for batch in BARS:
            rounds = 5 if options.quick else {1: 41, 64: 11}[batch]
            report.attempt(name, lambda name=name, batch=batch, rounds=rounds: latency(report, name, batch, rounds))
    if not options.quick:
        for name in SMALL:
            report.attempt(f"MNIST, {name}", lambda name=name: accuracy_kept(report, name, Mnist(options.data), EPOCHS))
        result = {"machine": about, "cases": report.cases, "bars": report.bars, "skipped": report.skipped}
        write_json(options.json, result)


if __name__ == "__main__":
    main()
