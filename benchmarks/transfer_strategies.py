"""Fine-tuning on few digits: each strategy against training from scratch, and against Lightning's BackboneFinetuning.

All contenders have the same net, samples, fresh head, batches and 100 epochs; AdamW at a constant rate, for
BackboneFinetuning adds groups that a scheduler does not know. Each has the best of the same four learning rates, chosen
for itself and for each number of samples: on other draws (seeds 1000, 1001), by the accuracy after the last epoch on
what these draws leave of the pool. The test images have no part in it, and no epoch is chosen.

The figures are those of the last epoch on the 797 test images, mean and standard error over the seeds; gains are
differences seed by seed, so their errors are smaller than those of the accuracies. The epochs to
scratch's end are the first after which a contender's mean accuracy is at least scratch's mean after 100 epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from harness import Report
from lightning.pytorch.callbacks import BackboneFinetuning
from transfer_task import Batches, Net, digits, draw, fit, pretrain

from lightning_autoarch import TransferLearning

SCRATCH, PEER, DEFAULT = "from scratch", "Lightning's BackboneFinetuning", 'TransferLearning, "full" (the default)'
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEEDS = (1000, 1001)
SHARE = 1 / 3  # of scratch's epochs

Make = Callable[[Path], list[L.Callback]]


def transfer(**options: Any) -> Make:
    return lambda checkpoint: [TransferLearning(checkpoint, reinit=["head"], **options)]


CONTENDERS: dict[str, Make] = {
    SCRATCH: lambda checkpoint: [],
    PEER: lambda checkpoint: [BackboneFinetuning()],
    DEFAULT: transfer(),
    '"full", layer_decay=0.75': transfer(layer_decay=0.75),
    '"full", l2_sp=0.01': transfer(l2_sp=0.01),
    '"linear_probe"': transfer(strategy="linear_probe"),
    '"lp_ft"': transfer(strategy="lp_ft"),
    '"gradual"': transfer(strategy="gradual"),
    '"lora"': transfer(strategy="lora", lora={"r": 4, "target_modules": r"backbone\.\d\.0"}),
}


class Task(NamedTuple):
    """One fit."""

    contender: str
    samples: int
    rate: float
    seed: int
    tunes: bool = False  # measured on the pool, to choose the learning rate


def run(task: Task, checkpoint: Path, epochs: int) -> dict[str, Any]:
    """The accuracy after each epoch, or after the last one."""
    started, processor = time.perf_counter(), time.process_time()
    pool, test = digits()
    train, left = draw(pool, task.samples, task.seed)
    module = Net(task.rate, task.seed)
    if task.contender == PEER:  # which leaves loading to the user
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        module.load_state_dict({**weights, **{f"head.{k}": v for k, v in module.head.state_dict().items()}})
    measured, every = (left, epochs) if task.tunes else (test, 1)
    callbacks = CONTENDERS[task.contender](checkpoint)
    _, accuracies = fit(module, Batches(train, task.seed), measured, callbacks, epochs, every)
    seconds = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
    return {**task._asdict(), **seconds, "accuracies": accuracies}


def run_all(tasks: Iterable[Task], checkpoint: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """In processes; in the order of the tasks."""
    tasks, rows = list(tasks), {}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, task, checkpoint, options.epochs): task for task in tasks}
        for number, done in enumerate(as_completed(running), 1):
            rows[running[done]] = done.result()
            if number % 20 == 0 or number == len(tasks):
                print(f"  {number} of {len(tasks)} fits", flush=True)
    return [rows[task] for task in tasks]


def best_rates(tuning: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    """For each contender and number of samples; of equals the lower one."""
    found: dict[tuple[str, int], dict[float, list[float]]] = {}
    for row in tuning:
        by_rate = found.setdefault((row["contender"], row["samples"]), {})
        by_rate.setdefault(row["rate"], []).append(row["accuracies"][-1])
    return {key: max(by_rate, key=lambda rate: (sum(by_rate[rate]), -rate)) for key, by_rate in found.items()}


def mean_curve(rows: list[dict[str, Any]]) -> list[float]:
    return [statistics.mean(each) for each in zip(*(row["accuracies"] for row in rows), strict=True)]


def first_reaching(curve: list[float], goal: float) -> int | None:
    """The number of epochs after which it is reached."""
    return next((epoch for epoch, value in enumerate(curve, 1) if value >= goal), None)


def error_of_mean(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def last(rows: list[dict[str, Any]]) -> list[float]:  # percent
    return [100 * row["accuracies"][-1] for row in rows]


def summary(rows: list[dict[str, Any]], rates: dict[tuple[str, int], float]) -> list[dict[str, Any]]:
    """A row for each contender and number of samples; accuracies in percent."""
    found = []
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["contender"], row["samples"]), []).append(row)
    for (contender, samples), own in groups.items():
        ends = last(own)
        row = {"contender": contender, "samples": samples, "rate": rates[contender, samples]}
        row |= {"accuracy": statistics.mean(ends), "error": error_of_mean(ends)}
        for name, base in (("gain", SCRATCH), ("over_peer", PEER)):
            gains = [a - b for a, b in zip(ends, last(groups[base, samples]), strict=True)]
            row |= {name: statistics.mean(gains), f"{name}_error": error_of_mean(gains)}
        row["epochs"] = first_reaching(mean_curve(own), mean_curve(groups[SCRATCH, samples])[-1])
        found.append(row)
    return found


def show(table: list[dict[str, Any]], epochs: int) -> None:
    for samples in dict.fromkeys(row["samples"] for row in table):
        title, ours = f"{samples} samples", ("accuracy, %", "over scratch", "over the peer")
        print(f"\n{title:40} {'rate':>6} {ours[0]:>13} {ours[1]:>14} {ours[2]:>14} {'epochs to its end':>18}")
        for row in (row for row in table if row["samples"] == samples):
            pairs = (("accuracy", "error", ""), ("gain", "gain_error", "+"), ("over_peer", "over_peer_error", "+"))
            cells = [f"{row[value]:{sign}.2f} ± {row[error]:.2f}" for value, error, sign in pairs]
            reached = f"not in {epochs}" if row["epochs"] is None else str(row["epochs"])
            print(f"{row['contender']:40} {row['rate']:6g} {cells[0]:>13} {cells[1]:>14} {cells[2]:>14} {reached:>18}")
    print(flush=True)


def judge(report: Report, table: list[dict[str, Any]], epochs: int) -> None:
    rows = {(row["contender"], row["samples"]): row for row in table}
    for contender, samples in rows:
        if contender == DEFAULT:
            reached = rows[contender, samples]["epochs"]
            value = float("inf") if reached is None else reached
            report.bar(f"default, {samples} samples: epochs to scratch's end", value, SHARE * epochs, unit="epochs")
    if (DEFAULT, 100) in rows:
        gain = rows[DEFAULT, 100]["gain"]
        report.bar("default, 100 samples: gain over scratch", gain, 0.0, least=True, unit="points")


def measure(report: Report, options: argparse.Namespace) -> dict[str, Any]:
    """Pretrain, choose the learning rates, fit, show, judge."""
    names = list(CONTENDERS)
    if find_spec("peft") is None:
        report.skipped['"lora"'] = "peft is not installed"
        print('"lora": skipped, peft is not installed')
        names.remove('"lora"')
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "mnist.ckpt")
        before = time.process_time()
        pretrained = 100 * pretrain(options.data, checkpoint)
        pretraining = time.process_time() - before
        print(f"pretrained: {pretrained:.2f} % of MNIST's test images at 8 x 8", flush=True)
        kinds = [(name, samples) for name in names for samples in options.samples]
        tuning = run_all(
            (Task(*kind, rate, seed, tunes=True) for kind in kinds for rate in RATES for seed in TUNING_SEEDS),
            checkpoint,
            options,
        )
        rates = best_rates(tuning)
        rows = run_all(
            (Task(*kind, rates[kind], seed) for kind in kinds for seed in options.seeds), checkpoint, options
        )
    table = summary(rows, rates)
    show(table, options.epochs)
    judge(report, table, options.epochs)
    processor = pretraining + sum(row["processor_seconds"] for row in [*tuning, *rows])
    return {"pretrained": pretrained, "table": table, "fits": rows, "tuning": tuning, "processor_seconds": processor}
