"""Whose arguments the names of a space with a prefix are.

prune.*       of the one callback that masks, removes channels, or adds a penalty
transfer.*    of the one TransferLearning
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.callbacks.prune.penalized import Regularization
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.search.space import Architecture


@dataclass(frozen=True)
class Family:
    """Callbacks of which a search varies one.

    Attributes:
        prefix: of its names in a space.
        kinds: classes; one stands in for another of the same kind only.
        noun: what one is called.
        deed: what a fit without one lacks.
        example: of one, for a remedy.
    """

    prefix: str
    kinds: tuple[type[Callback], ...]
    noun: str
    deed: str
    example: str

    @property
    def section(self) -> str:
        """Of a config of the command line."""
        return self.prefix.rstrip(".")

    def part(self, architecture: Mapping[str, Any]) -> Architecture:
        """The callback's part of an architecture, without the prefix.

        >>> PRUNING.part({"width": 8, "prune.sparsity": 0.9})
        {'sparsity': 0.9}
        """
        prefix = self.prefix
        return {name.removeprefix(prefix): value for name, value in architecture.items() if name.startswith(prefix)}


PRUNING = Family(
    "prune.",
    (MaskedTraining, ChannelPruning, Regularization),
    "pruning callback",
    "pruning",
    "MagnitudePruning(CubicSparsity(0.9))",
)
TRANSFER = Family(
    "transfer.", (TransferLearning,), "TransferLearning", "transfer", 'TransferLearning("pretrained.ckpt")'
)
FAMILIES = (TRANSFER, PRUNING)
