"""Small nets of the kinds that break pruning of channels, each to half of its FLOPs: this package and Torch-Pruning.

    python benchmarks/channel_conformance.py [--only ViT] [--json results.json]

What is left of the FLOPs, or why nothing is; of ours also the groups that were left as they are. Torch-Pruning is asked
as channel_peer.py says, and is skipped where it is not installed; that it ran does not say that its outputs are right.
Ours are compared with the dense net's in tests/prune/test_reported_nets.py. At the end, of a ResNet-50 at 224 x 224:
CPU seconds, medians of three.
The nets are in tests/support/reported_nets.py.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import channel_peer
import torch
from conformance import first_line
from harness import machine, write_json
from reported_nets import NETS
from torch import Tensor, nn

from lightning_autoarch.core.errors import AutoArchError
from lightning_autoarch.prune.channels import Selection, prune_channels_
from lightning_autoarch.structure.graph import ChannelGraph

RESULTS = Path(__file__).parent / "results"
TIMEOUT = 300  # seconds for one net


def ours(module: nn.Module, inputs: Any) -> str:
    with warnings.catch_warnings(action="ignore"):  # what is left is in the table
        try:
            removed = prune_channels_(module, inputs, 0.5, of="flops", selection=Selection(round_to=1))
        except AutoArchError as error:
            return f"{type(error).__name__}: {first_line(error, 60)}"
    left = f", left: {', '.join(removed.left)}" if removed.left else ""
    return f"{removed.after.flops / removed.before.flops:.2f}{left}"


def theirs(module: nn.Module, inputs: Any) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):
            return f"{channel_peer.prune(module, inputs, 0.5)[1]:.2f}"
    except ImportError:
        return "skipped: not installed"
    except Exception as error:  # whatever it raises is the result
        return f"{type(error).__name__}: {first_line(error, 60)}"


def in_child(result: Callable[[nn.Module, Any], str], name: str) -> str:
    """Of one net in a process of its own, in which it may hang or crash."""
    context = multiprocessing.get_context("fork")  # one thread here, and torch need not be imported again
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(result, name, there))
    child.start()
    there.close()
    try:
        return str(here.recv()) if here.poll(TIMEOUT) else f"no end after {TIMEOUT} s"
    except EOFError:
        return "the process crashed"
    finally:
        child.kill()
        child.join()


def _child(result: Callable[[nn.Module, Any], str], name: str, answer: Connection) -> None:
    build, sample = NETS[name]
    torch.manual_seed(0)
    answer.send(result(build().eval(), sample()))


def planning() -> dict[str, dict[str, float]]:
    """CPU seconds for the coupled channels of a ResNet-50 and for a whole pruning to half of its FLOPs."""
    found: dict[str, list[float]] = {}
    for _ in range(3):
        for name, run in (("trace", traced), ("trace and prune", pruned), ("Torch-Pruning", pruned_by_peer)):
            module = ResNet50().eval()
            start = time.process_time()
            with contextlib.suppress(ImportError):
                run(module, torch.randn(1, 3, 224, 224))
                found.setdefault(name, []).append(time.process_time() - start)
    return {name: {"median": statistics.median(t), "fastest": min(t)} for name, t in found.items()}


def traced(module: nn.Module, x: Tensor) -> None:
    ChannelGraph.of(module, x)


def pruned(module: nn.Module, x: Tensor) -> None:
    prune_channels_(module, x, 0.5, of="flops")


def pruned_by_peer(module: nn.Module, x: Tensor) -> None:
    import torch_pruning

    importance = torch_pruning.importance.MagnitudeImportance()
    torch_pruning.pruner.MagnitudePruner(
        module, x, importance, global_pruning=True, pruning_ratio=0.3, ignored_layers=[module.head], round_to=8
    ).step()


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)),
        )
        projected = nn.Sequential(nn.Conv2d(inside, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        self.short = nn.Identity() if stride == 1 and inside == 4 * width else projected

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.short(x)).relu()


class ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks, inside = [], 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for i in range(count):
                blocks.append(Bottleneck(inside, width, stride if i == 0 else 1))
                inside = 4 * width
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        self.body, self.head = nn.Sequential(*stem, *blocks), nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", default="", help="nets whose name has this text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(about := machine("cpu"))
    rows = []
    for name in NETS:
        if options.only in name:
            rows.append({"net": name, "ours": in_child(ours, name), "theirs": in_child(theirs, name)})
            print(" | ".join(str(cell) for cell in rows[-1].values()), flush=True)
    if options.json or not options.only:
        seconds = planning()
        print("ResNet-50, CPU seconds:", seconds)
        content = {"machine": about, "nets": rows, "resnet50_cpu_seconds": seconds}
        write_json(options.json or RESULTS / "channel_conformance.json", content)


if __name__ == "__main__":
    main()
