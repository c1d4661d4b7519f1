"""Run as a script: searches that are killed with SIGKILL at chosen moments and started again, as JSON on stdout.

Each search runs in a fork of this process, so the imports are paid for once.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import optuna
import torch
from optuna_migrations import read_migrations_once

from lightning_autoarch import ArchitectureSearch
from lightning_autoarch.execution import records
from lightning_autoarch.search import study as study_file
from lightning_autoarch.training import recorder

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


class PlateauNet(nets.Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(n: int, call: Callable[..., Any], after: bool) -> Callable[..., Any]:
    """`call`, with death before or after its n-th time."""
    seen = [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        if seen[0] == n and not after:
            die()
        result = call(*args, **kwargs)
        if seen[0] == n:
            die()
        return result

    return counted


def patch(owner: Any, name: str, n: int, after: bool = False) -> Callable[[], None]:
    return lambda: setattr(owner, name, nth(n, getattr(owner, name), after))


MOMENTS: dict[str, Callable[[], None]] = {
    "after a trial was asked for, before it has an owner": patch(study_file, "ask", 3, after=True),
    "between two parameters of an architecture": patch(optuna.Trial, "suggest_categorical", 4, after=True),
    "in the middle of an epoch": patch(nets.Net, "training_step", 20),
    "while a checkpoint is being replaced": patch(recorder.os, "replace", 12),
    "between a checkpoint and the report of its value": patch(optuna.Trial, "report", 8),
    "when a trial is trained but not told": patch(optuna.Study, "tell", 3),
    "after a trial was told, before old checkpoints go": patch(records.Checkpoints, "remove_others", 3),
}


def search(directory: Path, strategy: str) -> list[Any]:
    callback = ArchitectureSearch(
        nets.SPACE,
        monitor="val_loss",
        n_trials=6,
        sampler=strategy,
        study={"directory": directory, "keep_top_k": 1},
        seed=1,
    )
    nets.trainer(directory, callback, max_epochs=3).fit(PlateauNet(), *nets.loaders())
    return [
        [t.number, t.params, t.value, t.state.name, sorted(t.intermediate_values.items()), t.user_attrs["epochs"]]
        for t in callback.optuna_study.trials
    ]


def in_a_fork(work: Callable[[], Any], result: Path) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            result.write_text(json.dumps(work()))
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def killed_and_resumed(root: Path, strategy: str, moment: str) -> dict[str, Any]:
    def first() -> Any:
        MOMENTS[moment]()
        return search(root, strategy)

    killed = in_a_fork(first, root / "first.json")
    resumed = in_a_fork(lambda: search(root, strategy), root / "second.json")
    trials = json.loads((root / "second.json").read_text()) if resumed == 0 else None
    return {"killed by": killed, "resumed": resumed, "trials": trials}


def main(root: Path) -> None:
    read_migrations_once()
    optuna.create_study(storage="sqlite://")  # reads them, for all forks
    gc.collect()
    gc.freeze()  # the collection after each trial then leaves out what was imported
    results: dict[str, Any] = {}
    strategies = {"random": list(MOMENTS), "bayesian": list(MOMENTS)[1:6:2], "genetic": list(MOMENTS)[1:6:2]}
    for strategy, moments in strategies.items():
        whole = root / strategy / "whole"
        whole.mkdir(parents=True)
        in_a_fork(lambda: search(whole, strategy), whole / "result.json")  # noqa: B023
        runs = {}
        for i, moment in enumerate(moments):
            (root / strategy / str(i)).mkdir()
            runs[moment] = killed_and_resumed(root / strategy / str(i), strategy, moment)
        results[strategy] = {"whole": json.loads((whole / "result.json").read_text()), "runs": runs}
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
