"""What training was at one step, to go back to: the module, its optimizers, their schedulers (lottery ticket)."""

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
)  # of what a checkpoint holds


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

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """See that one from a checkpoint fits, before training and not when it is gone back to.

        Raises:
            CheckpointError: it is of another module, or of other optimizers.
        """
        here = {name: tuple(value.shape) for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        there = {name: tuple(value.shape) for name, value in self.state["module"].items()}
        odd = next((name for name in {**here, **there} if here.get(name) != there.get(name)), None)
        if odd is not None:
            raise CheckpointError(
                f"Expected the weights to rewind to in the checkpoint, of shape {here.get(odd, 'none')} for "
                f"`{shown(odd)}`, got {there.get(odd, 'none')}: it is of another module."
            )
        sizes = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        stored = [[len(group["params"]) for group in each["param_groups"]] for each in self.state["optimizers"]]
        if sizes != stored or len(self.state["schedulers"]) != len(trainer.lr_scheduler_configs):
            raise CheckpointError(
                "Expected the optimizers and schedulers of this fit in what the checkpoint rewinds to, got others."
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
