"""What masks cost while a net trains: time of a step, and memory beyond the weights.

    python benchmarks/prune_upkeep.py [--device cuda] [--threads 2] [--rounds N] [--json results.json]

ResNet-18 (11 million weights), SGD with momentum, batches of 32 at 3 x 64 x 64, 90 % of the weights masked, in four
Trainers: no masks; MagnitudePruning; torch.nn.utils.prune (a forward pre-hook for each layer); Lightning's
ModelPruning. Each fit lives in a thread of its own and only one of them runs: a round is one step of each, in random
order, so that whatever else the machine does falls on everybody. A step's time is from handing out a batch to being
asked for the next, callbacks included; its ratio is to the unmasked step of the same round. On a busy machine the
seconds of the processor, all threads together, say more than those of the clock.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from harness import MIB, Case, Ratio, Report, held, machine, no_sync, write_json
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune

from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.prune import _ops
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.schedule import ConstantSparsity
from lightning_autoarch.prune.targets import find_targets

RESULTS = Path(__file__).parent / "results"
SPARSITY = 0.9
BATCH = (32, 3, 64, 64)
CLASSES = 1000
ROUNDS = {"cpu": 100, "cuda": 500}
WARM_UP = 5  # rounds
BARS = {"cpu": 1.02, "cuda": 1.01}
PLAIN, OURS = "unmasked", "MagnitudePruning"


class BasicBlock(nn.Module):
    """He et al. 2015, figure 2, with the projection where sizes change."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        widths = [64, 64, 128, 256, 512]
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        for i, (before, width) in enumerate(itertools.pairwise(widths)):
            blocks += [BasicBlock(before, width, 2 if i else 1), BasicBlock(width, width, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.head(self.blocks(self.stem(batch[0]))), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)


def layers_of(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The same weights that MagnitudePruning takes by default, in the peers' form."""
    names = [name.rpartition(".") for name in find_targets(module)]
    return [(module.get_submodule(owner), name) for owner, _, name in names]


class PrunedAtStart(ModelPruning):
    """Lightning's own, which prunes when an epoch ends; here before the first step, by its own method."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.apply_pruning(SPARSITY)


def plain(module: L.LightningModule) -> list[L.Callback]:
    return []


def ours(module: L.LightningModule) -> list[L.Callback]:
    return [MagnitudePruning(ConstantSparsity(SPARSITY))]


def by_torch(module: L.LightningModule) -> list[L.Callback]:
    method = torch_prune.L1Unstructured
    torch_prune.global_unstructured(layers_of(module), pruning_method=method, amount=SPARSITY)
    return []


def by_lightning(module: L.LightningModule) -> list[L.Callback]:
    pruning = PrunedAtStart(
        "l1_unstructured", layers_of(module), amount=SPARSITY, apply_pruning=False, use_lottery_ticket_hypothesis=False
    )
    return [pruning]


KINDS: dict[str, Callable[[L.LightningModule], list[L.Callback]]] = {
    PLAIN: plain,
    OURS: ours,
    "torch.nn.utils.prune": by_torch,
    "Lightning's ModelPruning": by_lightning,
}


class Fit:
    """A fit in a thread that goes one step at a time, when told."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.options, self.module = options, ResNet18()
        self.callbacks: list[Any] = KINDS[kind](self.module)
        self.batch = torch.randn(BATCH, device=options.device), torch.randint(CLASSES, BATCH[:1], device=options.device)
        self.go, self.waits = threading.Semaphore(0), threading.Semaphore(0)
        self.stopped = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=kind, daemon=True)
        self.thread.start()
        self._wait()

    def __len__(self) -> int:
        return 10**6  # batches: more than there will be

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            self.waits.release()
            self.go.acquire()
            if self.stopped:
                return
            yield self.batch

    def step(self) -> None:
        self.go.release()
        self._wait()

    def end(self) -> None:
        self.stopped = True
        self.go.release()
        self.thread.join()

    def _wait(self) -> None:
        self.waits.acquire()
        if self.error is not None:
            raise RuntimeError(f"the fit `{self.thread.name}` failed") from self.error

    def _run(self) -> None:
        torch.set_num_threads(self.options.threads)
        trainer = L.Trainer(
            max_epochs=1, accelerator=self.options.device, devices=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, callbacks=self.callbacks,
        )  # fmt: skip
        try:
            trainer.fit(self.module, self)
        except BaseException as error:
            self.error = error
            self.waits.release()


class Clock:
    """Seconds of each call of a method, the device waited for."""

    def __init__(self, owner: Any, name: str, sync: Callable[[], None]) -> None:
        self.seconds: list[float] = []
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            sync()
            start = time.perf_counter()
            result = inner(*args, **kwargs)
            sync()
            self.seconds.append(time.perf_counter() - start)
            return result

        setattr(owner, name, timed)


@dataclass
class Steps:
    """Of one kind: seconds by the clock, and of the processor in all threads, which other processes disturb less."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def in_rounds(fits: dict[str, Fit], rounds: int, sync: Callable[[], None]) -> dict[str, Steps]:
    steps = {kind: Steps() for kind in fits}
    order = random.Random(0)
    for number in range(WARM_UP + rounds):
        for kind in order.sample(list(fits), len(fits)):
            sync()
            wall, processor = time.perf_counter(), time.process_time()
            fits[kind].step()
            sync()
            if number >= WARM_UP:
                steps[kind].wall.append(time.perf_counter() - wall)
                steps[kind].processor.append(time.process_time() - processor)
    return steps


def compare(report: Report, steps: dict[str, Steps], device: str) -> dict[str, dict[str, Any]]:
    for kind, each in steps.items():
        report.add(f"step, {kind}", Case(no_sync, times=each.wall))
    plain_steps = steps[PLAIN]
    ratios: dict[str, dict[str, Any]] = {}
    for kind, each in steps.items():
        if kind != PLAIN:
            wall = Ratio.of(each.wall, plain_steps.wall)
            processor = Ratio.of(each.processor, plain_steps.processor)
            print(f"{kind:25} / {PLAIN}: {wall}")
            print(f"{'':25}   of the processor: {processor}")
            ratios[kind] = {"wall": asdict(wall), "processor": asdict(processor)}
    report.bar("step with MagnitudePruning / unmasked", ratios[OURS]["wall"]["median"], BARS[device])
    return ratios


def memory(report: Report, fits: dict[str, Fit]) -> dict[str, int]:
    """Bytes beyond the plain module: extra tensors of the module, and masks of the callback."""
    plain_bytes = held(fits[PLAIN].module)
    beyond = {kind: held(each.module) - plain_bytes for kind, each in fits.items()}
    beyond[OURS] += sum(mask.words.untyped_storage().nbytes() for mask in fits[OURS].callbacks[0].masks.values())
    for kind, size in beyond.items():
        print(f"{kind:28} {size / MIB:8.2f} MiB beyond the {plain_bytes / MIB:.1f} of the module")
    for kind in list(KINDS)[2:]:
        report.bar(f"memory of the masks / {kind}", beyond[OURS] / beyond[kind], 1 / 30)
    return beyond


def alone(weights: MaskedWeights, sync: Callable[[], None], runs: int = 100) -> dict[str, float]:  # seconds
    """Without the step around it: all of `apply_`, and the compiled call in it."""
    kernel_arguments = weights.parameters, [mask.words for mask in weights.masks]
    parts: dict[str, Callable[[], None]] = {
        "apply_ alone": weights.apply_,
        "its kernel alone": lambda: _ops.apply_masks(*kernel_arguments),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(runs):
        for name, part in parts.items():
            sync()
            start = time.perf_counter()
            part()
            sync()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def change(callback: Any, sync: Callable[[], None], runs: int = 7) -> float:  # seconds
    """New masks, as they are chosen every `every_n_steps`; they come out as they were."""
    seconds = []
    for _ in range(runs):
        sync()
        start = time.perf_counter()
        masks = callback.new_masks(callback.weights, 0, None)
        callback.weights.replace(masks)
        sync()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def in_the_step(fit: Fit, rounds: int, sync: Callable[[], None]) -> dict[str, float]:  # seconds
    """Of the callback's hooks while it trains on; after the other rounds, since a clock makes the device wait."""
    callback = fit.callbacks[0]
    clocks = {
        "masking after the optimizer": Clock(callback.weights, "apply_", sync),
        "on_before_optimizer_step": Clock(callback, "on_before_optimizer_step", sync),
        "on_train_batch_end": Clock(callback, "on_train_batch_end", sync),
    }
    for _ in range(rounds):
        fit.step()
    return {name: statistics.median(clock.seconds) for name, clock in clocks.items()}


def where_it_goes(fit: Fit, step: float, rounds: int, sync: Callable[[], None]) -> dict[str, float]:
    """Parts of what MagnitudePruning does, in seconds, beside a step."""
    callback = fit.callbacks[0]
    parts = in_the_step(fit, rounds, sync) | alone(callback.weights, sync)
    parts["change of the masks, of one step"] = change(callback, sync) / callback.every_n_steps
    for name, seconds in parts.items():
        print(f"  {name:34} {seconds * 1e3:8.3f} ms   {100 * seconds / step:6.3f} % of an unmasked step")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    sync = torch.cuda.synchronize if options.device == "cuda" else no_sync
    print(about := machine(options.device))
    report = Report()
    fits = {kind: Fit(kind, options) for kind in KINDS}
    rounds = options.rounds or ROUNDS[options.device]
    steps = in_rounds(fits, rounds, sync)
    ratios = compare(report, steps, options.device)
    parts = where_it_goes(fits[OURS], statistics.median(steps[PLAIN].wall), max(5, rounds // 5), sync)
    beyond = memory(report, fits)
    for each in fits.values():
        each.end()
    result = {
        "machine": about, "cases": report.cases, "ratios": ratios,
        "seconds": parts, "bytes_beyond": beyond, "bars": report.bars,
    }  # fmt: skip
    write_json(options.json or RESULTS / f"prune_upkeep_{options.device}.json", result)


if __name__ == "__main__":
    main()
