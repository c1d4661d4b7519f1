"""Optimizers and schedulers of the config, made when a module asks for them: each candidate has its own."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.seam.lightning_cli import ExtensibleCLI
from lightning_autoarch.training.optimizers import LateOptimizers


class WithLateOptimizers(ExtensibleCLI):
    """LightningCLI whose `configure_optimizers` is over the parameters of the module that asks, when it asks."""

    def set_configure_optimizers(self, subcommand: str | None) -> None:
        automatic = self.automatic_optimizers(subcommand)
        if not self.auto_configure_optimizers or any(len(found) > 1 for found in automatic):
            super().set_configure_optimizers(subcommand)
            return
        optimizer, scheduler = (self._initialiser(*found[0]) if found else None for found in automatic)
        if optimizer is None:
            return
        if is_overridden("configure_optimizers", self.model):
            rank_zero_warn(f"The config's `optimizer` replaces `{type(self.model).__name__}.configure_optimizers`.")

        def make(module: LightningModule) -> tuple[torch.optim.Optimizer, Any]:
            made = instantiate_class((module.parameters(),), optimizer)
            return made, None if scheduler is None else instantiate_class((made,), scheduler)

        LateOptimizers(self.configure_optimizers, make).bind(self.model)

    def _initialiser(self, key: str, registered: Any) -> dict[str, Any] | None:
        """`{"class_path": ..., "init_args": ...}` of an optimizer or scheduler, None where none is given."""
        init = self.instantiated(key)
        if isinstance(registered, tuple):
            return init or None
        return {"class_path": f"{registered.__module__}.{registered.__qualname__}", "init_args": init or {}}
