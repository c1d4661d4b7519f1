"""Exact magnitude pruning against its floor and its peers: time, scratch memory, lists of tensors, hard inputs.

    python benchmarks/prune_kernels.py [--device cuda] [--n 100000000] [--quick] [--json results.json] [--svg plot.svg]

The floor is one read of all weights and one read-and-write of them: what a pruning cannot do without. On the CPU that
is a plain C++ loop, compiled here for this processor, on as many threads; on CUDA 12.1 bytes a weight (4 + 8, and the
mask) at the bandwidth of torch's `copy_`. Rounds are interleaved, so that a busy moment falls on everybody; each run
works on a fresh copy that is made outside of the clock, in memory that was touched before. Figures are medians, with
the fastest and the slowest run; ratios are of medians. A peer that takes seconds runs once or twice.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import prune as torch_prune

from lightning_autoarch.prune import apply_masks_, prune_

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
THREADS_REST = 0.02  # seconds; OpenMP's threads spin for a while after torch's own operations

FLOOR = r"""
#include <cstdint>
#include <thread>
#include <vector>

template <typename F>
void in_parallel(std::int64_t n, int threads, F f) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(f, n * t / threads, n * (t + 1) / threads);
  f(std::int64_t{0}, n / threads);
  for (std::thread& other : others) other.join();
}

extern "C" std::uint64_t read_all(const std::uint64_t* x, std::int64_t n, int threads) {
  std::vector<std::uint64_t> results(static_cast<std::size_t>(threads) * 8);
  in_parallel(n, threads, [&](std::int64_t begin, std::int64_t end) {
    std::uint64_t all = 0;
    for (std::int64_t i = begin; i < end; ++i) all |= x[i];
    results[static_cast<std::size_t>((begin * threads + n - 1) / n) * 8] = all;
  });
  std::uint64_t all = 0;
  for (const std::uint64_t each : results) all |= each;
  return all;
}

extern "C" void read_and_write_all(std::uint64_t* x, std::int64_t n, std::uint64_t bits, int threads) {
  in_parallel(n, threads, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) x[i] &= bits;
  });
}
"""


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


class Floor:
    """The best plain loop over memory, or on CUDA what `copy_` moves in a second."""

    def __init__(self) -> None:
        if not (compiler := shutil.which("g++")):
            raise Skip("g++ is not installed, which the floor is compiled with")
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "floor.cpp"), Path(folder, "floor.so")
            source.write_text(FLOOR)
            flags = ["-O3", "-march=native", "-std=c++17", "-pthread", "-shared", "-fPIC"]
            subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
            self.library = ctypes.CDLL(str(library))
        self.library.read_all.restype = ctypes.c_uint64

    def cases(self, work: Tensor, name: str) -> dict[str, Case]:
        size = work.numel() * work.element_size()
        memory, words = ctypes.c_void_p(work.data_ptr()), ctypes.c_int64(size // 8)
        threads, ones = ctypes.c_int(torch.get_num_threads()), ctypes.c_uint64(2**64 - 1)
        return {
            f"{name}: read": Case(lambda: self.library.read_all(memory, words, threads), bytes=size),
            f"{name}: read and write": Case(
                lambda: self.library.read_and_write_all(memory, words, ones, threads), bytes=2 * size
            ),
        }


def no_sync() -> None:
    """The CPU is done when a call returns."""


def normal(n: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.empty(n, dtype=torch.float32, device=device).normal_(generator=generator).to(dtype)


def pruning(data: Tensor, work: list[Tensor], flat: Tensor, **options: Any) -> Case:
    """`prune_` of views of `flat`, which is made a copy of `data` before each run."""
    size = flat.numel() * flat.element_size()
    return Case(lambda: prune_(work, sparsity=0.5, **options), lambda: flat.copy_(data), 3 * size + flat.numel() / 8)


# --- peers


def by_partition(weights: np.ndarray) -> None:
    magnitudes = np.abs(weights)
    k = weights.size // 2
    weights[magnitudes <= np.partition(magnitudes, k - 1)[k - 1]] = 0


def by_kthvalue(weights: Tensor) -> None:
    magnitudes = weights.abs()
    weights.masked_fill_(magnitudes <= magnitudes.kthvalue(weights.numel() // 2).values, 0)


def by_topk(weights: Tensor) -> None:
    keep = torch.topk(weights.abs(), weights.numel() // 2, sorted=False).indices
    mask = torch.zeros_like(weights, dtype=torch.bool)
    mask[keep] = True
    weights.mul_(mask)


def by_torch_prune(weights: Tensor) -> Callable[[], None]:
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(weights, requires_grad=False)

    def run() -> None:
        torch_prune.global_unstructured([(module, "weight")], torch_prune.L1Unstructured, amount=0.5)
        torch_prune.remove(module, "weight")

    return run


def need_memory(size: float, device: str) -> None:
    if device == "cuda":
        available = torch.cuda.mem_get_info()[0]
    else:
        available = status("/proc/meminfo", "MemAvailable")
    if available < size:
        raise Skip(f"needs {size / 2**30:.1f} GiB of free memory, there are {available / 2**30:.1f}")


# --- lists


def resnet50() -> list[tuple[int, ...]]:
    """Every parameter: 161 tensors, 25,557,032 numbers."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for out, into, kernel in ((planes, inside, 1), (planes, planes, 3), (4 * planes, planes, 1)):
                shapes += [(out, into, kernel, kernel), (out,), (out,)]
            if block == 0:
                shapes += [(4 * planes, inside, 1, 1), (4 * planes,), (4 * planes,)]
            inside = 4 * planes
    return [*shapes, (1000, 2048), (1000,)]


