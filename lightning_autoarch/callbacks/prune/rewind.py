"""What training was at one step, to go back to: the module, its optimizers, their schedulers (lottery ticket)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """Copies on the CPU, in the form that checkpoints hold."""

    state: dict[str, Any]

    @classmethod
    def of(cls, trainer: Trainer, module: LightningModule) -> Snapshot:
        """Of now. No tensor in it shares memory with what is trained."""
        return cls(
            {
                "module": _copied(dict(module.state_dict())),
                "optimizers": [_copied(optimizer.state_dict()) for optimizer in trainer.optimizers],
                "schedulers": [copy.deepcopy(each.scheduler.state_dict()) for each in trainer.lr_scheduler_configs],
            }
        )

    @torch.no_grad()
    def restore_(self, trainer: Trainer) -> None:
        """Write all of it back; parameters keep their identity. Counters of the Trainer go on."""
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
