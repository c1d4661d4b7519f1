"""`SemiStructuredPruning`: n of each m neighbours stay, the pattern that sparse tensor cores multiply by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_autoarch.callbacks.base import Tunable
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.nm import nm_masks
from lightning_autoarch.prune.schedule import Moment, check_moment, step_of
from lightning_autoarch.prune.targets import Targets

if TYPE_CHECKING:
    from lightning_autoarch.callbacks.prune.distillation import Distillation


class SemiStructuredPruning(MaskedTraining):
    """Prunes to n of m once, and trains on under that mask.

    The m neighbours lie along the inputs: the last dimension of a matrix, the input channels of a convolution.

    Args:
        n: how many of `m` neighbours are kept, the largest.
        m: at most 64.
        at: when: a fraction of the fit, or `Step(n)`.
        transposable: 2:4 in both directions of a matrix, so that the backward pass has the pattern too.
        targets: patterns of what is pruned; None: matrices and convolutions whose inputs are a multiple of `m`.
        exclude, distill, name: as in `MagnitudePruning`.

    Raises:
        PruneValueError: before training: a target whose inputs are no multiple of `m`.
    """

    def __init__(
        self,
        n: int = 2,
        m: int = 4,
        *,
        at: Moment = 0.0,
        transposable: bool = False,
        targets: Patterns | None = None,
        exclude: Patterns = (),
        distill: Distillation | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(targets=targets, exclude=exclude, every_n_steps=1, distill=distill, name=name)
        check_moment(at, "at")
        nm_masks([torch.zeros(m if isinstance(m, int) and m > 0 else 1)], n, m)  # raises on a pattern that is none
        if transposable and (n, m) != (2, 4):
            raise PruneValueError(f"Expected n=2 and m=4 where `transposable`, got n={n} and m={m}.")
        self.n, self.m, self.at, self.transposable = n, m, at, transposable

    def tunables(self) -> list[Tunable]:
        own = [Tunable("n", int), Tunable("m", int), Tunable("at"), Tunable("transposable", bool)]
        return [*own, Tunable("targets"), Tunable("exclude")]

    def find(self, module: LightningModule) -> Targets:
        found = super().find(module)
        unfit = [name for name, parameter in found.parameters.items() if not self._fits(parameter)]
        if unfit and self.targets is not None:
            shape = tuple(found.parameters[unfit[0]].shape)
            raise PruneValueError(f"Expected inputs that are a multiple of {self.m}, got {shape} for `{unfit[0]}`.")
        if len(unfit) == len(found.parameters):
            raise PruneValueError(
                f"Nothing to prune to {self.n}:{self.m}: no weight has a multiple of {self.m} inputs."
            )
        if unfit:
            rank_zero_warn(f"{', '.join(unfit)}: not a multiple of {self.m} inputs, left dense.")
        return found.without(unfit)

    @property
    def settled(self) -> bool:
        return self._changed_at is not None and self._changed_at >= step_of(self.at, self._total, "at")

    def check(self, weights: MaskedWeights, total: int | None) -> None:
        step_of(self.at, total, "at")

    def due(self, step: int, total: int | None) -> bool:
        return step == step_of(self.at, total, "at")

    def new_masks(self, weights: MaskedWeights, step: int, total: int | None) -> list[BitMask] | None:
        if any(weights.pruned) or step < step_of(self.at, total, "at"):
            return None
        return [self._mask(parameter) for parameter in weights.parameters]

    def _mask(self, weight: Tensor) -> BitMask:
        dim = 1 if weight.dim() > 1 else 0
        (mask,) = nm_masks([weight], self.n, self.m, dim, transposable=self.transposable and weight.dim() == 2)
        return mask

    def _fits(self, weight: Tensor) -> bool:
        sizes: Sequence[int] = weight.shape[1:2] or weight.shape
        both = not self.transposable or (weight.dim() == 2 and weight.shape[0] % self.m == 0)
        return sizes[0] % self.m == 0 and both
