"""Under which conditions the scores of a study were made, and what of them has changed.

Conditions are what a score depends on beside the architecture: data, base hyperparameters, the trials' Trainer,
callbacks, folds. They are kept in the study, flat:

    {"trainer.max_epochs": 3, "hyperparameters.lr": 0.01, "data.train.dataset.length": 50000, ...}

A value is plain, or the sketch of an array: ["array", dtype, shape, |x|, x.w_1, x.w_2] with fixed vectors w. Sketches
are compared up to rounding, since another machine may decode or scale the same samples a little differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import optuna
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.core.errors import SearchError

Conditions: TypeAlias = dict[str, Any]

CONDITIONS = "autoarch:conditions"  # user attribute of a study
ROUNDING = 1e-3  # of an array's norm
NOISE = 1e-6  # of a number: a mean over the data depends on the machine in its last digits
NEW_IS_ANOTHER = ("trainer.", "callbacks.")  # here a new name is a difference,
GONE_IS_ANOTHER = "callbacks."  # and here one that is gone: an argument of the Trainer may have gone into the space
_LONGEST = 60
_MOST_DIFFERENCES = 8  # that a message lists


def condition_differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """A line for each condition that is no longer the same.

    A hyperparameter or a part of the data that only one side has is none: the code may have gained it since. A value
    in whose place there is a list or an object now is one.

    >>> condition_differences({"trainer.max_epochs": 2, "folds": 5}, {"trainer.max_epochs": 6, "folds": 5})
    ['`trainer.max_epochs`: stored 2, given 6']
    >>> condition_differences({"module.loss": None}, {"module.loss.class": "L1Loss", "module.loss.reduction": "sum"})
    ['`module.loss`: stored None, given L1Loss']
    """
    new = [name for name in given if name not in stored and name.startswith(NEW_IS_ANOTHER)]
    kinds = _replaced(stored, given)
    names = [name for name in stored if name in given or name.startswith(GONE_IS_ANOTHER)] + new
    lines = [
        f"`{name}`: {_change(stored.get(name), given.get(name))}"
        for name in names
        if not is_same(stored.get(name), given.get(name)) and not any(name.startswith(f"{kind}.") for kind in kinds)
    ]
    named = {line.split("`")[1] for line in lines}
    return lines + [
        f"`{name}`: stored {_whole(name, stored)}, given {_whole(name, given)}" for name in kinds if name not in named
    ]


def check_conditions(study: optuna.Study, conditions: Conditions, accept_changes: bool) -> None:
    """Raise, or warn, where the scores in the study do not compare with those of new trials."""
    stored = study.user_attrs.get(CONDITIONS)
    if stored is None:
        rank_zero_warn(
            f"The study `{study.study_name}` does not tell on what data and with what settings its trials were scored: "
            "an earlier version of this package made it. It is continued as if nothing had changed."
        )
    elif not (lines := condition_differences(stored, conditions)):
        return
    else:
        more = f"; and {len(lines) - _MOST_DIFFERENCES} more" if len(lines) > _MOST_DIFFERENCES else ""
        what = f"Different: {'; '.join(lines[:_MOST_DIFFERENCES])}{more}."
        if not accept_changes:
            raise SearchError(
                f"The trials of the study `{study.study_name}` were scored under other conditions, so their scores do "
                f"not compare with new ones. {what} Give another `study.name` to search anew, or "
                "`study.accept_changes=True` to continue this study all the same. (Data that are drawn or split at "
                "random need a seed, to be the same at each start.)"
            )
        rank_zero_warn(f"The study `{study.study_name}` is continued under other conditions. {what}")
    study.set_user_attr(CONDITIONS, conditions)


def is_same(a: Any, b: Any) -> bool:
    """Whether two conditions are equal, numbers up to rounding."""
    if _is_sketch(a) and _is_sketch(b):
        tolerance = ROUNDING * max(a[3], b[3])
        return a[1:3] == b[1:3] and all(abs(x - y) <= tolerance for x, y in zip(a[3:], b[3:], strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=NOISE)
    return bool(a == b)


def _replaced(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names that are a value on one side, and on the other a list or an object with values inside."""
    inner = [{name[:i] for name in side for i, sign in enumerate(name) if sign == "."} for side in (a, b)]
    return [name for name in a if name in inner[1] and name not in b] + [
        name for name in b if name in inner[0] and name not in a
    ]


def _whole(name: str, conditions: Mapping[str, Any]) -> str:
    if name in conditions:
        return _short(conditions[name])
    if f"{name}.length" in conditions and f"{name}.class" not in conditions:
        return f"a list of {conditions[f'{name}.length']}"
    return str(conditions.get(f"{name}.class", "a dict"))


def _is_sketch(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 6 and value[0] == "array"


def _change(stored: Any, given: Any) -> str:
    if _is_sketch(stored) and _is_sketch(given) and stored[1:3] == given[1:3]:
        return f"other values, of the same shape {tuple(given[2])}"
    return f"stored {_short(stored)}, given {_short(given)}"


def _short(value: Any) -> str:
    text = f"an array {tuple(value[2])} of {value[1]}" if _is_sketch(value) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
