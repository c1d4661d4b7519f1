"""Seconds to a score: after so much CPU time of a search, how good is the best net? Beside plain Optuna studies.

    python benchmarks/search_end_to_end.py --task mnist --budget 30 --seeds 8 --json results.json
    python benchmarks/search_end_to_end.py --task digits --sides autoarch "tpe+hyperband"

Each run is a process of its own with one thread; sides are alternated within a seed. The clock is the CPU time of the
process since the search began, imports and data excluded, everything else of the search included. A side's peers train
with a plain `Trainer.fit` inside of an Optuna objective that reports each epoch. Written down after every validation
epoch: the seconds, the epochs trained so far by all trials, the best validation accuracy so far. When the budget is
over the best net seen, as it was at its best epoch, is tested once.

Figures: medians over the seeds at fixed seconds and epochs; the seconds and epochs that a side takes to the median end
score of the best peer.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import lightning as L
import optuna
import torch
from end_to_end_tasks import TASKS, Data, Task
from harness import machine, write_json

from lightning_autoarch import ArchitectureSearch, SearchSpace

SECONDS = (7.5, 15, 30, 60, 120, 300)
EPOCHS = (20, 40, 60, 120, 240)
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False,
}  # fmt: skip


class BudgetSpent(BaseException):
    """Ends a run wherever it is: no library handles it as a failure of a trial."""


class Watch(L.Callback):
    """Follows every validation epoch of every trial, and keeps the best net."""

    curve: list[tuple[float, int, float]]  # (CPU seconds, epochs, best accuracy) after each validation

    def __init__(self, budget: float) -> None:
        self.budget, self.start = budget, time.process_time()
        self.curve, self.trials, self.best, self.net = [], 0, 0.0, None

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        return self  # one for all trials

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trials += 1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics["val_acc"])
        if score > self.best or self.net is None:
            self.best, self.net = score, copy.deepcopy(pl_module).cpu()
        self.curve.append((time.process_time() - self.start, len(self.curve) + 1, self.best))
        if self.curve[-1][0] > self.budget:
            raise BudgetSpent


def plain(task: Task, data: Data, watch: Watch, sampler: Any, pruner: Any) -> None:
    """An Optuna study around a Lightning fit, as its documentation shows it."""
    space = SearchSpace(task.space)

    def objective(trial: optuna.Trial) -> float:
        architecture = space.suggest(trial)
        batch_size = architecture.pop("data.batch_size")
        L.seed_everything(trial.number, verbose=False)
        best = 0.0

        class Report(L.Callback):
            def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                nonlocal best
                best = max(best, float(trainer.callback_metrics["val_acc"]))
                trial.report(best, trainer.current_epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        trainer = L.Trainer(max_epochs=task.epochs, num_sanity_val_steps=0, callbacks=[watch, Report()], **QUIET)
        trainer.fit(task.net(**architecture), datamodule=Data(data.hparams.task, data.hparams.folder, batch_size))
        return best

    optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner).optimize(objective)


def ours(task: Task, data: Data, watch: Watch, seed: int, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as root:
        search = ArchitectureSearch(
            task.space, monitor="val_acc", mode="max", n_trials=100_000, seed=seed,
            trial={"callbacks": [watch], **options.pop("trial", {})}, **options,
        )  # fmt: skip
        trainer = L.Trainer(max_epochs=task.epochs, default_root_dir=root, callbacks=[search], **QUIET)
        trainer.fit(task.net(), datamodule=data)


Side = Callable[[Task, Data, Watch, int], None]
PEERS: dict[str, Side] = {
    "tpe+hyperband": lambda t, d, w, seed: plain(
        t, d, w, optuna.samplers.TPESampler(seed=seed), optuna.pruners.HyperbandPruner(1, t.epochs)
    ),
    "gp+median": lambda t, d, w, seed: plain(
        t, d, w, optuna.samplers.GPSampler(seed=seed), optuna.pruners.MedianPruner()
    ),
    "random": lambda t, d, w, seed: plain(
        t, d, w, optuna.samplers.RandomSampler(seed=seed), optuna.pruners.NopPruner()
    ),
}
SIDES: dict[str, Side] = {
    "autoarch": ours,
    "autoarch+hyperband": lambda t, d, w, seed: ours(t, d, w, seed, pruner=optuna.pruners.HyperbandPruner(1, t.epochs)),
    "autoarch+inherit": lambda t, d, w, seed: ours(t, d, w, seed, trial={"inherit": "best"}),
    **PEERS,
}


def run(name: str, side: str, seed: int, budget: float, folder: Path) -> dict[str, Any]:
    """One run, in this process."""
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.manual_seed(seed)
    task, data = TASKS[name], Data(name, str(folder))
    watch = Watch(budget)
    try:
        SIDES[side](task, data, watch, seed)
    except BudgetSpent:
        pass
    else:
        raise SystemExit(f"{side} ended before its budget was spent.")
    tester = L.Trainer(**QUIET)
    test = tester.test(watch.net, data.test_dataloader(), verbose=False)[0]["test_acc"]
    return {"log": watch.curve, "trials": watch.trials, "test": test}


def in_a_process(task: str, side: str, seed: int, budget: float, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--task", task, "--one", side, str(seed), "--budget", str(budget)]
    done = subprocess.run([*command, "--data", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side}, seed {seed}:\n{done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def best_at(log: list[list[float]], column: int, limit: float) -> float:
    return max((score for *place, score in log if place[column] <= limit), default=0.0)


def first_at(log: list[list[float]], column: int, score: float) -> float:
    """The seconds (0) or epochs (1) after which a score was reached; infinite where it was not."""
    return next((row[column] for row in log if row[2] >= score), float("inf"))


def summary(runs: dict[str, list[dict[str, Any]]], budget: float) -> dict[str, Any]:
    def median(side: str, value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(each) for each in runs[side])

    target = max((median(side, lambda r: r["log"][-1][2]) for side in runs if side in PEERS), default=float("nan"))
    rows = {}
    for side in runs:
        rows[side] = {
            "seconds": {t: median(side, lambda r, t=t: best_at(r["log"], 0, t)) for t in SECONDS if t <= budget},
            "epochs": {n: median(side, lambda r, n=n: best_at(r["log"], 1, n)) for n in EPOCHS},
            "trials": median(side, lambda r: r["trials"]),
            "trained epochs": median(side, lambda r: len(r["log"])),
            "first epoch at": median(side, lambda r: r["log"][0][0]),
            "test": median(side, lambda r: r["test"]),
            "seconds to target": median(side, lambda r: first_at(r["log"], 0, target)),
            "epochs to target": median(side, lambda r: first_at(r["log"], 1, target)),
        }
    return {"target": target, "sides": rows}


def show(found: dict[str, Any]) -> None:
    print(f"score of the best peer at the end: {found['target']:.4f}")
    for side, row in found["sides"].items():
        seconds = "  ".join(f"{t:g} s {score:.3f}" for t, score in row["seconds"].items())
        epochs = "  ".join(f"{n} ep {score:.3f}" for n, score in row["epochs"].items())
        print(f"{side:20} {seconds}\n{'':20} {epochs}")
        print(f"{'':20} {row['trials']:g} trials, {row['trained epochs']:g} epochs, test {row['test']:.3f}")
        print(
            f"{'':20} first epoch after {row['first epoch at']:.2f} s, target after {row['seconds to target']:.1f} s"
            f" and {row['epochs to target']:g} epochs"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=list(TASKS), required=True)
    parser.add_argument("--budget", type=float, default=30.0, help="CPU seconds of a run (default: 30)")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "SEED"), help="one run; prints it as JSON")
    options = parser.parse_args()
    if options.task == "mnist" and not (options.data / "mnist").is_dir():
        raise SystemExit(f"Skipped: there is no MNIST in {options.data}; name its folder by --data.")
    if options.one:
        side, seed = options.one
        print(json.dumps(run(options.task, side, int(seed), options.budget, options.data)))
        return
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for side in options.sides:
            runs[side].append(in_a_process(options.task, side, seed, options.budget, options.data))
            log = runs[side][-1]["log"]
            print(f"seed {seed}  {side:20} {log[-1][2]:.4f} after {len(log)} epochs", flush=True)
    found = summary(runs, options.budget)
    show(found)
    if options.json:
        write_json(options.json, {"machine": machine("cpu"), "budget": options.budget, **found, "runs": runs})


if __name__ == "__main__":
    main()
