"""The result of pruning as a short table: sparsity of each layer, costs and scores before and after, size on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_autoarch.callbacks.prune.costs import Costs
from lightning_autoarch.callbacks.prune.prune_trained import Layer, Pruned
from lightning_autoarch.report.text import columns, score_rows, seconds, size
from lightning_autoarch.search.leaderboard import count

ALL = "all of them"


def pruned_table(
    pruned: Pruned,
    sizes: Mapping[str, int],  # description of a file -> bytes, as `sizes_on_disk` returns them
) -> str:
    """The table as text.

    >>> print(pruned_table(Pruned({"acc": 0.5}, {"acc": 0.25}, (Layer("net.weight", 1000, 100),)), {"dense": 4096}))
    layer       weights  kept  sparsity
    net.weight    1,000   100     90.0%
    <BLANKLINE>
         before  after
    acc     0.5   0.25
    <BLANKLINE>
    on disk  dense 4.1 kB
    """
    parts = []
    if pruned.resized:
        parts.append(columns([("layer", "parameters", "kept", "removed"), *layer_rows(pruned.resized)]))
    if pruned.layers or not pruned.resized:
        parts.append(columns([("layer", "weights", "kept", "sparsity"), *layer_rows(pruned.layers)]))
    rows = [*cost_rows(pruned), *score_rows(pruned.before, pruned.after)]
    if rows:
        parts.append(columns([("", "before", "after"), *rows]))
    named = {what: sizes[what] for what in ("before", "dense", "sparse") if what in sizes}
    if named.get("before") == named.get("dense"):
        named.pop("before", None)
    parts.append("on disk  " + ", ".join(f"{what} {size(n)}" for what, n in named.items()))
    return "\n\n".join([*parts, *(["\n".join(pruned.notes)] if pruned.notes else [])])


def layer_rows(layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    """Name, weights, kept weights and removed share of each layer; the sum in a last row if there are several."""
    sums = [total(layers)] if len(layers) > 1 else []
    return [
        (layer.name, f"{layer.n_weights:,}", f"{layer.n_kept:,}", f"{gone(layer):.1%}") for layer in (*layers, *sums)
    ]


def total(layers: Sequence[Layer]) -> Layer:
    """All layers together."""
    return Layer(ALL, sum(layer.n_weights for layer in layers), sum(layer.n_kept for layer in layers))


def gone(layer: Layer) -> float:
    """The share that was removed."""
    return 1 - layer.n_kept / max(1, layer.n_weights)


def cost_rows(pruned: Pruned) -> list[tuple[str, str, str]]:
    """Quantity, before, after: only what is known, and numbers of nonzeros only if there are zeros."""
    if pruned.costs is None:
        return []
    before, after = pruned.costs
    zeros = after.nonzero < after.parameters
    rows = [("parameters", f"{before.parameters:,}", f"{after.parameters:,}")]
    if zeros:
        rows.append(("parameters not 0", f"{before.nonzero:,}", f"{after.nonzero:,}"))
    rows.append(("FLOPs", *_both(before, after, "flops")))
    if zeros:
        rows.append(("FLOPs of weights not 0", *_both(before, after, "nonzero_flops")))
    rows.append(("latency", *_both(before, after, "seconds")))
    return [row for row in rows if row[1] or row[2]]


def _both(before: Costs, after: Costs, what: str) -> tuple[str, str]:
    say = seconds if what == "seconds" else count
    values = (getattr(before, what), getattr(after, what))
    first, second = ("" if value is None else say(value) for value in values)
    return first, second
