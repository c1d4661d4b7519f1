"""The defects of other pruning tools, run against them and against this package: one row each, nothing from memory.

    python benchmarks/prune_conformance.py [--only LSTM] [--json results.json]

A cell is what was seen when the check ran here. Torch-Pruning's rows are skipped where it is not installed. The exit
status is 1 where this package fails a check.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import conformance
import prune_defects_channels
import prune_defects_lightning
import prune_defects_torch

RESULTS = Path(__file__).parent / "results"
TABLES = {
    "torch.nn.utils.prune": ("torch", prune_defects_torch.DEFECTS),
    "Lightning's ModelPruning": ("lightning", prune_defects_lightning.DEFECTS),
    "Torch-Pruning": ("torch-pruning", prune_defects_channels.DEFECTS),
}

if __name__ == "__main__":
    sys.exit(conformance.execute(TABLES, RESULTS / "prune_conformance.json", __doc__.splitlines()[0]))
