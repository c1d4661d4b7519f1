"""The defects of other pruning tools, run against them and against this package: one row each, nothing from memory.

    python benchmarks/prune_conformance.py [--only LSTM] [--json results.json]

A cell is what was seen when the check ran here. Torch-Pruning's rows are skipped where it is not installed. The exit
status is 1 where this package fails a check.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import prune_defects_channels
import prune_defects_lightning
import prune_defects_torch
from harness import Skip, machine, write_json
from prune_defects import Check, Defect, Seen, first_line, quiet

RESULTS = Path(__file__).parent / "results"
TABLES = {
    "torch.nn.utils.prune": ("torch", prune_defects_torch.DEFECTS),
    "Lightning's ModelPruning": ("lightning", prune_defects_lightning.DEFECTS),
    "Torch-Pruning": ("torch-pruning", prune_defects_channels.DEFECTS),
}
WIDTH = 40  # of a column


def run(check: Check) -> dict[str, Any]:
    """What a check saw; an error that it does not expect is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = check()
    except Skip as reason:
        return {"seen": f"skipped: {reason}", "right": None}
    except Exception as error:
        seen = Seen(f"{type(error).__name__}: {first_line(error)}", False)
    return {"seen": seen.text, "right": seen.right}


def mark(cell: dict[str, Any]) -> str:
    return {True: "ok", False: "WRONG", None: "-"}[cell["right"]]


def show(columns: list[str]) -> None:
    """A row of the table, each column wrapped."""
    wrapped = [textwrap.wrap(text, WIDTH) or [""] for text in columns]
    for i in range(max(map(len, wrapped))):
        print(" | ".join(f"{lines[i] if i < len(lines) else '':{WIDTH}}" for lines in wrapped).rstrip(), flush=True)


def table(peer: str, package: str, defects: list[Defect]) -> list[dict[str, Any]]:
    try:
        title = f"{peer} ({package} {version(package)})"
    except PackageNotFoundError:
        title = f"{peer} (not installed)"
    print()
    show(["defect", title, "lightning-autoarch"])
    print("-|-".join(["-" * WIDTH] * 3))
    rows = []
    for defect in defects:
        peer_cell, our_cell = run(defect.peer), run(defect.ours)
        show([defect.name, *(f"{mark(cell)}: {cell['seen']}" for cell in (peer_cell, our_cell))])
        rows.append({"defect": defect.name, "peer": peer_cell, "ours": our_cell})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    quiet()
    print(about := machine("cpu"))
    tables = {
        peer: table(peer, package, [defect for defect in defects if options.only in defect.name])
        for peer, (package, defects) in TABLES.items()
    }
    rows = [row for each in tables.values() for row in each]
    failed = [row["defect"] for row in rows if row["ours"]["right"] is False]
    wrong = sum(row["peer"]["right"] is False for row in rows)
    skipped = sum(row["peer"]["right"] is None for row in rows)
    print(
        f"\n{len(rows)} rows: the peers are wrong in {wrong} ({skipped} skipped), lightning-autoarch in {len(failed)}"
    )
    for name in failed:
        print(f"    ours is wrong: {name}")
    if options.json or not options.only:
        write_json(options.json or RESULTS / "prune_conformance.json", {"machine": about, "tables": tables})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
