"""`RigL` and `SET`: sparse from the first step to the last, with a mask that moves to where weights are needed."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_autoarch.callbacks.base import Tunable
from lightning_autoarch.callbacks.prune.checks import say_short
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.prune.counts import as_number
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.mask_updates import (
    drop_fraction,
    exchange,
    prune_further,
    random_scores,
    scores_of,
)
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.schedule import Moment, check_moment, check_sparsity, step_of

if TYPE_CHECKING:
    from lightning_autoarch.callbacks.prune.distillation import Distillation

Start = Literal["random", "magnitude"]


class DynamicSparseTraining(MaskedTraining):
    """Constant sparsity; every `every_n_steps` steps a share of the kept weights is exchanged, less and less.

    Args:
        sparsity: of all targets, in (0, 1).
        scope: "erk" (wide layers sparser), or "layer", the same everywhere.
        alpha: share of the kept weights that is exchanged at first; it falls to 0 by a cosine.
        end: when the exchange ends: a fraction of the fit, or `Step(n)`.
        every_n_steps: optimizer steps between two exchanges.
        start: the first mask: "random", or of the smallest "magnitude" (for weights that were trained).
        targets, exclude, distill, name: as in `MagnitudePruning`.
        seed: of what is random.
    """

    masks_gradients = True

    def __init__(
        self,
        sparsity: float = 0.9,
        scope: Literal["erk", "layer"] = "erk",
        *,
        alpha: float = 0.3,
        end: Moment = 0.75,
        every_n_steps: int = 100,
        start: Start = "random",
        targets: Patterns | None = None,
        exclude: Patterns = (),
        seed: int = 0,
        distill: Distillation | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(targets=targets, exclude=exclude, every_n_steps=every_n_steps, distill=distill, name=name)
        check_sparsity(sparsity, "sparsity")
        check_moment(end, "end")
        for argument, value, known in (("scope", scope, ("erk", "layer")), ("start", start, ("random", "magnitude"))):
            if value not in known:
                raise PruneValueError(f"Expected `{argument}` to be one of {', '.join(known)}, got {value!r}.")
        if not 0 < as_number(alpha, "alpha") <= 1:
            raise PruneValueError(f"Expected `alpha` in (0, 1], got {alpha}.")
        self.target_sparsity, self.scope, self.alpha, self.end = sparsity, scope, alpha, end
        self.start, self.seed = start, seed

    def tunables(self) -> list[Tunable]:
        own = [Tunable("sparsity", float), Tunable("scope", str), Tunable("alpha", float), Tunable("end")]
        return [*super().tunables(), *own, Tunable("start", str), Tunable("seed", int)]

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "sparsity": self.target_sparsity}  # `sparsity` is the one of now

    def check(self, weights: MaskedWeights, total: int | None) -> None:
        step_of(self.end, total, "end")

    def due(self, step: int, total: int | None) -> bool:
        return step % self.every_n_steps == 0 and step < step_of(self.end, total, "end")

    @property
    def masks_change(self) -> bool:
        return self._total is None or self._seen < step_of(self.end, self._total, "end")

    def new_masks(self, weights: MaskedWeights, step: int, total: int | None) -> list[BitMask] | None:
        if not any(weights.pruned):
            scores = random_scores(weights.parameters, self.seed) if self.start == "random" else None
            masks = prune_further(weights, self.target_sparsity, self.scope, scores)
            say_short(self, weights, masks, self.target_sparsity)
            return masks
        growth = self.growth(weights, step)
        fraction = drop_fraction(step, step_of(self.end, total, "end"), self.alpha)
        return None if growth is None else exchange(weights, fraction, growth)

    @abstractmethod
    def growth(self, weights: MaskedWeights, step: int) -> list[Tensor] | None:
        """By what weights are grown; None if it is not known now."""


class RigL(DynamicSparseTraining):
    """Grows the weights whose gradient is largest (Evci et al. 2020, *Rigging the Lottery*). See
    `DynamicSparseTraining`.

    Example::

        L.Trainer(max_epochs=20, callbacks=[RigL(0.9, every_n_steps=100)]).fit(model, datamodule=dm)
    """

    @property
    def asks_gradients(self) -> bool:
        return True

    def growth(self, weights: MaskedWeights, step: int) -> list[Tensor] | None:
        return scores_of(weights.names, self.of_gradients) if self.stepped else None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for name, _, gradient in self.with_gradients(trainer, optimizer):
            self.of_gradients[name] = gradient.detach().clone()
        super().on_before_optimizer_step(trainer, pl_module, optimizer)


class SET(DynamicSparseTraining):
    """Grows weights at random (Mocanu et al. 2018, *Sparse evolutionary training*). See `DynamicSparseTraining`."""

    def growth(self, weights: MaskedWeights, step: int) -> list[Tensor] | None:
        return random_scores(weights.parameters, self.seed + step)
