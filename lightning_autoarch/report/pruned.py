"""What pruning did, as a short table: the sparsity of each layer, the scores before and after, the size on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_autoarch.callbacks.prune.finetune import Layer, Pruned


def pruned_table(
    pruned: Pruned,
    sizes: Mapping[str, int],  # of a file, in words -> bytes
) -> str:
    """Some lines of text.

    >>> print(pruned_table(Pruned({"acc": 0.5}, {"acc": 0.25}, (Layer("net.weight", 1000, 100),)), {"dense": 4096}))
    layer       weights  kept  sparsity
    net.weight    1,000   100     90.0%
    <BLANKLINE>
         before  after
    acc     0.5   0.25
    <BLANKLINE>
    on disk  dense 4.1 kB
    """
    parts = [_columns([("layer", "weights", "kept", "sparsity"), *_rows(pruned.layers)])]
    if pruned.before or pruned.after:
        parts.append(_columns([("", "before", "after"), *_scores(pruned)]))
    parts.append("on disk  " + ", ".join(f"{what} {_bytes(size)}" for what, size in sizes.items()))
    return "\n\n".join(parts)


def _rows(layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    whole = Layer("all of them", sum(layer.n_weights for layer in layers), sum(layer.n_kept for layer in layers))
    return [
        (layer.name, f"{layer.n_weights:,}", f"{layer.n_kept:,}", f"{1 - layer.n_kept / max(1, layer.n_weights):.1%}")
        for layer in (*layers, *([whole] if len(layers) > 1 else []))
    ]


def _scores(pruned: Pruned) -> list[tuple[str, ...]]:
    names = {**pruned.before, **pruned.after}
    return [(name, *(_number(scores.get(name)) for scores in (pruned.before, pruned.after))) for name in names]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    """The first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _bytes(size: int) -> str:
    scale, unit = next((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if size >= s or s == 1)
    return f"{size / scale:.3g} {unit}"
