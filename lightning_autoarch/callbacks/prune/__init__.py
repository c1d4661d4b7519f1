"""Pruning while a Trainer trains: masks that survive, channels that go, penalties, a teacher."""

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.distillation import Distillation
from lightning_autoarch.callbacks.prune.dynamic import SET, RigL
from lightning_autoarch.callbacks.prune.finetune import Pruned, prune_trained, sizes_on_disk
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.regularization import GroupLasso, L1Regularization, L2Regularization
from lightning_autoarch.callbacks.prune.semi_structured import SemiStructuredPruning

__all__ = [
    "SET",
    "ChannelPruning",
    "Distillation",
    "GroupLasso",
    "L1Regularization",
    "L2Regularization",
    "MagnitudePruning",
    "Pruned",
    "RigL",
    "SemiStructuredPruning",
    "prune_trained",
    "sizes_on_disk",
]
