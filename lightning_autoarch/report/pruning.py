"""The result of pruning as one HTML page: the sparsity of each layer, and the costs before and after."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_autoarch.callbacks.prune.prune_trained import Layer, Pruned
from lightning_autoarch.report.bars import bar_figure, bars, place_bars
from lightning_autoarch.report.page import (
    Plots,
    check_plotly,
    destination,
    marked,
    nothing,
    page,
    section,
    table,
    tiles,
    write,
)
from lightning_autoarch.report.plot import BLUE, FAINT, plain
from lightning_autoarch.report.pruned import ALL, cost_rows, gone, layer_rows, total
from lightning_autoarch.report.text import score, score_rows, seconds, size
from lightning_autoarch.search.leaderboard import count

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_SCORES = 3  # tiles
SPARSE = "on disk, as a sparse file"
TILED = ("on disk", SPARSE, "FLOPs", "latency")
Share = tuple[str, str, float]  # quantity, its change in words, and the remaining share: 1.0 is all


def write_pruning_report(
    pruned: Pruned,
    path: str | os.PathLike[str],
    *,
    sizes: Mapping[str, int] | None = None,
    title: str = "Pruned module",
) -> Path:
    """Write the page. The same numbers give the same file.

    Args:
        pruned: the result of `prune_trained(trainer, module, datamodule)`.
        path: the HTML file to write, or a directory that receives `pruned.html`.
        sizes: bytes, the result of `sizes_on_disk(module, checkpoint, pruned.costs[0])`.
        title: title of the page.

    Returns:
        The file written.

    Raises:
        ReportError: plotly is not installed.

    Example::

        pruned = prune_trained(trainer, model, dm)  # from lightning_autoarch.callbacks.prune.prune_trained
        write_pruning_report(pruned, "pruned.html")
    """
    return write(destination(path, "pruned.html"), render_pruning_report(pruned, sizes=sizes, title=title))


def render_pruning_report(pruned: Pruned, *, sizes: Mapping[str, int] | None = None, title: str) -> str:
    """The page as text; see `write_pruning_report`."""
    check_plotly()
    plots, sizes = Plots(), sizes or {}
    parts = [
        f'<p class="eyebrow">Pruning</p>\n<h1>{escape(title)}</h1>\n<p>{escape(_sentence(pruned))}</p>',
        tiles(_tiles(pruned, sizes)),
        _costs(pruned, sizes, plots),
    ]
    if pruned.resized:
        parts.append(_layers("Channels removed, by layer", "share of the layer's parameters", pruned.resized, plots))
    if pruned.layers:
        parts.append(_layers("Sparsity, by layer", "share of the layer's weights", pruned.layers, plots))
    return page(title, "\n".join(parts), plots)


def _sentence(pruned: Pruned) -> str:
    said = []
    if pruned.resized:
        whole = total(pruned.resized)
        said.append(f"Channels were removed: {whole.n_kept:,} of {whole.n_weights:,} parameters are left.")
    if pruned.layers:
        whole = total(pruned.layers)
        said.append(
            f"Of {whole.n_weights:,} weights in {len(pruned.layers)} tensor{'s' * (len(pruned.layers) != 1)} "
            f"{whole.n_kept:,} are kept, the others are 0."
        )
    return " ".join(said) or "Nothing was pruned."


def _tiles(pruned: Pruned, sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    found = []
    if pruned.resized:
        found.append((f"{gone(total(pruned.resized)):.1%}", "of the parameters removed"))
    if pruned.layers:
        found.append((f"{gone(total(pruned.layers)):.1%}", "sparsity"))
    found += [(says, _now(what, says)) for what, says, _ in _shares(pruned, sizes) if what in TILED]
    for name in list({**pruned.before, **pruned.after})[:MAX_SCORES]:
        found.append((_arrow(score(pruned.before.get(name)), score(pruned.after.get(name))), escape(name)))
    return [(big.replace(" ", "\xa0").replace("→\xa0", "→ "), small) for big, small in found]  # units stay with numbers


def _now(what: str, says: str) -> str:
    """The label of a tile, which says so if nothing changed."""
    return what if "→" in says else f"{what}, as before"


def _shares(pruned: Pruned, sizes: Mapping[str, int]) -> list[Share]:
    """The remaining share of every known quantity."""
    shares: list[Share] = []

    def add(what: str, before: float | None, after: float | None, say: object) -> None:
        if before is not None and after is not None and callable(say):
            shares.append((what, _arrow(say(before), say(after)), after / before if before else 1.0))

    dense = sizes.get("before", sizes.get("dense"))
    if pruned.resized or "sparse" not in sizes:
        add("on disk", dense, sizes.get("dense"), size)
    if pruned.layers:
        add(SPARSE, dense, sizes.get("sparse"), size)
    if pruned.costs is not None:
        before, after = pruned.costs
        add("parameters", before.parameters, after.parameters, count)
        if after.nonzero < after.parameters:
            add("parameters not 0", before.nonzero, after.nonzero, count)
        add("FLOPs", before.flops, after.flops, count)
        if after.nonzero < after.parameters:
            add("FLOPs of weights not 0", before.nonzero_flops, after.nonzero_flops, count)
        add("latency", before.seconds, after.seconds, seconds)
    return shares


def _arrow(before: str, after: str) -> str:
    """A change in words.

    >>> _arrow("1", "2"), _arrow("1", "1"), _arrow("", "2")
    ('1 → 2', '1', '2')
    """
    return after if before in ("", after) else f"{before} → {after}" if after else before


def _costs(pruned: Pruned, sizes: Mapping[str, int], plots: Plots) -> str:
    shares = _shares(pruned, sizes)
    body = ""
    if shares:
        body += place_bars(plots, _share_figure(shares), "What is left of size, FLOPs and latency")
    rows = [[escape(cell) for cell in row] for row in cost_rows(pruned)]
    rows += [[escape(cell) for cell in row] for row in _size_rows(sizes)]
    rows += [[escape(cell) for cell in row] for row in score_rows(pruned.before, pruned.after)]
    if rows:
        body += table(["", "before", "after"], rows, word_columns=(0,))
    body += "".join(nothing(marked(note)) for note in pruned.notes)
    return section("Before and after", body)


def _size_rows(sizes: Mapping[str, int]) -> list[tuple[str, str, str]]:
    rows = []
    if "dense" in sizes:
        rows.append(("checkpoint", size(sizes.get("before", sizes["dense"])), size(sizes["dense"])))
    if "sparse" in sizes:
        rows.append(("weights as a sparse file", "", size(sizes["sparse"])))
    return rows


def _share_figure(shares: Sequence[Share]) -> go.Figure:
    left = [100 * share for _, _, share in shares]
    before = bars(x=[100] * len(shares), marker={"color": FAINT}, name="before", hoverinfo="skip", width=0.72)
    after = bars(
        x=left,
        name="after",
        width=0.4,
        text=[f"{value:.3g} %" for value in left],
        textposition="outside",
        marker={"color": BLUE},
        hovertext=[plain(f"{what}: {says}") for what, says, _ in shares],
        hoverinfo="text",
    )
    return bar_figure(
        [before, after],
        [what for what, _, _ in shares],
        x="% of what it was",
        xaxis={"range": [0, max(118.0, *(value * 1.12 for value in left))], "tickvals": [0, 25, 50, 75, 100]},
        barmode="overlay",
    )


def _layers(title: str, of_what: str, layers: Sequence[Layer], plots: Plots) -> str:
    shares = [100 * gone(layer) for layer in layers]
    drawn = bar_figure(
        [
            bars(
                x=shares,
                text=[f"{share:.1f} %" for share in shares],
                textposition="outside",
                hovertext=[plain(f"{o.name}: {o.n_kept:,} of {o.n_weights:,} kept") for o in layers],
                hoverinfo="text",
            )
        ],
        [layer.name for layer in layers],
        x=f"gone: {of_what}, in %",
        xaxis={"range": [0, 114], "tickvals": [0, 25, 50, 75, 100]},
    )
    rows = [
        [f"<code>{escape(name)}</code>" if name != ALL else ALL, *map(escape, numbers)]
        for name, *numbers in layer_rows(layers)
    ]
    return section(
        title,
        place_bars(plots, drawn, title) + table(["layer", "before", "kept", "gone"], rows, text_columns=(0,)),
    )
