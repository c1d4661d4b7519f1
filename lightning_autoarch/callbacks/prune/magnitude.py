"""`MagnitudePruning`: the smallest weights go, on a schedule, and stay away."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_autoarch.callbacks.base import Tunable
from lightning_autoarch.callbacks.prune.checks import say_short
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.callbacks.prune.rewind import Snapshot
from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.core.patterns import Patterns, match_values
from lightning_autoarch.prune.allocation import check_not_emptied
from lightning_autoarch.prune.counts import as_number
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.mask_updates import (
    CRITERIA,
    FLOOR,
    SCOPES,
    Criterion,
    SparsityScope,
    gradient_score,
    prune_further,
    random_scores,
    scores_of,
)
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.schedule import IterativeSparsity, SparsitySchedule, check_sparsity

if TYPE_CHECKING:
    from lightning_autoarch.callbacks.prune.distillation import Distillation

ROUNDING = 1e-9  # of a schedule that comes to its final sparsity by arithmetic


class MagnitudePruning(MaskedTraining):
    """Prunes weights in training, by masks that are applied after every optimizer step.

    Parameters keep their names and identity, and the module's `state_dict` stays the plain one. Sparsities are of the
    dense weights. A mask only grows: what is pruned stays pruned. Unstructured zeros make a checkpoint small (see
    `export`), not a dense matrix product fast.

    Args:
        schedule: `CubicSparsity(0.9)`, `ConstantSparsity(0.8)`, `OneShot(0.5, at=0.5)`, `IterativeSparsity(0.9, 5,
            rewind_to="init")`.
        scope: "global": all weights are compared; "layer": the same sparsity in each; "erk": wide layers sparser
            (Evci et al. 2020); "lamp": layer-adaptive magnitudes (Lee et al. 2021); {pattern: sparsity}: the final
            sparsity of the layers that match, in the schedule's time.
        criterion: "magnitude"; "gradient": |w g| of the step before; "random".
        floor: of scope "global", in [0, 1]: the share of what it would keep under scope "layer" that each target keeps
            at least. So no layer is emptied because its weights are small: by default at least 20 of 1000 are kept at
            a sparsity of 0.8. The total stays exact. 0.0: a layer may be emptied.
        every_n_steps: optimizer steps between two changes.
        targets: patterns of what is pruned; None: weights of Linear, convolutions, embeddings, MultiheadAttention and
            recurrent layers, and experts (parameters of three dimensions); never biases, normalisation or LoRA's
            adapters unless a pattern names them. See `find_targets`.
        exclude: patterns of what is not.
        seed: of the criterion "random".
        distill: `Distillation(...)`: a teacher, by default the dense module, helps to recover.
        name: of the callback in checkpoints and logs, where a Trainer has two.

    Attributes:
        sparsity: reached, of all targets; logged as `sparsity` and `sparsity/<parameter>`.
        model_sparsity: what is masked as a share of all parameters of the module; logged as `model_sparsity`.
        masks: parameter name -> `BitMask`.

    Raises:
        PruneValueError: before training: a pattern without a match, a schedule that does not fit into the fit, a NaN, a
            frozen module, a checkpoint of another architecture.

    Example::

        pruning = MagnitudePruning(CubicSparsity(0.9), every_n_steps=50)
        L.Trainer(max_epochs=20, callbacks=[pruning]).fit(model, datamodule=dm)
    """

    def __init__(
        self,
        schedule: SparsitySchedule,
        scope: SparsityScope = "global",
        criterion: Criterion = "magnitude",
        *,
        floor: float = FLOOR,
        every_n_steps: int = 100,
        targets: Patterns | None = None,
        exclude: Patterns = (),
        seed: int = 0,
        distill: Distillation | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(targets=targets, exclude=exclude, every_n_steps=every_n_steps, distill=distill, name=name)
        if not isinstance(schedule, SparsitySchedule):
            raise PruneTypeError(f"Expected `schedule` to be one such as CubicSparsity(0.9), got {schedule!r:.80}.")
        if not isinstance(scope, Mapping) and scope not in SCOPES:
            raise PruneValueError(
                f"Expected `scope` to be one of {', '.join(SCOPES)} or {{pattern: sparsity}}, got {scope!r}."
            )
        for pattern, value in scope.items() if isinstance(scope, Mapping) else ():
            check_sparsity(value, f"scope[{pattern!r}]")
        if criterion not in CRITERIA:
            raise PruneValueError(f"Expected `criterion` to be one of {', '.join(CRITERIA)}, got {criterion!r}.")
        if scope == "lamp" and criterion != "magnitude":
            raise PruneValueError(
                f'`scope="lamp"` compares scaled magnitudes, got `criterion={criterion!r}` beside it.'
            )
        if not 0 <= as_number(floor, "floor") <= 1:
            raise PruneValueError(f"Expected `floor` in [0, 1], got {floor}.")
        self.schedule, self.scope, self.criterion, self.seed = schedule, scope, criterion, seed
        self.floor = floor
        self._snapshot: Snapshot | None = None

    def tunables(self) -> list[Tunable]:
        own = [Tunable("scope"), Tunable("criterion", str), Tunable("floor", float), Tunable("seed", int)]
        by_pattern = Tunable("sparsity", float, argument="scope", by_pattern=True)
        return [*super().tunables(), *own, *_tunables_of(self.schedule), by_pattern]

    def begin(self) -> None:
        super().begin()
        self._snapshot = None

    def check(self, weights: MaskedWeights, total: int | None) -> None:
        self.schedule.check(total)
        if isinstance(self.scope, Mapping):
            values = match_values(self.scope, weights.names, "scope", PruneValueError)
            check_not_emptied(list(values), list(values.values()))

    @property
    def settled(self) -> bool:
        if self.weights is None or self._changed_at is None:
            return False
        final = self.schedule.final
        waits = self.criterion == "gradient" and final > 0 and not any(self.weights.pruned)  # for the first gradients
        return self.schedule.sparsity_at(self._changed_at, self._total) >= final - ROUNDING and not waits

    def due(self, step: int, total: int | None) -> bool:
        first = self.criterion == "gradient" and step == 1  # before it there is no gradient
        return first or step % self.every_n_steps == 0 or self.schedule.changes_at(step, total)

    def new_masks(self, weights: MaskedWeights, step: int, total: int | None) -> list[BitMask] | None:
        sparsity = self.schedule.sparsity_at(step, total)
        if sparsity == 0:
            return None
        if self.criterion == "gradient" and (self._is_done or not self.stepped):
            return None
        scores = self._scores(weights)
        masks = prune_further(weights, sparsity, self.scope, scores, self.schedule.final, self.floor)
        if not isinstance(self.scope, Mapping):
            say_short(self, weights, masks, sparsity)
        return masks

    @property
    def asks_gradients(self) -> bool:
        return self.criterion == "gradient" and not self._is_done

    @property
    def _is_done(self) -> bool:
        return self.sparsity >= self.schedule.final

    def _scores(self, weights: MaskedWeights) -> list[Tensor] | None:
        if self.criterion == "gradient":
            return scores_of(weights.names, self.of_gradients)
        return random_scores(weights.parameters, self.seed) if self.criterion == "random" else None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.asks_gradients:
            for name, parameter, gradient in self.with_gradients(trainer, optimizer):
                self.of_gradients[name] = gradient_score(parameter, gradient)
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._take_snapshot(trainer, pl_module)

    def _change(self, trainer: Trainer) -> None:
        before = self.sparsity
        super()._change(trainer)
        if self._snapshot is not None and self.sparsity > before:
            self._snapshot.restore_(trainer)
            self._apply(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        self._take_snapshot(trainer, pl_module)

    def _take_snapshot(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = self.schedule.rewind_step(self._total) if isinstance(self.schedule, IterativeSparsity) else None
        if self._snapshot is None and wanted is not None and trainer.global_step >= wanted:
            self._snapshot = Snapshot.of(trainer, pl_module)

    def save_state(self) -> dict[str, Any] | None:
        state = super().save_state()
        return state if state is None or self._snapshot is None else {**state, "snapshot": self._snapshot.state}

    def restore_state(self, state: dict[str, Any]) -> None:
        super().restore_state(state)
        if "snapshot" in state:
            self._snapshot = Snapshot(state["snapshot"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._snapshot is not None and self._loaded is not None:
            self._snapshot.check(trainer, pl_module)
        super().on_fit_start(trainer, pl_module)


def _tunables_of(schedule: SparsitySchedule) -> list[Tunable]:
    """The fields of a schedule. Its final sparsity is `sparsity`, whatever its field is called."""
    found = []
    for field in dataclasses.fields(cast(Any, schedule)):
        if field.name in ("sparsity", "final_sparsity"):
            found.append(Tunable("sparsity", float, argument="schedule", field=field.name, overruled_by="scope"))
        else:
            found.append(Tunable(field.name, argument="schedule", field=field.name))
    return found
