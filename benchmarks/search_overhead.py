"""What the search adds to a trial beyond the child's own fit: propose, build, ledger, checkpoint; and to an import.

    python benchmarks/search_overhead.py [--trials 50] [--json results.json]

Ten parameters, a net whose epoch takes milliseconds, SQLite. After each trial the same architecture is fitted by a
plain Trainer; a trial's overhead is its own wall time less that fit's. Medians over the last ten trials, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import lightning as L
import optuna
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoarch import ArchitectureSearch, Categorical, Float, Int
from lightning_autoarch.search.space import SearchSpace
from lightning_autoarch.search.study import Ledger, quiet_optuna
from lightning_autoarch.training.isolation import isolated
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.recorder import TrialRecorder

SPACE: dict[str, Any] = {
    **{f"width{i}": Int(4, 64, log=True) for i in range(4)},
    **{f"act{i}": Categorical(["relu", "gelu", "tanh"]) for i in range(3)},
    "dropout": Float(0.0, 0.5),
    "lr": Float(1e-4, 1e-1, log=True),
    "decay": Float(1e-6, 1e-2, log=True),
}
PARTS = ("propose", "claim", "build", "ledger", "checkpoint")
BARS = {"random": 0.1, "bayesian": 0.25}  # seconds a trial
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Net(L.LightningModule):
    def __init__(self, dropout: float = 0.0, lr: float = 1e-3, decay: float = 1e-6, **choices: Any):
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = []
        before = 8
        for i in range(4):
            width = choices.get(f"width{i}", 8)
            layers += [nn.Linear(before, width), ACTIVATIONS[choices.get(f"act{i}", "relu")](), nn.Dropout(dropout)]
            before = width
        self.net = nn.Sequential(*layers, nn.Linear(before, 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["decay"])


class Parts:
    """Seconds spent in wrapped functions since the last `take`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, function: str, part: str) -> None:
        original = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

        setattr(owner, function, timed)

    def take(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return taken


class Measured(ArchitectureSearch):
    """Fits each architecture once more, plainly, and notes both times."""

    def __init__(self, parts: Parts, **options: Any) -> None:
        super().__init__(SPACE, **options)
        self.parts, self.rows = parts, []
        self._mark = time.perf_counter()

    def _run(self, spec: Any, directory: Any, number: int, architecture: Any, report: Any) -> Any:
        result = super()._run(spec, directory, number, architecture, report)
        before_plain = time.perf_counter()
        with isolated(0):
            module = spec.builder.build(architecture)
            start = time.perf_counter()
            trainer = L.Trainer(**{**spec.trainer, "enable_checkpointing": False})
            with spec.data.for_trial({}) as data:
                trainer.fit(module, **data)
            fit = time.perf_counter() - start
        aside = time.perf_counter() - before_plain
        now = time.perf_counter()
        # From the end of the last trial's fit to the end of this one's: the ledger's work after it is the next row's.
        self.rows.append({"trial": now - self._mark - aside, "fit": fit, **self.parts.take()})
        self._mark = now
        return result


def measure(strategy: str, trials: int, parts: Parts, epochs: int) -> dict[str, float]:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(256, 8), torch.randn(256, 1))
    loader = DataLoader(data, batch_size=64)
    with tempfile.TemporaryDirectory() as root:
        search = Measured(
            parts, monitor="val_loss", n_trials=trials, sampler=strategy, study={"directory": Path(root)},
            trial={"trainer": {"max_epochs": epochs}},
        )  # fmt: skip
        trainer = L.Trainer(
            max_epochs=0, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, default_root_dir=root, callbacks=[search],
        )  # fmt: skip
        trainer.fit(Net(), loader, loader)
    last = search.rows[-10:]
    medians = {key: statistics.median(row.get(key, 0.0) for row in last) for key in {k for row in last for k in row}}
    overheads = [row["trial"] - row["fit"] for row in last]
    return {
        "overhead": statistics.median(overheads),
        "lowest": min(overheads),
        "highest": max(overheads),
        **medians,
    }


IMPORTS = """
import time
start = time.perf_counter()
import lightning
middle = time.perf_counter()
import lightning_autoarch
print(middle - start, time.perf_counter() - middle)
"""


def import_overhead(runs: int) -> dict[str, float]:
    """Medians over fresh processes of what `import lightning` takes, and `import lightning_autoarch` after it."""
    outputs = [
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True).stdout
        for _ in range(runs)
    ]
    pairs = [[float(seconds) for seconds in output.split()] for output in outputs]
    return {"lightning": statistics.median(p for p, _ in pairs), "added": statistics.median(a for _, a in pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--imports", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    parts = Parts()
    parts.wrap(SearchSpace, "suggest", "propose")
    parts.wrap(Ledger, "claim", "claim")
    parts.wrap(ModuleBuilder, "build", "build")
    parts.wrap(TrialRecorder, "_save", "checkpoint")
    for name in ("set_user_attr", "report"):
        parts.wrap(optuna.Trial, name, "ledger")
    parts.wrap(optuna.Study, "tell", "ledger")
    with quiet_optuna():
        results = {strategy: measure(strategy, options.trials, parts, options.epochs) for strategy in BARS}
    results["import"] = import_overhead(options.imports)
    print(f"machine: {machine()}")
    for strategy, bar in BARS.items():
        row = results[strategy]
        parts_of = ", ".join(f"{part} {row[part]:.3f}" for part in PARTS if part in row)
        spread = f"range {row['lowest']:.3f} to {row['highest']:.3f}, bar {bar}"
        print(f"{strategy:9} overhead {row['overhead']:.3f} s a trial ({spread}), of which {parts_of};", end=" ")
        print(f"a plain fit {row['fit']:.3f} s")
    print(f"import    adds {results['import']['added']:.2f} s to {results['import']['lightning']:.2f} s (bar 0.3)")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(
        (line.split(":")[1].strip() for line in lines if "model name" in line),
        "unknown CPU",
    )
    software = f"torch {torch.__version__} on {torch.get_num_threads()} thread, Optuna {optuna.__version__}"
    return f"{cpu}, {os.cpu_count()} cores, {software}"


if __name__ == "__main__":
    main()
