"""Searches whose trials inherit weights, against the same search without: best score, seconds of training to reach it.

A search of `TRIALS` trials over depth and widths of a convolutional net, on images of MNIST (8 x 8, see
`transfer_task.py`), scored on as many others; the default strategy. Trials and their epochs are equal in number, and so
are the epochs in total. By default a trial has 1 epoch, where a start from known weights should matter most
(`--trial-epochs 1 2`: another comparison with 2). Seconds are the trials' own, with building, validating and, where
they inherit, the transfer.

The bar: seconds until the score at which the search without ends, as a part of those that it took to get there itself,
summed over the seeds. A search that never gets there counts with all of its seconds, and its seed as missed. The winner
of each is then trained from fresh weights for `AFTERWARDS` epochs and measured on the test images: inherited scores
compare candidates that have seen different numbers of epochs, and might choose worse.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from harness import Report
from torch import Tensor, nn
from transfer_strategies import error_of_mean
from transfer_task import CLASSES, QUIET, Batches, Classifier, Images, block, fit, mnist

from lightning_autoarch import ArchitectureSearch, Int, Repeat

Inherit = Literal["best", "nearest"] | None
KINDS: tuple[Inherit, ...] = (None, "best", "nearest")
SPACE = {"blocks": Repeat(2, 4, {"width": Int(8, 32, log=True)})}
TRIALS, AFTERWARDS = 16, 5
TRAIN, BATCH = 5000, 100
BAR = 0.5


class Candidate(Classifier):
    """Convolutions with norms, a mean over what is left of the image, a head.

    Args:
        blocks: `{"width": channels}` of each.
    """

    def __init__(self, blocks: Sequence[dict[str, int]] = ({"width": 16}, {"width": 16})) -> None:
        super().__init__()
        self.save_hyperparameters()
        widths = [1, *(each["width"] for each in blocks)]
        layers = [block(*pair, pool=i == 1) for i, pair in enumerate(itertools.pairwise(widths))]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * widths[-1], CLASSES)
        self.example_input_array = torch.zeros(2, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3, fused=True)


def split(directory: Path) -> tuple[Images, Images, Images]:
    """To train on, to score on, to test on."""
    images, test = mnist(directory)
    rows = torch.arange(2 * TRAIN)
    return images.take(rows[:TRAIN]), images.take(rows[TRAIN:]), test


def search(inherit: Inherit, epochs: int, seed: int, directory: Path) -> dict[str, Any]:
    """One search, in this process, and its winner trained from fresh weights."""
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    started, processor = time.perf_counter(), time.process_time()
    train, scored, test = split(directory)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback = ArchitectureSearch(
            SPACE, monitor="accuracy", mode="max", n_trials=TRIALS, seed=seed, after="stop",
            trial={"inherit": inherit, "trainer": {"max_epochs": epochs}}, study={"directory": folder},
        )  # fmt: skip
        trainer = L.Trainer(**QUIET, max_epochs=epochs, callbacks=[callback], default_root_dir=folder)
        trainer.fit(Candidate(), Batches(train, seed, BATCH), Batches(scored, 0, len(scored.y)))
    trials = list(rows_of(callback))
    torch.manual_seed(seed)
    winner = Candidate(**callback.best_architecture)
    _, accuracies = fit(winner, Batches(train, seed, BATCH), test, [], AFTERWARDS)
    return {
        "inherit": inherit, "epochs": epochs, "seed": seed, "best": callback.best_score, "trials": trials,
        "winner": callback.best_architecture, "winner_from_fresh_weights": accuracies[-1],
        "seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor,
    }  # fmt: skip


def rows_of(callback: ArchitectureSearch) -> Iterator[dict[str, Any]]:
    assert callback.optuna_study is not None
    for trial in callback.optuna_study.trials:
        if trial.state.name == "COMPLETE":
            known = trial.user_attrs
            yield {
                "score": trial.value, "seconds": known["seconds"], "epochs": known["epochs"],
                "architecture": known["architecture"], "parent": known.get("parent"),
                "inherited": known.get("inherited", 0.0), "reason": known.get("inherited_reason", ""),
            }  # fmt: skip


def until(trials: list[dict[str, Any]], goal: float, unit: str) -> tuple[float, bool]:
    """Seconds or epochs of the trials up to the first that reaches a score, that one included; whether one does."""
    spent = 0.0
    for trial in trials:
        spent += trial[unit]
        if trial["score"] >= goal:
            return spent, True
    return spent, False


def compare(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Each kind against the one without, seed by seed."""
    by_kind = {kind: [run for run in runs if run["inherit"] == kind] for kind in KINDS}
    goals = [run["best"] for run in by_kind[None]]
    found: dict[str, Any] = {}
    for kind, own in by_kind.items():
        row: dict[str, Any] = {"best": [run["best"] for run in own]}
        row["fresh"] = [run["winner_from_fresh_weights"] for run in own]
        row["whole_seconds"] = [sum(trial["seconds"] for trial in run["trials"]) for run in own]
        pairs = list(zip(own, goals, strict=True))
        for unit in ("seconds", "epochs"):
            row[unit] = [until(run["trials"], goal, unit)[0] for run, goal in pairs]
        row["reached"] = sum(until(run["trials"], goal, "epochs")[1] for run, goal in pairs)
        taken = [t["inherited"] for run in own for t in run["trials"] if t["parent"] is not None]
        row["inherited"] = statistics.mean(taken) if taken else 0.0
        found[str(kind)] = row
    for row in found.values():
        for unit in ("seconds", "epochs"):
            row[f"{unit}_ratio"] = sum(row[unit]) / sum(found["None"][unit])
    return found


