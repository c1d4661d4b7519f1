"""Horizontal bars on a logarithmic axis, as SVG: nothing has to be installed for it."""

from __future__ import annotations

import math
from typing import Any

PLOTTED = {
    "torch global_unstructured": "torch global_unstructured",
    "torch.kthvalue + apply": "torch.kthvalue + apply",
    "np.partition + apply": "np.partition + apply",
    "prune_, float32 normal": "lightning_autoarch prune_",
}


def plot(cases: dict[str, Any], floor: float, n: int, about: dict[str, str]) -> str:
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
