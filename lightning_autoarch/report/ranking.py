"""Tables of the trials: the leaderboard, the trials that are not ranked and why, and the failures by reason."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from lightning_autoarch.report.page import Plots, nothing, section, table
from lightning_autoarch.report.record import Record, StepUnit, reason_of, step_unit
from lightning_autoarch.search.leaderboard import (
    HERITAGE,
    SHARES,
    architecture_of,
    count,
    duration,
    failure_kind,
    fate,
    heritage,
    in_one_line,
    printable,
    real,
    score_text,
    seconds_of,
    shares,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MAX_ROWS = 200
_FAMILIES = (
    "Parent: the trial whose weights it started from, and the share of its parameters that came from there. In all: "
    "the epochs that its weights have seen, those of the parents included."
)
MAX_REASON = 240  # in characters; a longer reason is cut


def leaderboard(record: Record, plots: Plots) -> str:
    """The section with the ranked trials, then the others and why they are not ranked."""
    if not record.trials:
        return section("Leaderboard", nothing("There is no trial yet."))
    best = record.ranked[:MAX_ROWS]
    families = any(heritage(trial)[0] for trial in best)
    filled = [i for i in range(len(SHARES)) if any(shares(trial)[i] for trial in best)]
    between = (*(HERITAGE if families else ()), *(SHARES[i] for i in filled))
    header = ["rank", "trial", escape(record.score), *between, "epochs", "time", "params", "flops", "architecture"]
    rows = [
        [str(rank), str(trial.number), score_text(trial), *(heritage(trial) if families else ()),
         *(shares(trial)[i] for i in filled), *_cost(trial), _architecture(trial)]
        for rank, trial in enumerate(best, start=1)
    ]  # fmt: skip
    body = nothing("No trial is complete.")
    if rows:
        body = table(header, rows, css="wide ranks", text_columns=(len(header) - 1,)) + _more(len(record.ranked))
        body += _block_legend(best) + (nothing(_FAMILIES) if families else "")
    others = record.of("pruned", "failed", "infeasible", "running", "duplicate", "refused")
    if others:
        body += "<h3>Not ranked</h3>" + _not_ranked(others[:MAX_ROWS], step_unit(record)) + _more(len(others))
    return section("Leaderboard", body)


def failures(record: Record, plots: Plots) -> str:
    """The section with the failures by reason, the most frequent first."""
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in record.of("failed"):
        groups.setdefault(failure_kind(trial), []).append(trial)
    if not groups:
        return section("Failures", nothing("No trial failed."))
    rows = [
        [escape(printable(kind)), str(len(trials)), _numbers(trials), _clipped(reason_of(trials[0], step_unit(record)))]
        for kind, trials in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]
    header = ["reason", "times", "trials", "for example"]
    return section("Failures", table(header, rows, css="wide", text_columns=(2, 3), word_columns=(0,)))


def _not_ranked(trials: list[FrozenTrial], unit: StepUnit) -> str:
    rows = []
    for trial in trials:
        epochs, time, params, _ = _cost(trial)
        why = _clipped(reason_of(trial, unit))
        rows.append([str(trial.number), fate(trial), why, epochs, time, params, _architecture(trial)])
    header = ["trial", "is", "why", "epochs", "time", "params", "architecture"]
    return table(header, rows, css="wide", text_columns=(2, 6), word_columns=(1,))


def _cost(trial: FrozenTrial) -> list[str]:
    """Epochs, time, parameters and FLOPs; each is empty if it is not known."""
    attrs, seconds = trial.user_attrs, seconds_of(trial)
    epochs, params, flops = (real(attrs.get(key)) for key in ("epochs", "params", "flops"))
    return [
        "" if epochs is None else f"{epochs:.0f}",
        "" if seconds is None else duration(seconds),
        "" if params is None else count(params),
        "" if flops is None else count(flops),
    ]


def _architecture(trial: FrozenTrial) -> str:
    """An architecture as HTML, with line breaks only between parameters."""
    parts = [
        f"<span><i>{escape(str(name))}</i>{escape(in_one_line(value))}</span>"
        for name, value in architecture_of(trial).items()
    ]
    return f'<div class="arch">{" ".join(parts)}</div>'


def _block_legend(trials: tuple[FrozenTrial, ...]) -> str:
    """A note with the names of the values in repeated blocks, which do not fit into the table."""
    blocks: dict[str, dict[str, None]] = {}
    for trial in trials:
        for name, value in architecture_of(trial).items():
            for item in value if isinstance(value, list) else ():
                if isinstance(item, Mapping):
                    blocks.setdefault(str(name), {}).update(dict.fromkeys(map(str, item)))
    said = [f"each of <code>{escape(n)}</code> is {escape('/'.join(keys))}" for n, keys in blocks.items()]
    return nothing("In this table, " + "; ".join(said) + ".") if said else ""


def _numbers(trials: list[FrozenTrial], most: int = 20) -> str:
    numbers = ", ".join(str(trial.number) for trial in trials[:most])
    return numbers + (", ..." if len(trials) > most else "")


def _clipped(text: Any) -> str:
    text = " ".join(str(text).split())
    return escape(text if len(text) <= MAX_REASON else text[:MAX_REASON] + "...")


def _more(n: int) -> str:
    return nothing(f"And {n - MAX_ROWS} more.") if n > MAX_ROWS else ""
