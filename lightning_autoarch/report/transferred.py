"""A transfer as one HTML page: what became of every tensor, how blocks were trained, the scores before and after."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_autoarch.callbacks.transfer.fine_tune import FineTuned
from lightning_autoarch.callbacks.transfer.tuning_run import Block
from lightning_autoarch.report.bars import bar_figure, bars, place_bars
from lightning_autoarch.report.page import (
    Plots,
    check_plotly,
    destination,
    legend,
    marked,
    nothing,
    page,
    section,
    table,
    tiles,
    write,
)
from lightning_autoarch.report.plot import BLUE, GREEN, GREY, ORANGE, RED, plain
from lightning_autoarch.report.text import columns, score, score_rows
from lightning_autoarch.search.leaderboard import count, number
from lightning_autoarch.transfer.transfer_report import MEANINGS, TAKEN, TensorReport, TransferReport

if TYPE_CHECKING:
    import plotly.graph_objects as go

WHOLE = "whole module"
REST = "rest of those in part"  # of a tensor that was taken over in part
MAX_SCORES = 3  # tiles
COLOURS = {
    "loaded": BLUE, "renamed": "#74abdb", "sliced": ORANGE, "widened": GREEN, "interpolated": "#8f6bb8",
    "identity": "#49b3ad", "initialised": GREY, REST: "#c3c8d0", "skipped": RED, "missing": "#e2958b",
}  # fmt: skip


def finetuned_table(tuned: FineTuned) -> str:
    """Some lines of text: what was taken over, when blocks thawed, the scores before and after."""
    parts = [] if tuned.report is None else [str(tuned.report)]
    if any(_thaws(block) for block in tuned.blocks):
        rows = [(block.name, *_times(block)) for block in tuned.blocks]
        parts.append(columns([("block", "trained from epoch", "after steps"), *rows]))
    if rows := score_rows(tuned.before, tuned.after):
        parts.append(columns([("", "before", "after"), *rows]))
    return "\n\n".join(parts)


def write_transfer_report(
    report: TransferReport,
    path: str | os.PathLike[str],
    *,
    before: Mapping[str, float] | None = None,
    after: Mapping[str, float] | None = None,
    blocks: Sequence[Block] = (),
    title: str = "Transfer",
) -> Path:
    """Write the page of a transfer. The same report gives the same file.

    Args:
        report: what `transfer_weights` returned, or `TransferLearning.report`.
        path: the HTML file to write, or a directory that receives `transfer.html`.
        before, after: scores with the weights taken over, and after fine-tuning.
        blocks: how blocks of layers were trained: `TransferLearning.blocks`.
        title: of the page.

    Returns:
        The file written.

    Raises:
        ReportError: plotly is not installed.

    Example::

        write_transfer_report(transfer_weights(model, "pretrained.safetensors"), "transfer.html")
    """
    text = render_transfer_report(report, before=before, after=after, blocks=blocks, title=title)
    return write(destination(path, "transfer.html"), text)


def render_transfer_report(
    report: TransferReport,
    *,
    before: Mapping[str, float] | None = None,
    after: Mapping[str, float] | None = None,
    blocks: Sequence[Block] = (),
    title: str,
) -> str:
    """The page as text; see `write_transfer_report`."""
    check_plotly()
    plots = Plots()
    parts = [
        f'<p class="eyebrow">Transfer</p>\n<h1>{escape(title)}</h1>\n<p>{_sentence(report)}</p>',
        tiles(_tiles(report, before or {}, after or {})),
        _scores(before or {}, after or {}),
        _statuses(report, plots),
        _course(blocks),
        _tensors(report),
    ]
    return page(title, "\n".join(filter(None, parts)), plots)


def _sentence(report: TransferReport) -> str:
    said = f"{report.share:.1%} of {report.parameters:,} parameters come from the source."
    if any(report.prefix):
        theirs, ours = (f"<code>{escape(prefix)}*</code>" for prefix in report.prefix)
        said += f" {theirs} of the source is {ours} here."
    return said


def _tiles(report: TransferReport, before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, str]]:
    fresh = report.parameters - report.taken
    unexpected = report.counts.get("unexpected", 0)
    cells = [(f"{report.share:.1%}", "of the parameters taken over"), (count(fresh), "parameters start fresh")]
    if unexpected:
        cells.append((str(unexpected), f"tensor{'s' * (unexpected != 1)} of the source without a place"))
    for name in list({**before, **after})[:MAX_SCORES]:
        values = [score(scores.get(name)) for scores in (before, after) if name in scores]
        cells.append((" → ".join(dict.fromkeys(values)), escape(name)))
    return cells


def _scores(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    if not (before or after):
        return ""
    rows = [[f"<code>{escape(name)}</code>", first, second] for name, first, second in score_rows(before, after)]
    said = nothing("Before: with the weights taken over, nothing trained. After: fine-tuned.")
    return section("Scores", table(["", "before", "after"], rows, word_columns=(0,)) + said)


def _statuses(report: TransferReport, plots: Plots) -> str:
    title = "What became of the parameters"
    layers = _by_layer(report)
    if not layers:
        return section(title, nothing("The module has no parameters."))
    shown = [(status, colour) for status, colour in COLOURS.items() if layers[WHOLE].get(status)]
    drawn = legend(shown) + place_bars(plots, _status_figure(layers), "Shares of parameters by what became of them")
    rows = []
    for status, tensors in report.counts.items():
        own = sum(_split(t).get(status, 0) for t in report if t.is_parameter and t.status == status)
        percent = f"{own / report.parameters:.1%}" if report.parameters and status != "unexpected" else ""
        rows.append([status, str(tensors), f"{own:,}" if percent else "", percent, MEANINGS[status]])
    header = ["status", "tensors", "parameters", "share", "means"]
    return section(title, drawn + table(header, rows, css="statuses", word_columns=(0,), text_columns=(4,)))


def _by_layer(report: TransferReport) -> dict[str, dict[str, int]]:
    """Layer -> what became of its parameters -> how many; the whole module first."""
    whole: dict[str, int] = {}
    layers: dict[str, dict[str, int]] = {}
    for tensor in report:
        if tensor.is_parameter and tensor.numel:
            layer = layers.setdefault(tensor.name.rpartition(".")[0] or tensor.name, {})
            for status, numel in _split(tensor).items():
                layer[status] = layer.get(status, 0) + numel
                whole[status] = whole.get(status, 0) + numel
    return {WHOLE: whole, **layers} if layers else {}


def _split(tensor: TensorReport) -> dict[str, int]:
    """A tensor that was taken over in part has a rest, as the module made it."""
    if tensor.status not in TAKEN:
        return {tensor.status: tensor.numel}
    return {tensor.status: tensor.taken, REST: tensor.numel - tensor.taken}


def _status_figure(layers: Mapping[str, Mapping[str, int]]) -> go.Figure:
    present = [status for status in COLOURS if layers[WHOLE].get(status)]
    sums = {name: sum(parts.values()) for name, parts in layers.items()}
    traces = [
        bars(
            x=[100 * parts.get(status, 0) / sums[name] for name, parts in layers.items()],
            name=status,
            marker={"color": COLOURS[status]},
            hovertext=[plain(f"{name}: {parts.get(status, 0):,} {status}") for name, parts in layers.items()],
            hoverinfo="text",
        )
        for status in present
    ]
    return bar_figure(
        traces,
        list(layers),
        x="% of the parameters",
        barmode="stack",
        xaxis={"range": [0, 100]},
    )


def _course(blocks: Sequence[Block]) -> str:
    if not blocks:
        return ""
    rows = [
        [
            f"<code>{escape(block.name)}</code>",
            f"{block.parameters:,}",
            *_times(block),
            f"{block.frozen:,}" if block.frozen < block.parameters and block.frozen else "",
            "" if block.frozen == block.parameters else f"× {_range(*block.rates)}",
        ]
        for block in blocks
    ]
    header = ["block", "parameters", "trained from epoch", "after steps", "of it frozen", "learning rate"]
    said = nothing("From the input to the output; the first epoch is 1, and steps are those of the optimizers before.")
    return section("How it was trained", table(header, rows, text_columns=(0,)) + said)


def _thaws(block: Block) -> bool:
    """Whether some of it was not trained from the start."""
    return any(times not in (None, (0, 0)) for times in (block.epochs, block.steps)) or block.frozen > 0


def _times(block: Block) -> tuple[str, str]:
    """The epochs from which on a block was trained, the first being 1, and the optimizer steps before."""
    if block.frozen == block.parameters:
        return "never", ""
    epochs = "" if block.epochs is None else _range(block.epochs[0] + 1, block.epochs[1] + 1)
    return epochs, "" if block.steps is None else _range(*block.steps)


def _range(low: float, high: float) -> str:
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _tensors(report: TransferReport) -> str:
    rows = [
        [
            f"<code>{escape(tensor.name)}</code>",
            tensor.status,
            _shape(tensor.shape),
            "" if tensor.source_shape == tensor.shape else _shape(tensor.source_shape),
            f"{tensor.taken / tensor.numel:.0%}" if tensor.numel and tensor.status in TAKEN else "",
            "" if tensor.source in (None, tensor.name) else f"<code>{escape(str(tensor.source))}</code>",
            marked(tensor.reason),
        ]
        for tensor in report
    ]
    header = ["tensor", "status", "shape", "of the source", "taken", "from", "reason"]
    body = table(header, rows, css="wide tensors", text_columns=(0, 5, 6), word_columns=(1,))
    return section("Every tensor", body if rows else nothing("There is none."))


def _shape(shape: Sequence[int] | None) -> str:
    if shape is None:
        return ""
    return " × ".join(map(str, shape)) or "scalar"
