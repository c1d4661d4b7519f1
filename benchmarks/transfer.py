"""What transfer gains: fine-tuning against training from scratch, searches that inherit weights against those without.

    python benchmarks/transfer.py --data DIRECTORY [--only finetuning inheritance] [--seeds 0 1 2 3 4] [--processes 2]

`transfer_strategies.py` and `transfer_inheritance.py` say what is compared with what, and how settings are chosen;
`transfer_task.py` has the data and the net. Each fit and each search runs on one thread, in one of `--processes`.
Beside it: `transfer_conformance.py` (known defects, run), `transfer_loading.py` (what matching names costs).

DIRECTORY has mnist/mnist.npz with x_train (60000, 28, 28) uint8, y_train, x_test, y_test. It prints tables and writes
benchmarks/results/transfer.json, curves included.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # a process for each core: the nets are too small for two threads

import torch
import transfer_inheritance
import transfer_strategies
from harness import Report, machine, write_json

RESULTS = Path(__file__).parent / "results"
PARTS = {"finetuning": transfer_strategies.measure, "inheritance": transfer_inheritance.measure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 100, 500])
    parser.add_argument("--epochs", type=int, default=100, help="of fine-tuning")
    parser.add_argument("--trial-epochs", type=int, nargs="+", default=[1], help="of the searches")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS / "transfer.json")
    options = parser.parse_args()
    if not (options.data / "mnist" / "mnist.npz").is_file():
        print(f"skipped, {options.data / 'mnist' / 'mnist.npz'} is not there")
        return
    torch.set_num_threads(1)
    print(about := machine("cpu"))
    load = os.getloadavg()[0]  # of others: nothing of ours runs yet
    print(f"load of the machine before: {load:.1f}")
    report, start, found = Report(), time.perf_counter(), {}
    for part in options.only:
        print(f"\n{part}", flush=True)
        found[part] = PARTS[part](report, options)
    seconds = time.perf_counter() - start
    processor = sum(each["processor_seconds"] for each in found.values())
    print(f"    processor: {processor / 60:.1f} minutes in all")
    report.bar("whole run", seconds / 60, 20, unit="minutes")
    settings: dict[str, Any] = {key: value for key, value in vars(options).items() if key not in ("data", "json")}
    result = {"machine": about, "load": load, "settings": settings, "seconds": seconds, **found, "bars": report.bars}
    write_json(options.json, {**result, "skipped": report.skipped})


if __name__ == "__main__":
    main()
