"""What the conformance tables share: rows that are run, columns that are wrapped, who was wrong.

A row is a defect of a peer, and what a peer and this package do with the same task. A cell is what was seen when its
check ran; an error that the check does not expect is wrong; what cannot run here is skipped with its reason.
"""

from __future__ import annotations

import argparse
import logging
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness import Skip, machine, write_json

WIDTH = 40  # of a column


@dataclass(frozen=True)
class Seen:
    """What happened, in a few words, and whether it is what a user expects."""

    text: str
    right: bool


Check = Callable[[], Seen]


@dataclass(frozen=True)
class Defect:
    """Of a peer: what it is, and the same task for both."""

    name: str
    peer: Check
    ours: Check


Tables = Mapping[str, tuple[str, list[Defect]]]  # title -> package, rows


def told(call: Callable[[], Any], error: type[Exception], word: str) -> Seen:
    """Right if it raises that error with that word in its message."""
    try:
        call()
    except error as raised:
        return Seen(f"{type(raised).__name__}: {first_line(raised)}", word in str(raised))
    return Seen("no error", False)


def first_line(error: BaseException, width: int = 150) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if len(lines[0]) <= width else lines[0][: width - 1] + "…"


def quiet() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def execute(tables: Tables, default_json: Path, description: str) -> int:  # exit status: 1 where this package is wrong
    """Parse the command line, run what it asks for, print and write it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    quiet()
    print(about := machine("cpu"))
    found = {
        peer: table(peer, package, [defect for defect in defects if options.only in defect.name])
        for peer, (package, defects) in tables.items()
    }
    rows = [row for each in found.values() for row in each]
    failed = [row["defect"] for row in rows if row["ours"]["right"] is False]
    wrong = sum(row["peer"]["right"] is False for row in rows)
    skipped = sum(row["peer"]["right"] is None for row in rows)
    print(
        f"\n{len(rows)} rows: the peers are wrong in {wrong} ({skipped} skipped), lightning-autoarch in {len(failed)}"
    )
    for name in failed:
        print(f"    ours is wrong: {name}")
    if options.json or not options.only:
        write_json(options.json or default_json, {"machine": about, "tables": found})
    return 1 if failed else 0


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
