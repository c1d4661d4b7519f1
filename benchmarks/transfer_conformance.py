"""The defects of other ways to fine-tune and to load, run against them and against this package: nothing from memory.

    python benchmarks/transfer_conformance.py [--only resume] [--json results.json]

A cell is what was seen when the check ran here. timm's rows are skipped where it cannot be imported. The exit status is
1 where this package fails a check.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import conformance
import transfer_defects_lightning
import transfer_defects_loading

RESULTS = Path(__file__).parent / "results"
TABLES = {
    "Lightning's fine-tuning callbacks": ("lightning", transfer_defects_lightning.DEFECTS),
    "torch's load_state_dict": ("torch", transfer_defects_loading.TORCH),
    "timm": ("timm", transfer_defects_loading.TIMM),
}

if __name__ == "__main__":
    sys.exit(conformance.execute(TABLES, RESULTS / "transfer_conformance.json", __doc__.splitlines()[0]))
