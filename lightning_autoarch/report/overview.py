"""The first and the last section of a report: the result of the search, and the space that was searched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from lightning_autoarch.report.page import Plots, nothing, section, table, tiles
from lightning_autoarch.report.record import Record
from lightning_autoarch.search.leaderboard import (
    architecture_of,
    count,
    duration,
    in_one_line,
    number,
    real,
    score_text,
    tally,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


MAX_NAMES = 8
MOST_CHARACTERS = 1000  # of a path; the rest is cut


def summary(record: Record, plots: Plots) -> str:
    """The first section: what was searched, the result, and where the winner's checkpoint is."""
    head = f'<p class="eyebrow">Architecture search</p>\n<h1>{escape(record.name)}</h1>\n'
    best, names = record.best, _names(record)
    text = f"This search {'maximises' if record.maximize else 'minimises'} <code>{escape(record.score)}</code>"
    if names:
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        text += f" over {', '.join(f'<code>{escape(name)}</code>' for name in names[:MAX_NAMES])}{more}"
    if not record.trials:
        return f"{head}<p>{text}. It has no trial yet.</p>"
    text += f". Of {_n(len(record.trials), 'trial')}: {escape(tally(record.trials))}."
    if record.n_ignored:
        text += f" The study also has {_n(record.n_ignored, 'trial')} of another space, which this page leaves out."
    if best is None:
        return f"{head}<p>{text} None is complete, so there is no best architecture.</p>"
    text += f" The best is trial {best.number}: {escape(record.score)} {score_text(best)}."
    return f"{head}<p>{text}</p>\n{_tiles(record, best)}\n{_winner(best)}"


def space(record: Record, plots: Plots) -> str:
    """The last section: every parameter, and the space as it was given."""
    best = record.best.params if record.best else {}
    rows = [
        [
            f"<code>{escape(name)}</code>",
            escape(_values(distribution)),
            str(sum(name in trial.params for trial in record.trials)),
            escape(in_one_line(best[name])) if name in best else "",
        ]
        for name, distribution in record.distributions.items()
    ]
    header = ["parameter", "values", "trials that have it", "in the best"]
    body = table(header, rows, text_columns=(1,), word_columns=(0, 3)) if rows else ""
    stored = record.attrs.get("autoarch:space")
    if isinstance(stored, Mapping):
        given = f"<summary>The space as given</summary><pre>{escape(as_yaml(stored))}</pre>"
        body += f"<details{'' if rows else ' open'}>{given}</details>"
    return section(
        "What was searched", body or nothing("There is no trial yet, and the study does not store its space.")
    )


def as_yaml(value: Mapping[str, Any]) -> str:
    """Plain data as YAML, with the innermost lists and mappings on one line."""
    import yaml

    plain = json.loads(json.dumps(value, default=str))
    lines = [
        yaml.safe_dump(
            {name: item},
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None if isinstance(item, dict | list) else False,
            width=100,
        )
        for name, item in plain.items()
    ]
    return "".join(lines).rstrip() or "{}"


def _tiles(record: Record, best: FrozenTrial) -> str:
    params, flops = real(best.user_attrs.get("params")), real(best.user_attrs.get("flops"))
    cells = [
        (score_text(best), f"best {escape(record.score)}"),
        (f"{len(record.ranked)} of {len(record.trials)}", "trials complete"),
        (duration(record.seconds), "training time of all trials"),
    ]
    if params is not None:
        work = f", {count(flops)} FLOPs" if flops is not None else ""
        cells.append((count(params), f"parameters in the best{work}"))
    return tiles(cells)


def _winner(best: FrozenTrial) -> str:
    where, checkpoint = "No checkpoint is stored with it.", best.user_attrs.get("checkpoint")
    if isinstance(checkpoint, str) and checkpoint:
        where = f"Its checkpoint, as the study says: <code>{escape(checkpoint[:MOST_CHARACTERS])}</code>"
    yaml = escape(as_yaml(architecture_of(best)))
    return f"<h3>Best architecture, trial {best.number}</h3><pre>{yaml}</pre><p class='after'>{where}</p>"


def _names(record: Record) -> list[str]:
    """The names in the space as it was given, or else those of the trials' parameters."""
    stored = record.attrs.get("autoarch:space")
    return [str(name) for name in (stored if isinstance(stored, Mapping) else record.distributions)]


def _values(distribution: BaseDistribution) -> str:
    """Describe a distribution, for example "16 to 512, log" or "relu, gelu"."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(in_one_line(choice) for choice in distribution.choices)
    if not isinstance(distribution, IntDistribution | FloatDistribution):
        return str(distribution)
    ends = f"{number(distribution.low)} to {number(distribution.high)}"
    log = ", log" if distribution.log else ""
    step = f", step {number(distribution.step)}" if distribution.step not in (None, 1) else ""
    return ends + log + step


def _n(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"
