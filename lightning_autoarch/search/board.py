"""The best trials of a study as a table, for a terminal and for a notebook.

A row shows the parameters that differ between the rows; those that are the same in all of them are listed once, below.
Nothing is cut off: what does not fit into a line goes below its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from lightning_autoarch.core.errors import SearchError, shown
from lightning_autoarch.search.adoption import Placement
from lightning_autoarch.search.leaderboard import (
    HERITAGE,
    SHARES,
    architecture_of,
    count,
    duration,
    heritage,
    in_one_line,
    printable,
    ranked,
    real,
    score_text,
    seconds_of,
    shares,
    tally,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_COLUMNS = ("epochs", *HERITAGE, *SHARES, "time", "params")  # after rank, trial and score
_WANTED = ("time", "params", "epochs", *HERITAGE, *SHARES)  # which of them come first where not all fit
_INDENT = " " * 6


@dataclass(frozen=True)
class Board:
    """What a table of trials shows, as text.

    Attributes:
        monitor: what the score is called.
        rows: rank, number and score of each trial.
        columns: further columns by their heading, with an entry for each row; those that no trial fills are left out.
        varied: of each row, the parameters that differ between the rows.
        common: the parameters that are the same in all rows.
        last: how all trials ended.
    """

    monitor: str
    rows: tuple[tuple[str, str, str], ...]
    columns: Mapping[str, tuple[str, ...]]
    varied: tuple[Mapping[str, str], ...]
    common: Mapping[str, str]
    last: str

    @classmethod
    def of(cls, study: Study, k: int) -> Board:
        """Of the `k` best trials.

        Raises:
            SearchError: an architecture in the study is nested too deeply to be shown.
        """
        try:
            return cls._of(study, k)
        except RecursionError as error:
            raise SearchError(
                f"Expected architectures of a few levels in the study `{shown(study.study_name)}`, got one that is "
                "nested too deeply to be shown."
            ) from error

    @classmethod
    def _of(cls, study: Study, k: int) -> Board:
        best, placement = ranked(study)[:k], Placement.of_study(study)
        cells = [_cells(trial) for trial in best]
        columns = {name: tuple(row[i] for row in cells) for i, name in enumerate(_COLUMNS)}
        texts = [
            {printable(name): in_one_line(value) for name, value in architecture.items()}
            for architecture in ((placement.architecture(trial) or architecture_of(trial)) for trial in best)
        ]
        names = dict.fromkeys(name for text in texts for name in text)
        common = {n: texts[0][n] for n in names if len(texts) > 1 and len({text.get(n) for text in texts}) == 1}
        return cls(
            printable(study.user_attrs.get("autoarch:monitor", "score")),
            tuple((str(rank), str(trial.number), score_text(trial)) for rank, trial in enumerate(best, start=1)),
            {name: column for name, column in columns.items() if any(column)},
            tuple({name: text[name] for name in names if name in text and name not in common} for text in texts),
            common,
            summary(study),
        )


def summary(study: Study) -> str:
    """How all trials ended: `40 trials: 34 complete, 6 ignored (not of this space).`"""
    placement, trials = Placement.of_study(study), study.get_trials(deepcopy=False)
    inside = [trial for trial in trials if not placement.is_outside(trial)]
    n_outside = len(trials) - len(inside)
    said = [tally(inside)] if inside or not n_outside else []
    said += [f"{n_outside} ignored (not of this space)"] if n_outside else []
    return f"{len(trials)} trial{'s' * (len(trials) != 1)}: {', '.join(said)}."


def leaderboard(study: Study, k: int = 10, *, columns: int = 100) -> str:
    """The `k` best trials as a text table, with a last line on how all trials ended.

    Args:
        study: any Optuna study with one objective.
        k: how many trials.
        columns: widest line, in characters. What does not fit into a trial's line goes below it.
    """
    board = Board.of(study, k)
    if not board.rows:
        return f"No trial is complete. {board.last}"
    score = board.monitor if len(board.monitor) <= columns // 4 else "score"
    lines, left_out = _lines(board, score, columns)
    texts = [
        [f"{name}={cell}" for name, cell in [*((n, board.columns[n][i]) for n in left_out), *varied.items()] if cell]
        for i, varied in enumerate(board.varied)
    ]
    lines = _joined(lines, texts, columns)
    if score != board.monitor:
        lines += _filled(["score:", board.monitor], columns)
    if board.common:
        lines += _filled(["In all of them:", *(f"{name}={value}" for name, value in board.common.items())], columns)
    return "\n".join([*lines, *_filled(board.last.split(" "), columns)])


def html_table(study: Study, k: int = 10) -> str:
    """The same table in HTML, a column for each parameter that differs. All text is escaped."""
    board = Board.of(study, k)
    if not board.rows:
        return f"<p>No trial is complete. {escape(board.last)}</p>"
    names = list(dict.fromkeys(name for varied in board.varied for name in varied))
    header = ["rank", "trial", board.monitor, *board.columns, *names]
    cells = [
        [*row, *(column[i] for column in board.columns.values()), *(board.varied[i].get(name, "") for name in names)]
        for i, row in enumerate(board.rows)
    ]
    common = ", ".join(f"{name}={value}" for name, value in board.common.items())
    rows = [_html_row("td", row) for row in cells]
    below = f"<p>In all of them: {escape(common)}</p>" if common else ""
    return f"<table>{_html_row('th', header)}{''.join(rows)}</table>{below}<p>{escape(board.last)}</p>"


def _html_row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _lines(board: Board, score: str, columns: int) -> tuple[list[str], list[str]]:
    """A line for the headings and one for each row, and the columns that do not fit."""
    table = [("rank", "trial", score), *board.rows]
    chosen: list[str] = []
    for name in (name for name in _WANTED if name in board.columns):
        wider = [column for column in board.columns if column in (*chosen, name)]
        if len(_aligned(_with_columns(table, board, wider))[0]) <= columns:
            chosen = wider
    return _aligned(_with_columns(table, board, chosen)), [name for name in board.columns if name not in chosen]


def _with_columns(table: Sequence[tuple[str, ...]], board: Board, names: Sequence[str]) -> list[list[str]]:
    added = [(name, *board.columns[name]) for name in names]
    return [[*row, *(column[i] for column in added)] for i, row in enumerate(table)]


def _joined(lines: list[str], texts: Sequence[Sequence[str]], columns: int) -> list[str]:
    """A text beside each line but the header, where all of them fit; else below it."""
    beside = [" ".join(text) for text in texts]
    if max(map(len, beside)) + len(lines[0]) + 2 <= columns:
        heading = "architecture" if any(beside) and len(lines[0]) + 14 <= columns else ""
        return [f"{line}  {text}".rstrip() for line, text in zip(lines, [heading, *beside], strict=True)]
    joined = [lines[0]]
    for line, text in zip(lines[1:], texts, strict=True):
        joined += [line, *_filled(text, columns, _INDENT)]
    return joined


def _filled(words: Iterable[str], columns: int, indent: str = "") -> list[str]:
    """Words in lines, broken between words; inside of one that is longer than a line."""
    lines: list[str] = []
    room = max(columns - len(indent), 1)
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines += [word[i : i + room] for i in range(0, len(word), room)]
    return [indent + line for line in lines]


def _cells(trial: FrozenTrial) -> tuple[str, ...]:
    """An entry for each of `_COLUMNS`."""
    attrs, seconds = trial.user_attrs, seconds_of(trial)
    epochs, params = real(attrs.get("epochs")), real(attrs.get("params"))
    return (
        "" if epochs is None else f"{epochs:.0f}",
        *heritage(trial),
        *shares(trial),
        "" if seconds is None else duration(seconds),
        "" if params is None else count(params),
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Every column padded on the left to its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
