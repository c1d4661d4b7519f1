"""LeNet-300-100 on MNIST: how few of its weights are enough.

    python benchmarks/prune_accuracy.py --data DIRECTORY [--seeds 0 1 2] [--processes 2] [--json results.json]

Han et al. 2015 (*Learning both weights and connections*) keep 1/12 of the numbers of this net at no loss: 1.64 to
1.59 % error. Every fit here has the same epochs, batches and optimizer; what is counted as kept are all numbers of the
net, biases (which nothing prunes) included. The error is that of the last step on the 10,000 test images: no checkpoint
is chosen.

The dense net and the pruned ones have the settings that were best for each with `--hold-out 10000 --seeds 10 11 12 13`,
which trains on 50,000 images and measures on the 10,000 others, never the test's. Tried: learning rates of 0.001 to
0.008 (and SGD), weight decays of 0 to 0.3, 20 to 40 epochs, where the decay of the learning rate begins (0 to 0.5 of
the fit), and for MagnitudePruning the scopes and ends of 0.3 to 0.75. RigL and the peer have the settings of
MagnitudePruning. The dense net is also trained with those, for comparison; the bar is the better one.

DIRECTORY has mnist/mnist.npz with x_train (60000, 28, 28) uint8, y_train, x_test, y_test.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # a process for each core: the net is too small for two threads

import lightning as L
import numpy as np
import torch
from harness import Report, machine, write_json
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune

from lightning_autoarch.callbacks.prune.dynamic import RigL
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.prune.schedule import CubicSparsity

RESULTS = Path(__file__).parent / "results"
SIZES = (784, 300, 100, 10)
WEIGHTS = sum(a * b for a, b in itertools.pairwise(SIZES))
NUMBERS = WEIGHTS + sum(SIZES[1:])  # with the biases
SHRINK = (12, 28)
BATCH = 128
PRUNED_BY = 0.4  # of the fit


class Settings(NamedTuple):
    lr: float
    weight_decay: float
    decay_from: float  # of the fit; there the learning rate begins to fall


DENSE = Settings(2e-3, 0.1, 0.5)
SPARSE = Settings(4e-3, 0.1, 0.3)


class Split(NamedTuple):
    x: Tensor  # (n, 784)
    y: Tensor  # (n,)


@functools.cache
def mnist(directory: Path, hold_out: int) -> tuple[Split, Split]:
    """To train on, and to measure on."""
    arrays = np.load(directory / "mnist" / "mnist.npz")
    x, y = (np.concatenate([arrays[f"{name}_train"], arrays[f"{name}_test"]]) for name in "xy")
    images = torch.from_numpy(x).flatten(1).float().sub_(33.3).div_(78.6)  # mean and deviation of the training images
    labels = torch.from_numpy(y).long()
    end = len(arrays["x_train"])
    first, last = (end - hold_out, end) if hold_out else (end, len(x))
    return Split(images[:first], labels[:first]), Split(images[first:last], labels[first:last])


class Batches:
    """Shuffled anew for each epoch, whole batches only, gathered in memory."""

    def __init__(self, data: Split, seed: int) -> None:
        self.data, self.generator = data, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.data.y) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data.y), generator=self.generator)
        for rows in order[: len(self) * BATCH].split(BATCH):
            yield self.data.x[rows], self.data.y[rows]


class LeNet(L.LightningModule):
    """AdamW; the learning rate is constant, then falls to 0 in a line."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        widths = itertools.pairwise(SIZES)
        layers = [layer for a, b in widths for layer in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers[:-1])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        lr, weight_decay, decay_from = self.settings
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (1 - step / total) / (1 - decay_from))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TorchPruneOnce(L.Callback):
    """The peer: `global_unstructured` once at a place in the fit, what is left of it fine-tunes."""

    def __init__(self, sparsity: float, at: float) -> None:
        self.sparsity, self.at = sparsity, at

    def pairs(self, module: L.LightningModule) -> list[tuple[nn.Module, str]]:
        return [(layer, "weight") for layer in module.modules() if isinstance(layer, nn.Linear)]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step == round(self.at * trainer.estimated_stepping_batches):
            method = torch_prune.L1Unstructured
            torch_prune.global_unstructured(self.pairs(pl_module), pruning_method=method, amount=self.sparsity)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for layer, name in self.pairs(pl_module):
            torch_prune.remove(layer, name)


def sparsity_for(shrink: int) -> float:
    """Of the weights, so that all numbers with the biases are <= 1 / `shrink` of the dense net's."""
    kept = NUMBERS // shrink - (NUMBERS - WEIGHTS)
    return 1 - kept / WEIGHTS


def magnitude(sparsity: float) -> L.Callback:
    return MagnitudePruning(CubicSparsity(sparsity, end=PRUNED_BY), scope="erk", every_n_steps=100)