def transformer_layer() -> list[tuple[int, ...]]:
    """One layer of a 7B transformer: 9 tensors, 202,383,360 numbers."""
    attention, mlp = [(4096, 4096)] * 4, [(11008, 4096), (11008, 4096), (4096, 11008)]
    return [*attention, *mlp, (4096,), (4096,)]


LISTS = {"ResNet-50": resnet50(), "a layer of a 7B transformer": transformer_layer()}


def as_list(flat: Tensor, shapes: Iterable[tuple[int, ...]]) -> list[Tensor]:
    """Tensors as a model has them, each in memory of its own, of `flat`'s numbers in its order."""
    tensors, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        tensors.append(flat[start : start + size].view(shape).clone())
        start += size
    return tensors


# --- hard inputs


def fill(name: str, out: Tensor) -> None:
    """Each written into memory that is there already."""
    array, random = out.numpy(), np.random.default_rng(1)
    out.copy_(normal(out.numel()))
    if name == "sorted":
        array.sort()
    elif name == "all equal":
        array[:] = 0.25
    elif name == "90 % zero":
        array[random.random(array.size, dtype=np.float32) < 0.9] = 0
    elif name == "heavy-tailed":
        array /= random.random(array.size, dtype=np.float32) ** 2 + np.float32(1e-12)
    elif name == "two values":
        array[:] = np.where(array < 0, np.float32(1), np.float32(2))
    elif name == "random bits":
        bits = array.view(np.uint32)
        bits[:] = random.integers(0, 2**32, array.size, dtype=np.uint32)
        bits[(bits & 0x7F800000) == 0x7F800000] &= 0xBFFFFFFF  # finite


HARD = ["sorted", "all equal", "90 % zero", "heavy-tailed", "two values", "random bits"]


# --- memory


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


def scratch(report: Report, name: str, work: Tensor, peak: Callable[[Callable[[], Any]], int]) -> None:
    masks = 8 * math.ceil(work.numel() / 64)
    used = (peak(lambda: prune_([work], sparsity=0.5)) - masks) / MIB
    allowed = max(0.02 * work.numel() * work.element_size(), 8 * MIB) / MIB
    report.bar(f"{name}: scratch beyond the masks", used, allowed, unit="MiB")


