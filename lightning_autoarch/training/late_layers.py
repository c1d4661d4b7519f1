"""Make the layers that a candidate only has when training begins: run `setup` and `configure_model` without training.

Both hooks may make layers, and may ask the Trainer for what they need (`self.trainer.datamodule`, `world_size`,
`max_epochs`, ...). So they are called as Lightning calls them, on a module that is attached to a Trainer with the
arguments and the data of a trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_autoarch.seam.lightning import attach
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.isolation import isolated
from lightning_autoarch.training.trial_logger import TrialLogger


def is_made_late(module: LightningModule) -> bool:
    """Whether the module overrides a hook between `__init__` and training that may make layers."""
    return is_overridden("setup", module) or is_overridden("configure_model", module)


def prepare_(module: LightningModule, trainer_arguments: Mapping[str, Any], data: TrialData) -> None:
    """Run the hooks. Afterwards the module is attached to no Trainer, and the data and the process are as before."""
    logger = TrialLogger(None)
    ours = {"logger": logger, "callbacks": [], "enable_checkpointing": False, "use_distributed_sampler": False}
    with isolated(0), data.for_trial({}) as loaders:
        trainer = Trainer(**{**trainer_arguments, **ours})
        attach(trainer, module, loaders)
        try:
            if is_overridden("setup", module):
                module.setup(stage="fit")
            if is_overridden("configure_model", module):
                module.configure_model()
        finally:
            module.trainer = None
            logger.close()
