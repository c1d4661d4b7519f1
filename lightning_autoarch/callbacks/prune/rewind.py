"""The state of training at one step, to which it is rewound: module, optimizers, schedulers (lottery ticket)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.core.schema import data, mapping, record, sequence, tensor, whole

SNAPSHOT = record(
    {
        "module": mapping(tensor()),
        "optimizers": sequence(
            record({"state": record({}), "param_groups": sequence(record({"params": sequence(whole())}))})
        ),
        "schedulers": sequence(mapping(data())),
    }
)  # the form of a snapshot in a checkpoint


@dataclass(frozen=True)
class Snapshot:
    """Copies on the CPU, in the form of a checkpoint."""

    state: dict[str, Any]

    @classmethod
    def of(cls, trainer: Trainer, module: LightningModule) -> Snapshot:
        """The present state. No tensor in it shares memory with the training."""
        return cls(
            {
                "module": _copied(dict(module.state_dict())),
                "optimizers": [_copied(optimizer.state_dict()) for optimizer in trainer.optimizers],
                "schedulers": [copy.deepcopy(each.scheduler.state_dict()) for each in trainer.lr_scheduler_configs],
            }
        )

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Check before training that a snapshot from a checkpoint fits.

        Raises:
            CheckpointError: it belongs to another module or to other optimizers.
        """
        here = {name: tuple(value.shape) for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        there = {name: tuple(value.shape) for name, value in self.state["module"].items()}
        odd = next((name for name in {**here, **there} if here.get(name) != there.get(name)), None)
        if odd is not None:
            raise CheckpointError(
                f"Expected the weights to rewind to in the checkpoint, of shape {here.get(odd, 'none')} for "
                f"`{shown(odd)}`, got {there.get(odd, 'none')}: it belongs to another module."
            )
        sizes = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        stored = [[len(group["params"]) for group in each["param_groups"]] for each in self.state["optimizers"]]
        if sizes != stored or len(self.state["schedulers"]) != len(trainer.lr_scheduler_configs):
            raise CheckpointError(
                "Expected the optimizers and schedulers of this fit in the snapshot of the checkpoint, got others."
            )

    @torch.no_grad()
    def restore_(self, trainer: Trainer) -> None:
        """Restore the state in place; parameters keep their identity. The counters of the Trainer are not reset."""
        trainer.lightning_module.load_state_dict(self.state["module"])
        for optimizer, state in zip(trainer.optimizers, self.state["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))
        for config, state in zip(trainer.lr_scheduler_configs, self.state["schedulers"], strict=True):
            config.scheduler.load_state_dict(copy.deepcopy(state))


def _copied(tree: Any) -> Any:
    """A nested state with every tensor copied to the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_copied(value) for value in tree)
    return copy.deepcopy(tree)
