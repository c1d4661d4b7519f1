"""Small nets of the kinds that break pruning of channels, each to half of its FLOPs: this package and Torch-Pruning.

    python benchmarks/channel_conformance.py [--only ViT] [--json results.json]

Ours: what is left of the FLOPs, and groups that were left as they are. Torch-Pruning: what is left of the FLOPs at a
ratio of 0.3 of the channels, about half of the FLOPs, if the module then still runs; skipped where it is not installed.
The nets are in tests/support/reported_nets.py.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import warnings
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import torch
from conformance import first_line
from harness import machine, write_json
from reported_nets import NETS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_autoarch.errors import AutoArchError
from lightning_autoarch.prune.channels import Target, prune_channels_
from lightning_autoarch.prune.cost import cost_of
from lightning_autoarch.structure import run_on

RESULTS = Path(__file__).parent / "results"


def ours(module: nn.Module, inputs: Any) -> str:
    with warnings.catch_warnings(action="ignore"):  # what is left is in the table
        try:
            removed = prune_channels_(module, inputs, Target(flops=0.5), round_to=1)
        except AutoArchError as error:
            return f"{type(error).__name__}: {first_line(error, 60)}"
    left = f", left: {', '.join(removed.left)}" if removed.left else ""
    return f"{removed.after.flops / removed.before.flops:.2f}{left}"


def theirs(module: nn.Module, inputs: Any) -> str:
    try:
        import torch_pruning
    except ImportError:
        return "skipped: not installed"
    before = cost_of(module, inputs).flops
    outputs = [x.shape[-1] for x in tree_leaves(run_on(module, inputs)) if isinstance(x, Tensor)]
    last = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features in outputs]
    last += [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv1d) and m.out_channels < 8]
    importance = torch_pruning.importance.MagnitudeImportance()
    try:
        torch_pruning.pruner.MagnitudePruner(module, inputs, importance, pruning_ratio=0.3, ignored_layers=last).step()
        run_on(module, inputs)
    except Exception as error:  # whatever it raises is the result
        return f"{type(error).__name__}: {first_line(error, 60)}"
    share = cost_of(module, inputs).flops / before
    return f"{share:.2f}" if share < 1 else "nothing removed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", default="", help="nets whose name has this text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(about := machine("cpu"))
    rows = []
    for name, (build, sample) in NETS.items():
        if options.only in name:
            torch.manual_seed(0)
            module, inputs = build().eval(), sample()
            rows.append({"net": name, "ours": ours(copy.deepcopy(module), inputs), "theirs": theirs(module, inputs)})
            print(" | ".join(str(cell) for cell in rows[-1].values()), flush=True)
    if options.json or not options.only:
        write_json(options.json or RESULTS / "channel_conformance.json", {"machine": about, "nets": rows})


if __name__ == "__main__":
    main()
