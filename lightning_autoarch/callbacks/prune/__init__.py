"""Pruning while a Trainer trains: masks that survive, dynamic sparse training, n-of-m patterns, channels removed."""

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.dynamic import SET, RigL
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.semi_structured import SemiStructuredPruning

__all__ = ["SET", "ChannelPruning", "MagnitudePruning", "RigL", "SemiStructuredPruning"]