def percent(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.2f} ± {100 * error_of_mean(values):.2f}"


def show(found: dict[str, Any], epochs: int) -> None:
    head = f"{'seconds to goal':>34} {'epochs to goal':>24} {'reached':>8}"
    print(f"\n{TRIALS} trials of {epochs} epochs\n{'inherit':10} {'best, %':>14} {head} {'winner anew, %':>16}")
    for kind, row in found.items():
        each = {unit: " ".join(f"{value:.0f}" for value in row[unit]) for unit in ("seconds", "epochs")}
        texts = [f"{text} ({row[f'{unit}_ratio']:.2f}x)" for unit, text in each.items()]
        cells = f"{texts[0]:>34} {texts[1]:>24} {row['reached']:8}"
        print(f"{kind:10} {percent(row['best']):>14} {cells} {percent(row['fresh']):>16}")
    print(flush=True)


def judge(report: Report, found: dict[str, Any], epochs: int) -> None:
    for kind in ("best", "nearest"):
        name = f'inherit="{kind}", {epochs} epochs a trial'
        report.bar(f"{name}: seconds to the score of the search without", found[kind]["seconds_ratio"], BAR)
        seeds = len(found[kind]["best"])
        report.bar(f"{name}: seeds that reach it", found[kind]["reached"], seeds, least=True, unit="seeds")
        best, without = (statistics.mean(found[each]["best"]) for each in (kind, "None"))
        report.bar(f"{name}: best score", 100 * best, 100 * without, least=True, unit="%")


def measure(report: Report, options: argparse.Namespace) -> dict[str, Any]:
    """All kinds and seeds; the kinds of one seed one after the other, so that noise of the machine meets them alike."""
    runs: list[dict[str, Any]] = []
    tasks = [(kind, epochs, seed) for epochs in options.trial_epochs for seed in options.seeds for kind in KINDS]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(search, *task, options.data) for task in tasks]):
            runs.append(run := done.result())
            about = f"inherit={run['inherit']}, {run['epochs']} epochs, seed {run['seed']}"
            print(f"  {about}: {100 * run['best']:.2f} %, {run['seconds']:.0f} s", flush=True)
    runs.sort(key=lambda run: tasks.index((run["inherit"], run["epochs"], run["seed"])))
    found = {}
    for epochs in options.trial_epochs:
        found[epochs] = compare([run for run in runs if run["epochs"] == epochs])
        show(found[epochs], epochs)
        judge(report, found[epochs], epochs)
    return {"kinds": found, "runs": runs, "processor_seconds": sum(run["processor_seconds"] for run in runs)}
