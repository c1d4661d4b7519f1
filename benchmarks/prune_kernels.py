"""Exact magnitude pruning against its floor and its peers: time, scratch memory, lists of tensors, hard inputs.

    python benchmarks/prune_kernels.py [--device cuda] [--n 100000000] [--quick] [--json results.json] [--svg plot.svg]
                                       [--instruction-set avx2]

The floor is one read of all weights and one read-and-write of them: what a pruning cannot do without. On the CPU that
is a plain C++ loop, compiled here for this processor, on as many threads; on CUDA 12.1 bytes a weight (4 + 8, and the
mask) at the bandwidth of torch's `copy_`. Rounds are interleaved, so that a busy moment falls on everybody; each run
works on a fresh copy that is made outside of the clock, in memory that was touched before. Figures are medians, with
the fastest and the slowest run; ratios are of medians. A peer that takes seconds runs once or twice.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import MIB, Case, Report, Skip, interleaved, machine, need_memory, no_sync, once, peak_on_cpu, peak_on_cuda
from prune_inputs import HARD, LISTS, as_list, fill, normal
from prune_peers import Floor, by_kthvalue, by_partition, by_topk, by_torch_prune
from prune_plot import plot
from torch import Tensor

from lightning_autoarch.prune import _ops, apply_masks_, prune_

FLOORS = {"avx512": 1.25, "avx2": 1.2, "plain": 3.0}  # times of the floor that a pruning may take, 1e8 float32
RESULTS = Path(__file__).parent / "results"


def pruning(data: Tensor, work: list[Tensor], flat: Tensor, **options: Any) -> Case:
    """`prune_` of views of `flat`, which is made a copy of `data` before each run."""
    size = flat.numel() * flat.element_size()
    return Case(lambda: prune_(work, sparsity=0.5, **options), lambda: flat.copy_(data), 3 * size + flat.numel() / 8)


def scratch(report: Report, name: str, work: Tensor, peak: Callable[[Callable[[], Any]], int]) -> None:
    masks = 8 * math.ceil(work.numel() / 64)
    used = (peak(lambda: prune_([work], sparsity=0.5)) - masks) / MIB
    allowed = max(0.02 * work.numel() * work.element_size(), 8 * MIB) / MIB
    report.bar(f"{name}: scratch beyond the masks", used, allowed, unit="MiB")


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
        allowed = FLOORS[_ops.instruction_set()]
        report.bar("prune_ / floor", ours / sum(case.median for case in loops.values()), allowed)
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

        plain = _ops.instruction_set() == "plain"
        peers: list[tuple[str, float | None, int, float, Callable[[], Callable[[], Any]]]] = [
            ("np.partition + apply", None if plain else 20, 3, 16, lambda: lambda: by_partition(flat.numpy())),
            ("torch.kthvalue + apply", None, 2, 30, lambda: lambda: by_kthvalue(flat)),
            ("torch global_unstructured", None if plain else 400, 1, 60, lambda: by_torch_prune(flat)),
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
        allowed = max(2.5, FLOORS[_ops.instruction_set()])
        report.bar("prune_, bfloat16 / its floor", ours.median / sum(case.median for case in loops.values()), allowed)

    def lists(name: str) -> None:
        total = sum(map(math.prod, LISTS[name]))
        need_memory(5 * 4 * total, "cpu")
        compare_list(report, name, normal(total), rounds, no_sync)

    def channels_last() -> None:
        data = normal(n // 512 * 512)
        flat, laid = data.clone(), data.clone()
        shape = (-1, 64, 2, 4)
        work = laid.view(-1, 2, 4, 64).permute(0, 3, 1, 2)
        assert work.is_contiguous(memory_format=torch.channels_last)
        cases = {"": pruning(data, [flat.view(shape)], flat), "prune_, channels_last": pruning(data, [work], laid)}
        interleaved(cases, rounds, no_sync)
        report.add("prune_, channels_last", cases["prune_, channels_last"])
        report.bar("channels_last / contiguous", cases["prune_, channels_last"].median / cases[""].median, 2)

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
    report.attempt("channels_last", channels_last)
    report.attempt("hard inputs", hard_inputs)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--n", type=int, help="weights; 1e8 on the CPU and 1e9 on CUDA where not given")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--instruction-set", choices=_ops.instruction_sets(), help="of the CPU kernels; the best where not given"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the weights, 3 rounds; nothing is written")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path, help="CPU only")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("skipped: torch sees no CUDA device")
    if options.instruction_set:
        os.environ["LIGHTNING_AUTOARCH_INSTRUCTION_SET"] = options.instruction_set  # read by the first kernel
    torch.set_num_threads(options.threads)
    n = options.n or (10**8 if options.device == "cpu" else 10**9) // (10 if options.quick else 1)
    rounds = 3 if options.quick else options.rounds
    about, report = machine(options.device), Report()
    on = options.device
    if on == "cpu":
        about["instruction set"] = _ops.instruction_set()
        on += "" if _ops.instruction_set() == "avx512" else f"_{_ops.instruction_set()}"
    print("; ".join(f"{key}: {value}" for key, value in about.items()))
    print(f"{n:,} weights to 50 %, {rounds} rounds", flush=True)
    (on_cpu if options.device == "cpu" else on_cuda)(report, n, rounds)
    missed = [bar["name"] for bar in report.bars if not bar["met"]]
    print(
        f"{len(report.bars) - len(missed)} of {len(report.bars)} bars met" + "".join(f"\n  MISSED {m}" for m in missed)
    )
    json_path = options.json or (None if options.quick else RESULTS / f"prune_kernels_{on}.json")
    if json_path:
        result = {"machine": about, "n": n, "cases": report.cases, "bars": report.bars, "skipped": report.skipped}
        json_path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    svg_path = options.svg or (None if options.quick else RESULTS / f"prune_kernels_{on}.svg")
    if svg_path and options.device == "cpu" and "floor, float32: read" in report.cases:
        floor = sum(report.cases[f"floor, float32: {loop}"]["seconds"] for loop in ("read", "read and write"))
        svg_path.write_text(plot(report.cases, floor, n, about), encoding="utf-8")


if __name__ == "__main__":
    main()
