"""A candidate that starts from the weights of an earlier trial.

Which one, of those that keep their checkpoint:

    "best"       the one with the best score
    "nearest"    the one with the nearest architecture, |z - z'| of the embeddings of search/encoding.py; ties go to the
                 better score

Its weights are matched as any checkpoint is (`transfer_weights`): with an `example_input_array`, channels are
replicated or selected along the graph of the net; without one, what both nets have is copied. The rest starts from
fresh weights, and optimizer and schedules always do. Net2Net (Chen, Goodfellow & Shlens 2016) and Lamarckian evolution
of nets (Elsken, Metzen & Hutter 2019) initialise children in this way.

The weights of a child have seen more epochs than its own training: `total_epochs` counts its parents' too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.trial import FrozenTrial
from torch import Tensor, nn

from lightning_autoarch.core.errors import CheckpointError, SearchError, StructureError, TransferError
from lightning_autoarch.core.schema import VERSION, Schema, is_empty, real, text
from lightning_autoarch.seam.optuna import set_user_attr
from lightning_autoarch.search.encoding import Encoding, Rows
from lightning_autoarch.search.leaderboard import real as finite_number
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.training.trial_files import kept_checkpoint, read_lightning
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_report import TransferReport
from lightning_autoarch.transfer.transfer_weights import transfer_weights

STATE_KEY = "lightning_autoarch.WeightInheritance"
SCHEMA = Schema("WeightInheritance", 1, {"share": real(0.0, 1.0), "reason": text()})

Inherit: TypeAlias = Literal["best", "nearest"]


@dataclass(frozen=True)
class Parent:
    """A finished trial from whose weights another one starts.

    Attributes:
        number: of the trial.
        checkpoint: None where the search's directory no longer has it.
        epochs: the most epochs that its weights may have seen.
    """

    number: int
    checkpoint: Path | None
    epochs: int


@dataclass(frozen=True)
class Inherited:
    """What a trial inherited: the share of its parameters, and the reason where that is 0."""

    parent: Parent
    share: float
    reason: str = ""

    @property
    def epochs(self) -> int:
        """Of the parents; 0 where nothing was inherited."""
        return self.parent.epochs if self.share else 0


class WeightInheritance(Callback):
    """Copies the parent's weights once the module is built, set up and on its device, before anything is trained.

    The result is kept in the trial's checkpoint: a trial that continues does not inherit again.
    """

    def __init__(self, parent: Parent) -> None:
        self.parent = parent
        self.inherited: Inherited | None = None

    @property
    def state_key(self) -> str:
        return STATE_KEY

    def state_dict(self) -> dict[str, Any]:
        done = self.inherited
        return {} if done is None else {VERSION: SCHEMA.version, "share": done.share, "reason": done.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not is_empty(state_dict):
            state = SCHEMA.read(state_dict)
            self.inherited = Inherited(self.parent, state["share"], state["reason"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.inherited is not None:
            return
        try:
            if self.parent.checkpoint is None:
                raise CheckpointError(f"The search's directory has no checkpoint of trial #{self.parent.number}.")
            report = inherit_weights(pl_module, self.parent.checkpoint, _example(trainer, pl_module))
        except (TransferError, CheckpointError, OSError) as error:
            self.inherited = Inherited(self.parent, 0.0, str(error))
        else:
            self.inherited = Inherited(self.parent, report.share)


class Parents:
    """Chooses parents in one study.

    Args:
        inherit: how.
        ledger: of the trials. A parent is recorded with its child before the child trains, so that an interrupted child
            keeps it.
        directory: of the search.
        keep_top_k: the number of trials that keep their checkpoints.
    """

    def __init__(self, inherit: Inherit, ledger: Ledger, directory: Path, keep_top_k: int) -> None:
        self._inherit, self._ledger, self._directory, self._keep_top_k = inherit, ledger, directory, keep_top_k
        self._encoding = Encoding(ledger.space.nodes)

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

    def _embedded(self, architecture: Architecture) -> Rows:
        return self._encoding.embed(self._encoding.encode(self._ledger.space.flatten(architecture)))

    def _parent(self, trial: FrozenTrial) -> Parent:
        return Parent(trial.number, self._checkpoint(trial), total_epochs(trial.user_attrs))

    def _checkpoint(self, trial: FrozenTrial) -> Path | None:
        """In the trial's directory, or where the process that trained it wrote it inside of the search's directory."""
        return kept_checkpoint(self._directory, trial.number, trial.user_attrs.get("checkpoint"))


def inherit_weights(module: nn.Module, checkpoint: Path, example_inputs: Any) -> TransferReport:
    """Copy the weights of a trial's checkpoint that fit.

    Raises:
        TransferError: none fits.
        CheckpointError: the checkpoint cannot be read.
        OSError: the checkpoint is gone.
    """
    weights = read_lightning(checkpoint).get("state_dict", {})
    if example_inputs is not None:
        try:
            return transfer_weights(
                module, weights, on_mismatch="widen", matching=Matching(example_inputs=example_inputs, approximate=True)
            )
        except StructureError:  # the forward cannot be traced: match by names and shapes
            pass
    return transfer_weights(module, weights, on_mismatch="slice")


def total_epochs(attributes: Mapping[str, Any]) -> int:
    """The most epochs that the weights of a trial have seen: its own and its parents'."""
    known = (finite_number(attributes.get(name)) for name in ("total_epochs", "epochs"))
    return max(0, int(next((epochs for epochs in known if epochs is not None), 0)))


def check_inherit(inherit: Inherit | None, folds: object) -> None:
    """Raise SearchError for inheritance across folds."""
    if inherit is not None and folds is not None:
        raise SearchError(
            f"`inherit={inherit!r}` does not go with `folds`: a parent's weights have been trained on samples that "
            "other folds validate with, so the scores would be too good."
        )


def _example(trainer: Trainer, module: LightningModule) -> Any:
    example = module.example_input_array
    if example is None:
        return None
    moved = _moved(example, module.device)
    return trainer.precision_plugin.convert_input(moved)


def _moved(example: Any, device: torch.device) -> Any:
    if isinstance(example, Tensor):
        return example.to(device)
    if isinstance(example, Mapping):
        return {name: _moved(value, device) for name, value in example.items()}
    return tuple(_moved(value, device) for value in example) if isinstance(example, tuple | list) else example
