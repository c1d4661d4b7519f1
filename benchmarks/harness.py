"""What the benchmarks share: timed cases in interleaved rounds, bars that are met or missed, memory, the machine."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

MIB = 2**20
THREADS_REST = 0.02  # seconds; OpenMP's threads spin for a while after torch's own operations


class Skip(Exception):
    """What cannot be measured here, and why."""


@dataclass
class Case:
    """Something to time, and what is done before each run, outside of the clock."""

    run: Callable[[], Any]
    before: Callable[[], Any] = lambda: None
    bytes: float = 0.0  # that it moves at least
    times: list[float] = field(default_factory=list)  # seconds

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def summary(self) -> dict[str, Any]:
        return {
            "seconds": self.median, "fastest": min(self.times), "slowest": max(self.times), "runs": len(self.times),
            "bytes": self.bytes, "gb_per_second": self.bytes / self.median / 1e9,
        }  # fmt: skip


def interleaved(cases: dict[str, Case], rounds: int, sync: Callable[[], None]) -> None:
    """One run of each, untimed, then `rounds` of all."""
    for number in range(rounds + 1):
        for case in cases.values():
            case.before()
            sync()
            time.sleep(THREADS_REST)
            start = time.perf_counter()
            case.run()
            sync()
            if number:
                case.times.append(time.perf_counter() - start)


@dataclass(frozen=True)
class Ratio:
    """Of runs in pairs, each with the one of the same round: the median, its 95 % bootstrap interval, quartiles."""

    median: float
    low: float
    high: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, times: list[float], baseline: list[float], resamples: int = 2000) -> Ratio:
        each = torch.tensor(times, dtype=torch.float64) / torch.tensor(baseline, dtype=torch.float64)
        rows = torch.randint(len(each), (resamples, len(each)), generator=torch.Generator().manual_seed(0))
        medians = each[rows].quantile(0.5, dim=1)
        low, high = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return cls(float(each.quantile(0.5)), low, high, float(each.quantile(0.25)), float(each.quantile(0.75)))

    def __str__(self) -> str:
        quartiles = f"quartiles {self.lower_quartile:.4f} to {self.upper_quartile:.4f}"
        return f"{self.median:.4f} (95 %: {self.low:.4f} to {self.high:.4f}; {quartiles})"


class Report:
    """Figures as they come, and bars that are met or missed."""

    def __init__(self) -> None:
        self.cases: dict[str, Any] = {}
        self.bars: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}

    def add(self, name: str, case: Case) -> None:
        self.cases[name] = row = case.summary()
        spread = f"{row['fastest'] * 1e3:.2f} to {row['slowest'] * 1e3:.2f}, {row['runs']} runs"
        speed = f"   {row['gb_per_second']:7.1f} GB/s" if case.bytes else ""
        print(f"{name:58} {row['seconds'] * 1e3:10.2f} ms   ({spread}){speed}", flush=True)

    def bar(self, name: str, value: float, limit: float, *, least: bool = False, unit: str = "x") -> None:
        met = value >= limit if least else value <= limit
        self.bars.append({"name": name, "value": value, "limit": limit, "least": least, "unit": unit, "met": met})
        sign = ">=" if least else "<="
        print(f"    {name}: {value:.3g} {unit} (bar {sign} {limit:.3g})   {'met' if met else 'MISSED'}", flush=True)

    def attempt(self, name: str, function: Callable[[], None]) -> None:
        try:
            function()
        except Skip as reason:
            self.skipped[name] = str(reason)
            print(f"{name}: skipped, {reason}", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def once(case: Case) -> Case:
    """For `interleaved`'s untimed round: the run itself is what is timed, since it is too slow for a warm-up."""

    def run() -> None:
        start = time.perf_counter()
        case.run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        case.times.append(time.perf_counter() - start)

    return Case(run, case.before)


def no_sync() -> None:
    """The CPU is done when a call returns."""


def need_memory(size: float, device: str) -> None:
    if device == "cuda":
        available = torch.cuda.mem_get_info()[0]
    else:
        available = status("/proc/meminfo", "MemAvailable")
    if available < size:
        raise Skip(f"needs {size / 2**30:.1f} GiB of free memory, there are {available / 2**30:.1f}")


def status(path: str, name: str) -> int:  # bytes
    lines = Path(path).read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peak_on_cpu(run: Callable[[], Any]) -> int:
    """Bytes above what was resident before."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is freed but still resident would be used again, unseen
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError) as error:
        raise Skip(f"the peak cannot be measured: {error}") from error
    before = status("/proc/self/status", "VmRSS")
    kept = run()
    peak = status("/proc/self/status", "VmHWM") - before
    del kept
    return peak


def peak_on_cuda(run: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    return peak


def held(module: nn.Module) -> int:  # bytes
    """Of all tensors that a module keeps, parameters, buffers and plain attributes, each memory once."""
    tensors = [*module.parameters(), *module.buffers()]
    for child in module.modules():
        tensors += [value for value in vars(child).values() if isinstance(value, torch.Tensor)]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def machine(device: str) -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown CPU")
    about = {"cpu": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads", "torch": torch.__version__}
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        about["gpu"] = output(query) or torch.cuda.get_device_name()
    about["commit"] = output(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]) or "unknown"
    return about


def output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def write_json(path: Path, result: dict[str, Any]) -> None:
    """With the folder around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")
