"""Which finished trial a candidate inherits from: one of those that keep their checkpoint.

"best"       with the best score
"nearest"    whose architecture is the least far, |z - z'| of the embeddings of search/encoding.py; of equals the best
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from optuna.trial import FrozenTrial

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.seam.optuna import set_user_attr
from lightning_autoarch.search.encoding import Encoding
from lightning_autoarch.search.leaderboard import real
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.training.inheritance import Parent
from lightning_autoarch.training.trial import TrialSpec
from lightning_autoarch.training.trial_files import kept_checkpoint

OVERWRITTEN = ("transfer.checkpoint", "transfer.reinit")  # by a parent's weights, which come last

Inherit: TypeAlias = Literal["best", "nearest"]


class Parents:
    """Chooses parents in one study.

    Args:
        inherit: how.
        ledger: of the trials. A parent is written to its child's record before the child trains, so that an interrupted
            one keeps it.
        directory: of the search.
        keep_top_k: how many trials keep their checkpoints.
    """

    def __init__(self, inherit: Inherit, ledger: Ledger, directory: Path, keep_top_k: int) -> None:
        self._inherit, self._ledger, self._directory, self._keep_top_k = inherit, ledger, directory, keep_top_k
        self._encoding = Encoding(ledger.space.nodes)

    def added(self, spec: TrialSpec, number: int, architecture: Architecture) -> TrialSpec:
        """The spec of trial `number` with a parent, where there is one."""
        return dataclasses.replace(spec, parent=self.of(number, architecture))

    def of(self, number: int, architecture: Architecture) -> Parent | None:
        """The parent of trial `number`; None before any trial has kept a checkpoint."""
        trials = {trial.number: trial for trial in self._ledger.trials()}
        known = trials[number].user_attrs
        if "parent" in known:
            before = known["parent"]
            return self._parent(trials[before]) if type(before) is int and before in trials else None
        kept = self._ledger.ranking(list(trials.values()))[: self._keep_top_k]
        candidates = [trial for trial in kept if self._checkpoint(trial) is not None]
        chosen = self._chosen(candidates, architecture) if candidates else None
        set_user_attr(self._ledger.study, trials[number], "parent", None if chosen is None else chosen.number)
        return None if chosen is None else self._parent(chosen)

    def _chosen(self, candidates: Sequence[FrozenTrial], architecture: Architecture) -> FrozenTrial:
        if self._inherit == "best":
            return candidates[0]
        here = self._embedded(architecture)
        return min(candidates, key=lambda t: float(np.linalg.norm(self._embedded(self._ledger.architecture(t)) - here)))

    def _embedded(self, architecture: Architecture) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self._encoding.embed(self._encoding.encode(self._ledger.space.flatten(architecture)))

    def _parent(self, trial: FrozenTrial) -> Parent:
        return Parent(trial.number, self._checkpoint(trial), total_epochs(trial.user_attrs))

    def _checkpoint(self, trial: FrozenTrial) -> Path | None:
        """Here, or where the process that trained it wrote it inside of this directory."""
        return kept_checkpoint(self._directory, trial.number, trial.user_attrs.get("checkpoint"))


def total_epochs(attributes: Mapping[str, Any]) -> int:
    """That the weights of a trial have seen at most: its own and its parents'."""
    known = (real(attributes.get(name)) for name in ("total_epochs", "epochs"))
    return max(0, int(next((epochs for epochs in known if epochs is not None), 0)))


def check_inherit(inherit: object, folds: object, names: Container[str] = ()) -> None:
    """Raises SearchError for inheritance across folds, or names of the space that it leaves without effect."""
    if inherit is not None and folds is not None:
        raise SearchError(
            f"`inherit={inherit!r}` does not go with `folds`: the weights of a parent have been trained on what other "
            "folds validate with, so that the scores would be too good."
        )
    without = next((name for name in OVERWRITTEN if name in names), None)
    if inherit is not None and without is not None:
        raise SearchError(
            f"`{without}` of the space has no effect with `inherit={inherit!r}`: the weights of a parent come over "
            "what was taken over. Leave one of them out."
        )