# --- the two tables


def on_cpu(report: Report, n: int, rounds: int) -> None:
    floor = Floor()

    def main_case() -> None:
        data = normal(n)
        flat = data.clone()
        loops = floor.cases(flat, "floor, float32")
        cases = {**loops, "prune_, float32 normal": pruning(data, [flat], flat)}
        interleaved(cases, rounds, no_sync)
        for name, case in cases.items():
            report.add(name, case)
        ours = cases["prune_, float32 normal"].median
        report.bar("prune_ / floor", ours / sum(case.median for case in loops.values()), 1.25)
        flat.copy_(data)
        report.attempt("scratch memory", lambda: scratch(report, "float32", flat, peak_on_cpu))

        def peer(name: str, bar: float | None, runs: int, memory: float, make: Callable[[], Callable[[], Any]]) -> None:
            need_memory(memory * n, "cpu")
            flat.copy_(data)
            case = Case(make(), lambda: flat.copy_(data))
            for _ in range(runs):
                interleaved({"": once(case)}, 0, no_sync)
            report.add(name, case)
            if bar is not None:
                report.bar(f"prune_ faster than {name}", case.median / ours, bar, least=True)

        peers: list[tuple[str, float | None, int, float, Callable[[], Callable[[], Any]]]] = [
            ("np.partition + apply", 20, 3, 16, lambda: lambda: by_partition(flat.numpy())),
            ("torch.kthvalue + apply", None, 2, 30, lambda: lambda: by_kthvalue(flat)),
            ("torch global_unstructured", 400, 1, 60, lambda: by_torch_prune(flat)),
        ]
        for name, *rest in peers:
            report.attempt(name, lambda name=name, rest=rest: peer(name, *rest))  # type: ignore[misc]

    def bfloat16() -> None:
        data = normal(n, dtype=torch.bfloat16)
        flat = data.clone()
        loops = floor.cases(flat, "floor, bfloat16")
        ours = pruning(data, [flat], flat)
        interleaved({**loops, "": ours}, rounds, no_sync)
        for name, case in loops.items():
            report.add(name, case)
        report.add("prune_, bfloat16 normal", ours)
        report.bar("prune_, bfloat16 / its floor", ours.median / sum(case.median for case in loops.values()), 2.5)

    def lists(name: str) -> None:
        total = sum(map(math.prod, LISTS[name]))
        need_memory(5 * 4 * total, "cpu")
        compare_list(report, name, normal(total), rounds, no_sync)

    def hard_inputs() -> None:
        plain, data, flat = normal(n), torch.zeros(n), torch.zeros(n)
        for name in HARD:
            fill(name, data)
            cases = {"": pruning(plain, [flat], flat), name: pruning(data, [flat], flat)}
            interleaved(cases, max(3, rounds // 2), no_sync)
            report.add(f"prune_, {name}", cases[name])
            report.bar(f"{name} / normal", cases[name].median / cases[""].median, 3)

    report.attempt("float32", main_case)
    report.attempt("bfloat16", bfloat16)
    for name in LISTS:
        report.attempt(name, lambda name=name: lists(name))  # type: ignore[misc]
    report.attempt("hard inputs", hard_inputs)


def once(case: Case) -> Case:
    """For `interleaved`'s untimed round: the run itself is what is timed, since it is too slow for a warm-up."""

    def run() -> None:
        start = time.perf_counter()
        case.run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        case.times.append(time.perf_counter() - start)

    return Case(run, case.before)


def compare_list(report: Report, name: str, data: Tensor, rounds: int, sync: Callable[[], None]) -> None:
    flat, parts = data.clone(), as_list(data, LISTS[name])
    fresh = as_list(data, LISTS[name])
    size = data.numel() * data.element_size() * 3 + data.numel() / 8
    cases = {
        f"prune_, {name} as one tensor": pruning(data, [flat], flat),
        f"prune_, {name}": Case(
            lambda: prune_(parts, sparsity=0.5), lambda: torch._foreach_copy_(parts, fresh), bytes=size
        ),
    }
    interleaved(cases, 2 * rounds, sync)
    one, many = cases.values()
    for case_name, case in cases.items():
        report.add(case_name, case)
    report.bar(f"{name} / one tensor of that size", many.median / one.median, 1.15)


def on_cuda(report: Report, n: int, rounds: int) -> None:
    sync = torch.cuda.synchronize
    bandwidth = 0.0  # bytes a second

    def main_case() -> None:
        nonlocal bandwidth
        need_memory(14 * n, "cuda")
        data = normal(n, "cuda")
        flat = data.clone()
        cases = {
            "copy_": Case(lambda: flat.copy_(data), bytes=8 * n),
            "prune_, float32 normal": pruning(data, [flat], flat),
        }
        interleaved(cases, rounds, sync)
        for name, case in cases.items():
            report.add(name, case)
        bandwidth = 8 * n / cases["copy_"].median
        ours = cases["prune_, float32 normal"].median
        report.bar("prune_ / 12.1 bytes a weight at that bandwidth", ours * bandwidth / (12.1 * n), 1.3)
        flat.copy_(data)
        report.attempt("scratch memory", lambda: scratch(report, "float32", flat, peak_on_cuda))

        def topk() -> None:
            case = Case(lambda: by_topk(flat), lambda: flat.copy_(data))
            try:
                for _ in range(2):
                    interleaved({"": once(case)}, 0, sync)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                raise Skip(str(error).splitlines()[0]) from error
            report.add("torch.topk + apply", case)
            report.bar("prune_ faster than torch.topk + apply", case.median / ours, 20, least=True)

        report.attempt("torch.topk", topk)

    def bfloat16() -> None:
        data = normal(n, "cuda", torch.bfloat16)
        flat = data.clone()
        cases = {"copy_, bfloat16": Case(lambda: flat.copy_(data), bytes=4 * n), "": pruning(data, [flat], flat)}
        interleaved(cases, rounds, sync)
        report.add("prune_, bfloat16 normal", cases[""])

    def masks() -> None:
        flat = normal(sum(map(math.prod, LISTS["ResNet-50"])), "cuda")
        tensors = as_list(flat, LISTS["ResNet-50"])
        chosen = prune_(tensors, sparsity=0.5)
        apply_masks_(tensors, chosen)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            apply_masks_(tensors, chosen)
        case = Case(no_sync, bytes=8.125 * flat.numel())
        for _ in range(20 + rounds):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            sync()
            case.times.append(start.elapsed_time(end) / 1e3)
        report.add("apply_masks_, ResNet-50 (GPU time)", case)
        above = (case.median - case.bytes / bandwidth) * 1e6
        report.bar("apply_masks_, ResNet-50: GPU time above its bytes", above, 20, unit="µs")

    def hard_inputs() -> None:
        part = n // 10
        plain, data = normal(part, "cuda"), torch.zeros(part)
        flat = plain.clone()
        for name in HARD:
            fill(name, data)
            there = data.cuda()
            cases = {"": pruning(plain, [flat], flat), name: pruning(there, [flat], flat)}
            interleaved(cases, rounds, sync)
            report.add(f"prune_, {name} ({part:,})", cases[name])
            report.bar(f"{name} / normal", cases[name].median / cases[""].median, 3)

    report.attempt("float32", main_case)
    report.attempt("bfloat16", bfloat16)
    for name, shapes in LISTS.items():
        data = normal(sum(map(math.prod, shapes)), "cuda")
        report.attempt(name, lambda name=name, data=data: compare_list(report, name, data, rounds, sync))  # type: ignore[misc]
    report.attempt("apply_masks_", masks)
    report.attempt("hard inputs", hard_inputs)


# --- what it ran on, and the plot


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


def plot(cases: dict[str, Any], floor: float, n: int, about: dict[str, str]) -> str:
    """Horizontal bars on a logarithmic axis, as SVG: nothing has to be installed for it."""
    rows = [(name, cases[name]["seconds"]) for name in PLOTTED if name in cases]
    rows.append(("floor: one read, one read-and-write", floor))
    rows.sort(key=lambda row: -row[1])
    left, width, height, top = 270, 470, 30, 62
    low = 10 ** math.floor(math.log10(min(seconds for _, seconds in rows) / 1.5))
    high = 10 ** math.ceil(math.log10(max(seconds for _, seconds in rows)))

    def x(seconds: float) -> float:
        return left + width * math.log(seconds / low) / math.log(high / low)

    bottom = top + height * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {bottom + 62}" font-family="sans-serif"',
        'font-size="13">',
        f'<rect width="860" height="{bottom + 62}" fill="#ffffff"/>',
        f'<text x="20" y="26" font-size="16" font-weight="bold">Pruning {n:,} float32 weights to 50 %</text>',
        '<text x="20" y="46" fill="#555555">time, shorter is better; logarithmic axis</text>',
    ]  # fmt: skip
    tick = low
    while tick <= high * 1.001:
        label = f"{tick * 1e3:g} ms" if tick < 1 else f"{tick:g} s"
        parts.append(f'<path d="M{x(tick):.1f} {top}V{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555555">{label}</text>')
        tick *= 10
    for i, (name, seconds) in enumerate(rows):
        y = top + height * i
        colour = "#c2410c" if name.startswith("prune_") else "#9ca3af" if name.startswith("floor") else "#60a5fa"
        value = f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
        parts.append(f'<text x="{left - 10}" y="{y + 20}" text-anchor="end">{PLOTTED.get(name, name)}</text>')
        parts.append(f'<rect x="{left}" y="{y + 5}" width="{x(seconds) - left:.1f}" height="20" fill="{colour}"/>')
        parts.append(f'<text x="{x(seconds) + 6:.1f}" y="{y + 20}">{value}</text>')
    note = f"{about['cpu']}; torch {about['torch']}; commit {about['commit']}"
    parts.append(f'<text x="20" y="{bottom + 46}" font-size="11" fill="#777777">{note}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


PLOTTED = {
    "torch global_unstructured": "torch global_unstructured",
    "torch.kthvalue + apply": "torch.kthvalue + apply",
    "np.partition + apply": "np.partition + apply",
    "prune_, float32 normal": "lightning_autoarch prune_",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--n", type=int, help="weights; 1e8 on the CPU and 1e9 on CUDA where not given")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="a tenth of the weights, 3 rounds; nothing is written")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path, help="CPU only")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("skipped: torch sees no CUDA device")
    torch.set_num_threads(options.threads)
    n = options.n or (10**8 if options.device == "cpu" else 10**9) // (10 if options.quick else 1)
    rounds = 3 if options.quick else options.rounds
    about, report = machine(options.device), Report()
    print("; ".join(f"{key}: {value}" for key, value in about.items()))
    print(f"{n:,} weights to 50 %, {rounds} rounds", flush=True)
    (on_cpu if options.device == "cpu" else on_cuda)(report, n, rounds)
    missed = [bar["name"] for bar in report.bars if not bar["met"]]
    print(
        f"{len(report.bars) - len(missed)} of {len(report.bars)} bars met" + "".join(f"\n  MISSED {m}" for m in missed)
    )
    json_path = options.json or (None if options.quick else RESULTS / f"prune_kernels_{options.device}.json")
    if json_path:
        result = {"machine": about, "n": n, "cases": report.cases, "bars": report.bars, "skipped": report.skipped}
        json_path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    svg_path = options.svg or (None if options.quick else RESULTS / "prune_kernels_cpu.svg")
    if svg_path and options.device == "cpu" and "floor, float32: read" in report.cases:
        floor = sum(report.cases[f"floor, float32: {loop}"]["seconds"] for loop in ("read", "read and write"))
        svg_path.write_text(plot(report.cases, floor, n, about), encoding="utf-8")


if __name__ == "__main__":
    main()