def rigl(sparsity: float) -> L.Callback:
    return RigL(sparsity, every_n_steps=100)


def torch_once(sparsity: float) -> L.Callback:
    return TorchPruneOnce(sparsity, at=PRUNED_BY)


METHODS: dict[str, Callable[[float], L.Callback]] = {
    "MagnitudePruning": magnitude,
    "RigL": rigl,
    "torch.nn.utils.prune, once": torch_once,
}


DENSE_NETS = [("dense", DENSE), ("dense, settings of the pruned", SPARSE)]


class Task(NamedTuple):
    method: str
    shrink: int  # 1: dense
    settings: Settings
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}, 1/{self.shrink}" if self.shrink > 1 else self.method


def run(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """Train once, quietly; test error in percent, and what is left of the net."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    train, test = mnist(options.data, options.hold_out)
    start, processor = time.perf_counter(), time.process_time()
    torch.manual_seed(task.seed)
    module = LeNet(task.settings)
    trainer = L.Trainer(
        max_epochs=options.epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
        callbacks=[METHODS[task.method](sparsity_for(task.shrink))] if task.shrink > 1 else [],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, Batches(train, task.seed))
    with torch.inference_mode():
        wrong = int((module.net(test.x).argmax(1) != test.y).sum())
    return {
        "seed": task.seed, "error": 100 * wrong / len(test.y), "kept": kept(module.net),
        "seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor,
    }  # fmt: skip


def kept(module: nn.Module) -> int:
    """Numbers to be stored: weights that are not 0, and all biases."""
    return sum(int(torch.count_nonzero(p)) if p.dim() > 1 else p.numel() for p in module.state_dict().values())


def measure(tasks: list[Task], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Rows of each name, in the order of the seeds."""
    rows: dict[str, list[dict[str, Any]]] = {task.name: [] for task in tasks}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, task, options): task for task in tasks}
        for done in as_completed(running):
            task, row = running[done], done.result()
            rows[task.name].append(row)
            print(f"  {task.name}, seed {task.seed}: {row['error']:.2f} % in {row['seconds']:.0f} s", flush=True)
    return {name: sorted(each, key=lambda row: row["seed"]) for name, each in rows.items()}


def mean(rows: list[dict[str, Any]]) -> float:
    return statistics.mean(row["error"] for row in rows)


def show(rows: dict[str, list[dict[str, Any]]]) -> None:
    print(f"{'':34} {'mean':>6}   each seed            kept")
    for name, each in rows.items():
        errors = "  ".join(f"{row['error']:.2f}" for row in each)
        kept = max(row["kept"] for row in each)
        print(f"{name:34} {mean(each):6.3f}   {errors:18}  {kept} (1/{NUMBERS / kept:.1f})")


def judge(report: Report, rows: dict[str, list[dict[str, Any]]], seconds: float) -> None:
    dense = min(mean(rows[name]) for name, _ in DENSE_NETS)
    for shrink, slack in zip(SHRINK, (0.0, 0.3), strict=True):
        each = rows[f"MagnitudePruning, 1/{shrink}"]
        report.bar(f"1/{shrink}: error", mean(each), dense + slack, unit="%")
        report.bar(f"1/{shrink}: kept", max(row["kept"] for row in each), NUMBERS / shrink, unit="numbers")
    processor = sum(row["processor_seconds"] for each in rows.values() for row in each)
    print(f"    processor: {processor / 60:.1f} minutes in all")
    report.bar("whole run", seconds / 60, 15, unit="minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--hold-out", type=int, default=0, help="measure on so many training images, not the test's")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS / "prune_accuracy.json")
    options = parser.parse_args()
    if not (options.data / "mnist" / "mnist.npz").is_file():
        print(f"skipped, {options.data / 'mnist' / 'mnist.npz'} is not there")
        return
    torch.set_num_threads(1)
    print(about := machine("cpu"))
    kinds = [(name, 1, settings) for name, settings in DENSE_NETS]
    kinds += [(method, shrink, SPARSE) for method in METHODS for shrink in SHRINK]
    start = time.perf_counter()
    rows = measure([Task(*kind, seed) for seed in options.seeds for kind in kinds], options)
    seconds = time.perf_counter() - start
    show(rows)
    report = Report()
    judge(report, rows, seconds)
    settings: dict[str, Any] = {key: value for key, value in vars(options).items() if key not in ("data", "json")}
    settings |= {"dense": DENSE._asdict(), "sparse": SPARSE._asdict()}
    result = {"machine": about, "settings": settings, "seconds": seconds, "fits": rows, "bars": report.bars}
    write_json(options.json, result)


if __name__ == "__main__":
    main()
