"""The HTML page of a report: a single file that makes no network requests.

It contains plotly.js once, and its figures as data in one JSON element. A content security policy forbids all requests,
so that neither plotly nor a text that was not escaped could make one.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_autoarch.core.errors import ReportError

if TYPE_CHECKING:
    import plotly.graph_objects as go

TALL_ROWS = 15
_CONTROLS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}


class Plots:
    """The figures of a page, in order."""

    def __init__(self) -> None:
        self._json: list[str] = []

    def place(
        self,
        figure: go.Figure,
        label: str,  # for screen readers
        *,
        min_width: int = 0,  # pixels; a narrower page scrolls sideways
    ) -> str:
        """Add a figure and return the HTML element in which it is drawn."""
        index, height = len(self._json), int(figure.layout.height)
        self._json.append(str(figure.to_json()))
        style = f"height:{height}px" + (f";min-width:{min_width}px" if min_width else "")
        plot = f'<div class="plot" id="plot-{index}" role="img" aria-label="{escape(label)}" style="{style}"></div>'
        return f'<div class="scroll">{plot}</div>' if min_width else plot

    def scripts(self) -> str:
        """The HTML of plotly.js, the figures and the code that draws them; empty if there are no figures."""
        if not self._json:
            return ""
        from plotly.offline import get_plotlyjs

        figures = ",\n".join(self._json).replace("<", "\\u003c")  # no text can end the element
        return (
            f"<script>{get_plotlyjs()}</script>\n"
            f'<script type="application/json" id="figures">[{figures}]</script>\n'
            f"<script>{_DRAW}</script>"
        )


def page(
    title: str,
    body: str,  # HTML
    plots: Plots,
) -> str:
    """Return the whole document. Control characters other than line breaks and tabs are replaced by U+FFFD."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title).translate(_CONTROLS)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body.translate(_CONTROLS)}
</main>
{plots.scripts()}
</body>
</html>
"""


def section(title: str, body: str) -> str:
    """A part of the page with its heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def nothing(sentence: str) -> str:
    """A note in small type, for example on why a section is empty."""
    return f'<p class="note">{sentence}</p>'


def marked(sentence: str) -> str:
    """A sentence as HTML, in which text between backticks is code.

    >>> marked("`x` < 2")
    '<code>x</code> &lt; 2'
    """
    parts = escape(sentence).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def tiles(cells: Sequence[tuple[str, str]]) -> str:
    """A row of tiles, each with a number in large type (HTML) above its description."""
    drawn = "".join(f'<div class="tile"><b>{big}</b><span>{small}</span></div>' for big, small in cells)
    return f'<div class="tiles">{drawn}</div>'


def legend(
    entries: Sequence[tuple[str, str]],  # name, colour
) -> str:
    """A legend above a figure, as wide as the page."""
    keys = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in entries)
    return f'<p class="legend">{keys}</p>'


def table(
    header: list[str],  # escaped, without tags
    rows: list[list[str]],  # cells are HTML
    *,
    css: str = "",
    text_columns: tuple[int, ...] = (),  # aligned to the left and wrapped; the others are numbers
    word_columns: tuple[int, ...] = (),  # aligned to the left, never wrapped
) -> str:
    """A table without its empty columns. A long table scrolls within its own frame, except in print."""
    kinds = dict.fromkeys(text_columns, ' class="text"') | dict.fromkeys(word_columns, ' class="text word"')
    filled = [i for i in range(len(header)) if any(row[i] for row in rows)]

    def cell(row: list[str], i: int) -> str:
        return f'<td{kinds.get(i, "")} data-label="{header[i]}">{row[i]}</td>'

    lines = "\n".join(f"<tr>{''.join(cell(row, i) for i in filled)}</tr>" for row in rows)
    titles = "".join(f"<th{kinds.get(i, '')}>{header[i]}</th>" for i in filled)
    head = f"<thead><tr>{titles}</tr></thead>"
    frame = "scroll tall" if len(rows) > TALL_ROWS else "scroll"
    return f'<div class="{frame}"><table class="{css}">{head}<tbody>\n{lines}\n</tbody></table></div>'


_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

