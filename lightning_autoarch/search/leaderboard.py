"""The trials of a study ranked by score: which ones count, how the others ended, and how all are displayed.

A trial is ranked when it is complete, finite, feasible and no duplicate. Best first; among equals the earlier trial.
Everything reads plain Optuna trials: what another program did not store is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from lightning_autoarch.search.adoption import Placement
from lightning_autoarch.search.choices import written

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

Fate: TypeAlias = Literal["complete", "pruned", "failed", "infeasible", "duplicate", "refused", "running", "waiting"]
_FATES: dict[str, Fate] = {"PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}

HERITAGE = ("parent", "in all")  # headings of `heritage`
LONGEST_TEXT = 1000  # characters of a name or a value
SHARES = ("sparsity", "removed", "transferred")  # of the net, by callbacks; user attributes and headings


def fate(trial: FrozenTrial) -> Fate:
    """How a trial ended. A score that is not finite is a failure, whatever Optuna calls it."""
    if "duplicate_of" in trial.user_attrs:
        return "duplicate"
    if "refused" in trial.user_attrs:
        return "refused"
    if trial.state.name == "COMPLETE":
        if not trial.values or any(real(value) is None for value in trial.values):
            return "failed"
        return "infeasible" if broken_constraints(trial) else "complete"
    return _FATES[trial.state.name]


def broken_constraints(trial: FrozenTrial) -> list[str]:
    """The names of those that a trial breaks; a study that another program made may hold no such thing."""
    try:
        return [name for name, value in trial.constraints.items() if value > 0]
    except (TypeError, ValueError, AttributeError):
        return []


def ranked(study: Study) -> list[FrozenTrial]:
    """The complete trials, best first; without those that lie outside of the study's space."""
    sign = -1.0 if study.direction.name == "MAXIMIZE" else 1.0
    placement = Placement.of_study(study)
    complete = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if fate(trial) == "complete" and not placement.is_outside(trial)
    ]
    return sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def architecture_of(trial: FrozenTrial) -> dict[str, Any]:
    """The architecture stored with a trial; in a study that is not ours, its parameters."""
    architecture = trial.user_attrs.get("architecture")
    return dict(architecture) if isinstance(architecture, Mapping) else dict(trial.params)


def in_one_line(architecture: Any) -> str:
    """An architecture in one line; the values of a repeated block without their names.

    >>> in_one_line({"layers": [{"width": 64, "act": "relu"}, {"width": 32, "act": "gelu"}], "dropout": 0.1})
    'layers=[64/relu, 32/gelu] dropout=0.1'
    """
    form = written(architecture)
    if isinstance(form, Mapping):
        return " ".join(f"{printable(key)}={_in_one_value(value)}" for key, value in form.items())
    return _in_one_value(form)


def number(value: float) -> str:
    """Four significant digits, trailing zeros dropped.

    >>> [number(x) for x in (0.1, 1 / 3, 12345.678, 3e-5)]
    ['0.1', '0.3333', '12346', '3e-05']
    """
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.4g}"


def fixed(value: float) -> str:
    """Four decimals, or four significant digits where that says too little or too much: scores line up.

    >>> [fixed(x) for x in (0.9, 0.05, 12.5, 1234.5, 3e-5)]
    ['0.9000', '0.0500', '12.50', '1234', '3.000e-05']
    """
    if 1e-3 <= abs(value) < 10 or value == 0:
        return f"{value:.4f}"
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:#.4g}"


def count(value: float) -> str:
    """A large count with its unit.

    >>> [count(x) for x in (950, 12_345, 3_400_000, 2.1e9)]
    ['950', '12.3k', '3.4M', '2.1G']
    """
    if abs(value) >= 1e15:
        return f"{value:.1e}"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}" if abs(value) < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> [duration(s) for s in (0.04, 7.25, 95, 3720, 200_000)]
    ['0.04 s', '7.2 s', '1 min 35 s', '1 h 2 min', '2 d 7 h']
    """
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {whole % 60} s"


def score_text(trial: FrozenTrial) -> str:
    """`0.9512 ±0.0031`, or without the standard error where none is stored."""
    stderr = real(trial.user_attrs.get("stderr"))
    return fixed(trial.value or 0.0) + ("" if stderr is None else f" ±{_two_digits(stderr)}")


def real(value: Any) -> float | None:
    """A finite number, or None for anything else: user attributes of a study that is not ours can hold all sorts."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int beyond every float
        return None
    return number if math.isfinite(number) else None


def seconds_of(trial: FrozenTrial) -> float | None:
    """Training seconds; in a study that is not ours, from start to end."""
    stored = real(trial.user_attrs.get("seconds"))
    if stored is not None or trial.duration is None:
        return stored
    return trial.duration.total_seconds()


def heritage(trial: FrozenTrial) -> tuple[str, str]:
    """Of a trial that inherited weights: its parent with the share of its parameters, and all epochs they have seen."""
    parent, share, epochs = (real(trial.user_attrs.get(name)) for name in ("parent", "inherited", "total_epochs"))
    if parent is None or share is None:
        return "", ""
    return f"#{parent:.0f} {share:.0%}", "" if epochs is None else f"{epochs:.0f}"


def shares(trial: FrozenTrial) -> tuple[str, ...]:
    """The shares of the net that callbacks have changed, each in percent or empty: masked, removed, transferred."""
    values = [real(trial.user_attrs.get(name)) for name in SHARES]
    return tuple("" if value is None else f"{value:.1%}" for value in values)


def failure_kind(trial: FrozenTrial) -> str:
    """What a failure is grouped by: the error's name, `OutOfMemory` of `OutOfMemory: tried to ...`."""
    error = str(trial.user_attrs.get("error", ""))
    if error:
        return error.split(":", 1)[0].strip() or "unknown"
    return "score not finite" if trial.state.name == "COMPLETE" else "no reason stored"


def tally(trials: Iterable[FrozenTrial]) -> str:
    """`34 complete, 4 pruned, 2 failed (2 OutOfMemory)`."""
    trials = list(trials)
    fates = Counter(fate(trial) for trial in trials)
    kinds = Counter(failure_kind(trial) for trial in trials if fate(trial) == "failed")
    reasons = ", ".join(f"{n} {printable(kind)}" for kind, n in kinds.most_common())
    said = [f"{fates[name]} {name}" for name in get_args(Fate) if fates[name]]
    return ", ".join(f"{text} ({reasons})" if text.endswith("failed") else text for text in said) or "no trial"


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:#.2g}"


def _in_one_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{in_one_line(value)}}}"
    if isinstance(value, list):
        return "[" + ", ".join(_in_one_item(item) for item in value) + "]"
    return number(value) if isinstance(value, float) else printable(value)


def _in_one_item(item: Any) -> str:
    if isinstance(item, Mapping):
        return "/".join(_in_one_value(value) for value in item.values())
    return _in_one_value(item)


def printable(value: Any) -> str:
    """One line without control characters: a name from a foreign study must not move the terminal's cursor.

    The middle of a long one is left out, as in `shortened`.
    """
    return "".join(c if c.isprintable() else " " for c in shortened(str(value)))


def shortened(text: str) -> str:
    """A text without its middle where it has more than `LONGEST_TEXT` characters."""
    half = LONGEST_TEXT // 2
    return text if len(text) <= LONGEST_TEXT else f"{text[:half]}...{text[-half:]}"
