"""What matching names costs over plain loading: 1e8 parameters, their names changed by rules, from a file.

    python benchmarks/transfer_loading.py [--runs 7] [--parameters 1e8] [--json results.json]

`transfer_weights(module, path, rules=...)` against `load_state_dict(torch.load(path, mmap=True, weights_only=True))`
with names that need no rule, each run in a process of its own, in turn, one thread. The file is read once before, so it
comes from the page cache: a disk would hide the difference. Peak memory is the process's highest resident size, module
and Python included; the time is that of reading, matching and copying..
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import torch
from torch import nn

BARS = {"time": 1.3, "memory": 1.1}  # ratios to plain loading
WIDTH = 1024  # of a layer: 1.05e6 parameters, 4 MB
KINDS = ("plain", "transfer")
RULES = [("trunk", "encoder"), (re.compile(r"\.fc\."), ".linear.")]


def net(parameters: int) -> nn.Module:
    """Blocks under the names that the module has; its memory is written, as that of a module which is initialised."""
    blocks = [nn.ModuleDict({"linear": nn.Linear(WIDTH, WIDTH)}) for _ in range(round(parameters / WIDTH / WIDTH))]
    return nn.ModuleDict({"encoder": nn.ModuleList(blocks)})


def made(parameters: int) -> nn.Module:
    with torch.device("meta"):
        module = net(parameters)
    module = module.to_empty(device="cpu")
    for tensor in module.parameters():
        tensor.data.fill_(1.0)
    return module


def write(folder: Path, parameters: int) -> None:
    state = {name: torch.randn_like(tensor) for name, tensor in made(parameters).state_dict().items()}
    torch.save(state, folder / "plain.pt")
    old = {name.replace("encoder.", "trunk.").replace(".linear.", ".fc."): value for name, value in state.items()}
    torch.save(old, folder / "transfer.pt")


def run(kind: str, path: Path, parameters: int) -> dict[str, float]:
    """One run, in this process: seconds and peak bytes."""
    from lightning_autoarch.transfer.transfer_weights import (
        transfer_weights,  # in both: what an import takes is no part of this
    )

    module = made(parameters)
    start = time.perf_counter()
    if kind == "plain":
        module.load_state_dict(torch.load(path, mmap=True, weights_only=True))
    else:
        report = transfer_weights(module, path, rules=RULES)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert kind == "plain" or report.share == 1, "all of it must have been taken over"
    return {"seconds": seconds, "bytes": peak}


def measure(parameters: int, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*own("write"), folder, str(parameters)], check=True)
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for number in range(runs + 1):
            for kind in KINDS if number % 2 else reversed(KINDS):
                command = [*own(kind), folder, str(parameters)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                if number:  # the first round brings the files into the cache
                    found[kind].append(json.loads(done.stdout))
    rows = {kind: summary(each) for kind, each in found.items()}
    ratios = {
        "time": rows["transfer"]["seconds"] / rows["plain"]["seconds"],
        "memory": rows["transfer"]["bytes"] / rows["plain"]["bytes"],
    }
    return {"parameters": parameters, "runs": runs, **rows, "ratios": ratios, "bars": BARS}


def own(action: str) -> list[str]:
    return [sys.executable, __file__, "--action", action]


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    seconds = [row["seconds"] for row in rows]
    return {
        "seconds": statistics.median(seconds),
        "lowest": min(seconds),
        "highest": max(seconds),
        "bytes": statistics.median(row["bytes"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=1e8)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--action", choices=["write", *KINDS], help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.action:
        folder, parameters = Path(options.rest[0]), int(options.rest[1])
        if options.action == "write":
            write(folder, parameters)
        else:
            print(json.dumps(run(options.action, folder / f"{options.action}.pt", parameters)))
        return
    result = measure(int(options.parameters), options.runs)
    print(f"machine: {machine()}; {result['parameters']:.0e} parameters, {options.runs} runs")
    for kind in KINDS:
        row = result[kind]
        spread = f"{row['lowest']:.3f} to {row['highest']:.3f}"
        print(f"{kind:9} {row['seconds']:.3f} s ({spread}), peak {row['bytes'] / 2**20:.0f} MiB")
    for name, bar in BARS.items():
        print(f"{name:9} {result['ratios'][name]:.2f}x (bar {bar})")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown CPU")
    return f"{cpu}, {os.cpu_count()} cores, torch {torch.__version__} on {torch.get_num_threads()} thread"


if __name__ == "__main__":
    main()