# plotly.js shows a button that sends the figure to a server unless it is switched off.
_DRAW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const config = {
  responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
  modeBarButtons: [["zoom2d", "pan2d", "autoScale2d", "resetScale2d", "toImage"]],
};
const places = figures.map((_, i) => document.getElementById("plot-" + i));
figures.forEach((figure, i) => Plotly.newPlot(places[i], figure.data, figure.layout, config));
const PAPER = 680; // pixels across a printed page
addEventListener("beforeprint", () => places.forEach(place => {
  const share = place.parentElement.classList.contains("pair") ? 0.48 : 1;
  const width = Math.max(PAPER * share, parseInt(place.style.minWidth) || 0);
  place.style.zoom = PAPER * share / width;
  Plotly.relayout(place, {autosize: false, width});
}));
addEventListener("afterprint", () => places.forEach(place => {
  place.style.zoom = 1;
  Plotly.relayout(place, {autosize: true, width: null});
}));
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #22262e; --soft: #667080; --line: #dfe3e9; --paper: #fff; --card: #f6f7f9;
  --accent: #2a6cab; --best: #fff6e3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6eb; --soft: #9aa4b2; --line: #343b46; --paper: #15181d;
  --card: #1d2128; --accent: #7db4e8; --best: #33291a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
.eyebrow { color: var(--soft); font-size: .875rem; margin: 0; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p.after { margin-top: .6rem; }
p { margin: .4rem 0 .8rem; max-width: 72ch; overflow-wrap: anywhere; }
p.note { color: var(--soft); font-size: .875rem; }
code, pre { font: .875em/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--card); border-radius: 8px; padding: 14px 16px; margin: 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin: 1.2rem 0; }
.tile { background: var(--card); border-radius: 8px; padding: 12px 16px; }
.tile b { display: block; font-size: 1.35rem; font-weight: 600; line-height: 1.3; overflow-wrap: anywhere; }
.tile span { color: var(--soft); font-size: .875rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.pair > * { min-width: 0; }
.plot { width: 100%; }
.plot + .scroll, .scroll + .scroll { margin-top: .8rem; }
.plot text:not(.hoverlayer text) { fill: var(--ink) !important; }
.scroll { overflow-x: auto; }
.tall { max-height: 44rem; overflow-y: auto; border-bottom: 1px solid var(--line); }
.tall thead th { position: sticky; top: 0; background: var(--paper); box-shadow: 0 1px var(--line); }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .4rem 0 .8rem; }
table.wide { width: 100%; }
th, td { padding: 5px 10px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; white-space: normal; overflow-wrap: break-word; max-width: 12rem; }
th.text, td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.wide td.text { min-width: 13rem; }
table.wide td.text:last-child { width: 58%; }
table.wide td.word { min-width: 0; white-space: nowrap; }
table.statuses td.word { white-space: nowrap; }
table.tensors td.text { min-width: 12rem; } table.tensors td.word { min-width: 0; }
table.tensors td.text:last-child { width: auto; }
.legend { font-size: .875rem; max-width: none; } .legend span { margin-right: 1.2em; white-space: nowrap; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em;
  border-radius: 2px; print-color-adjust: exact; }
table.ranks tbody tr:first-child { background: var(--best); }
.arch span { white-space: normal; margin-right: .9em; }
.arch i { font-style: normal; color: var(--soft); margin-right: .35em; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
@media (max-width: 720px) { main { padding: 20px 14px 40px; } .pair { grid-template-columns: 1fr; }
  h1 { font-size: 1.4rem; } th, td { padding: 4px 7px; }
  table.wide, .wide tbody { display: block; } .wide thead { display: none; }
  .wide tr { display: flex; flex-wrap: wrap; column-gap: 1.1em; padding: 6px; border-bottom: 1px solid var(--line); }
  .wide td { display: block; padding: 0; border: 0; text-align: left; }
  .wide td:empty, .wide td:last-child::before { display: none; }
  .wide td::before { content: attr(data-label) " "; color: var(--soft); }
  table.wide td.text { min-width: 0; width: auto; } table.wide td.text:last-child { width: 100%; }
  .arch { display: inline; } .tall { max-height: 36rem; } }
@media print { :root { color-scheme: light; --ink: #111; --soft: #555; --line: #ccc; --paper: #fff; --card: #f4f4f4;
  --best: #fff6e3; } main { max-width: none; padding: 0; } body { font-size: 11pt; }
  .plot, .tile, .pair, tr, pre, p { break-inside: avoid; }
  h2, h3, p.note, h3 + p { break-after: avoid; } .modebar { display: none; }
  .scroll { overflow: visible; max-height: none; } table { font-size: 8pt; } }
"""


def check_plotly() -> None:
    """Check that plotly is installed.

    Raises:
        ReportError: it is not.
    """
    if importlib.util.find_spec("plotly") is None:
        raise ReportError('A report needs plotly: pip install "lightning-autoarch[report]"')


def destination(path: str | os.PathLike[str], name: str) -> Path:
    """Return `path`, or the file `name` in it if it is a directory."""
    path = Path(path)
    return path / name if path.is_dir() else path


def write(path: Path, text: str) -> Path:
    """Write a page and return its path. Missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", errors="replace"))
    return path
