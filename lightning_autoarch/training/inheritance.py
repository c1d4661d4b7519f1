"""A candidate that starts from an earlier trial's weights.

They are matched as any checkpoint is (`transfer_weights`): with an `example_input_array` channels are replicated or
chosen by the graph of the net, without one what both have is copied. What finds no place starts fresh; optimizer and
schedules do in any case. Net2Net (Chen, Goodfellow & Shlens 2016) and Lamarckian evolution of nets (Elsken, Metzen &
Hutter 2019) start children like this.

A child has seen more epochs than its score says: those of its parents are counted in `total_epochs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_autoarch.core.errors import CheckpointError, StructureError, TransferError
from lightning_autoarch.core.schema import VERSION, Schema, is_empty, real, text
from lightning_autoarch.training.trial_files import read_lightning
from lightning_autoarch.transfer import TransferReport, transfer_weights

STATE_KEY = "lightning_autoarch.WeightInheritance"
SCHEMA = Schema("WeightInheritance", 1, {"share": real(0.0, 1.0), "reason": text()})


@dataclass(frozen=True)
class Parent:
    """A finished trial that another starts from; `epochs` are all that its weights may have seen.

    The checkpoint is None where the search's directory has it no more.
    """

    number: int
    checkpoint: Path | None
    epochs: int


@dataclass(frozen=True)
class Inherited:
    """What a trial took over: the share of its parameters, and why it is none where it is."""

    parent: Parent
    share: float
    reason: str = ""

    @property
    def epochs(self) -> int:
        """Of the parents, 0 where nothing was taken over."""
        return self.parent.epochs if self.share else 0


class WeightInheritance(Callback):
    """Takes the weights over when the module is built, set up and on its device, before anything is trained.

    What was taken over goes into the trial's checkpoint: one that continues does not inherit again.
    """

    def __init__(self, parent: Parent) -> None:
        self.parent = parent
        self.inherited: Inherited | None = None

    @property
    def state_key(self) -> str:
        return STATE_KEY

    def state_dict(self) -> dict[str, Any]:
        taken = self.inherited
        return {} if taken is None else {VERSION: SCHEMA.version, "share": taken.share, "reason": taken.reason}

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


def inherit_weights(module: nn.Module, checkpoint: Path, example_inputs: Any) -> TransferReport:
    """Take over what fits of a trial's checkpoint.

    Raises:
        TransferError: nothing does. CheckpointError: it cannot be read, or is gone.
    """
    weights = read_lightning(checkpoint).get("state_dict", {})
    if example_inputs is not None:
        try:
            return transfer_weights(
                module, weights, on_mismatch="widen", example_inputs=example_inputs, approximate=True
            )
        except StructureError:  # the forward cannot be followed: names and shapes are left
            pass
    return transfer_weights(module, weights, on_mismatch="slice")


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
