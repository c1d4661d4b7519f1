"""Formats numbers and columns for a terminal or a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def columns(rows: Sequence[Sequence[str]], n_words: int = 1) -> str:
    """Align rows in columns: the first `n_words` to the left, the others, which are numbers, to the right.

    >>> print(columns([("layer", "n"), ("a", "1,000")]))
    layer      n
    a      1,000
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust] * n_words + [str.rjust] * (len(widths) - n_words)
    lines = ("  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def score_rows(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Rows with the name of a score, its value before and its value after."""
    return [(name, score(before.get(name)), score(after.get(name))) for name in {**before, **after}]


def score(value: float | None) -> str:
    """A score with four significant digits; empty for None."""
    return "" if value is None else f"{value:.4g}"


def size(n_bytes: float) -> str:
    """A size with its unit.

    >>> [size(n) for n in (12, 4096, 3.2e9)]
    ['12 B', '4.1 kB', '3.2 GB']
    """
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
    scale, unit = next((s, u) for s, u in units if n_bytes >= s or s == 1)
    return f"{n_bytes / scale:.3g} {unit}"


def seconds(value: float) -> str:
    """A short duration with three significant digits and its unit.

    >>> [seconds(s) for s in (2.5, 0.0123, 4.2e-5)]
    ['2.5 s', '12.3 ms', '42 µs']
    """
    scale, unit = next((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if value >= s or s == 1e-6)
    return f"{value / scale:.3g} {unit}"
