"""Training under masks, whatever decides about them: the hooks that all pruning callbacks share.

on_fit_start          targets are found, masks of a checkpoint bound to them, a hook put behind every optimizer step
on_train_start        masks for the first step
on_after_backward     gradients of what is masked are 0, for optimizers that write outside of `step()`: see `optimizers`
optimizer step        ─► masked again at once, so that neither momentum nor weight decay brings a weight back
on_train_batch_end    an error where no step was seen and masked weights came back. Where the schedule says so: new
                      masks, on the module and on every average of it; where they ask for gradients and there are none
                      (a batch was skipped), or those overflowed (GradScaler skips such a step): behind the next step
state_dict            masks as tensors of bytes: what Lightning saves loads where this package is not installed
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.nn.parameter import Parameter, UninitializedParameter
from torch.optim import Optimizer

from lightning_autoarch.callbacks.base import AutoArchCallback, Tunable
from lightning_autoarch.callbacks.optimizer_steps import optimizers_of, overflowed
from lightning_autoarch.callbacks.prune.checks import (
    check_apart,
    check_trained,
    not_held,
    say_behind,
    say_emptied,
    say_left_dense,
    unseen_steps,
)
from lightning_autoarch.callbacks.prune.mask_holding import Holding
from lightning_autoarch.callbacks.prune.rewind import SNAPSHOT
from lightning_autoarch.callbacks.prune.trainer import as_ever_trained, assert_ranks_agree, averages, total_steps
from lightning_autoarch.callbacks.sharding import check_whole_parameters
from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.core.schema import (
    Schema,
    data,
    flag,
    mapping,
    optional,
    record,
    sequence,
    tensor,
    whole,
)
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.mask_updates import check_finite
from lightning_autoarch.prune.masked import MaskedWeights, masks_of
from lightning_autoarch.prune.targets import Targets, examine_targets
from lightning_autoarch.seam.lightning import fast_dev_run
from lightning_autoarch.training.callback_protocols import is_trial

if TYPE_CHECKING:
    from lightning_autoarch.callbacks.prune.distillation import Distillation

SCHEMA_VERSION = 1
MASK = record({"shape": sequence(whole()), "words": tensor(torch.uint8, 1)})  # of `BitMask.state`
ENDLESS = 10**12  # optimizer steps, more than any fit has


class MaskedTraining(AutoArchCallback):
    """Holds masks over a fit. Subclasses say when and how they change.

    Args:
        targets: patterns of what is pruned, see `find_targets`.
        exclude: patterns of what is not.
        every_n_steps: optimizer steps between two changes of the masks.
        distill: the dense module, or another teacher, helps to recover.
        name: of the callback in checkpoints, where a Trainer has two of one class.
    """

    prefix = "prune"
    remedy = "Give one of them a `name`, and disjoint `targets`."
    masks_gradients = False  # else only where gradients are clipped: theirs is the only norm that would count them

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        required = {"masks": mapping(MASK), "changed_at": optional(whole()), "postponed": flag()}
        cls.schema = Schema(cls.__name__, SCHEMA_VERSION, required, {"distill": mapping(data()), "snapshot": SNAPSHOT})

    def __init__(
        self,
        *,
        targets: Patterns | None = None,
        exclude: Patterns = (),
        every_n_steps: int = 100,
        distill: Distillation | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise PruneValueError(f"Expected `every_n_steps` to be an int >= 1, got {every_n_steps!r}.")
        self.targets, self.exclude = targets, exclude
        self.every_n_steps, self.distill, self.name = every_n_steps, distill, name
        self.weights: MaskedWeights | None = None
        self._total: int | None = None
        self._changed_at: int | None = None  # the step of the last change
        self._seen = 0  # the step that the batch before ended with
        self._postponed = False  # whether a change waits for gradients that are finite
        self._loaded: dict[str, BitMask] | None = None
        self.of_gradients: dict[str, Tensor] = {}  # what was made of those of the batch, by target
        self.stepped = False  # whether a batch of this fit has ended, so that there can be any
        self._holding = Holding(self._after_step)

    @abstractmethod
    def new_masks(self, weights: MaskedWeights, step: int, total: int | None) -> list[BitMask] | None:
        """Masks from `step` on, called where `due` says so; None where they stay.

        Called with the weights, and in `on_train_batch_end` with the gradients, of the step before.
        """

    @abstractmethod
    def due(self, step: int, total: int | None) -> bool:
        """Whether masks may change when `step` optimizer steps are done. `step` 0: before the first."""

    def tunables(self) -> list[Tunable]:
        return [Tunable("every_n_steps", int), Tunable("targets"), Tunable("exclude")]

    def find(self, module: LightningModule) -> Targets:
        """The targets."""
        return examine_targets(module, self.targets, self.exclude)

    def begin(self) -> None:
        """A fit begins that resumes nothing."""
        self._changed_at, self._postponed = None, False

    def check(self, weights: MaskedWeights, total: int | None) -> None:
        """Raise before training what would be wrong later."""

    @property
    def asks_gradients(self) -> bool:
        """Whether a change of the masks compares weights by their gradients."""
        return False

    @property
    def sparsity(self) -> float:
        """Share of the targets' weights that is masked now; 0.0 before the fit."""
        return 0.0 if self.weights is None else self.weights.sparsity

    @property
    def settled(self) -> bool:
        """Whether the weights are as sparse as they will be. A search takes no score before."""
        return self._changed_at is not None

    @property
    def model_sparsity(self) -> float:
        """Share of all parameters of the module, biases and what is not targeted included, that is masked now."""
        module = self.bound_module()
        if self.weights is None or module is None:
            return 0.0
        sizes = [p.numel() for p in module.parameters() if not isinstance(p, UninitializedParameter)]
        return sum(self.weights.pruned) / max(1, sum(sizes))

    @property
    def masks_change(self) -> bool:
        """Whether the schedule still has something to do, for which it needs to know the step."""
        return not self.settled

    @property
    def masks(self) -> dict[str, BitMask]:
        """Parameter name -> mask; empty before the fit."""
        return {} if self.weights is None else dict(zip(self.weights.names, self.weights.masks, strict=True))

    def shares_of_net(self) -> dict[str, tuple[float, float]]:
        """Weights that are masked, of how many: for a trial's record."""
        if self.weights is None:
            return {}
        n = sum(self.weights.sizes)
        return {"sparsity": (self.weights.sparsity * n, n)}

    def save_state(self) -> dict[str, Any] | None:
        if self.weights is None:
            return None
        distill = {} if self.distill is None else self.distill.state_dict()
        return {
            "masks": self.weights.state(),
            "changed_at": self._changed_at,
            "postponed": self._postponed,
            "distill": distill,
        }

    def restore_state(self, state: dict[str, Any]) -> None:
        self._loaded = masks_of(state["masks"])
        self._changed_at, self._postponed = state["changed_at"], state["postponed"]
        if self.distill is not None:
            self.distill.load_state_dict(state.get("distill", {}))

    def start_from(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next fit begin with the masks of another fit, whose `state_dict` this is."""
        assert self.schema is not None
        self._loaded, self._changed_at = masks_of(self.schema.read(state_dict)["masks"]), None

    def forget(self) -> None:
        """Give up the masks: the next fit starts with none."""
        self.weights = self._loaded = self._changed_at = None

    def fit_attributes(self) -> dict[str, object]:
        """Copies and pickles hold the masks, but no hook of this process and nothing of the module."""
        loaded = self._loaded or self.masks or None
        return {"_holding": None, "of_gradients": {}, "weights": None, "_loaded": loaded}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._holding = Holding(self._after_step)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_whole_parameters(self, trainer)
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.distill is not None:
            self.distill.on_fit_start(trainer, pl_module)
        resumed = self._loaded is not None
        masks, self._loaded = self._loaded or (self.masks if self.is_bound_to(pl_module) else None), None
        with as_ever_trained(trainer):
            found = self.find(pl_module)
        check_apart(self, trainer, found.parameters)
        weights = MaskedWeights(found.parameters, masks, found.normed)
        self._total = total_steps(trainer)
        check_finite(weights)
        if self.asks_gradients:
            check_trained(weights)
        self._check_schedule(trainer, weights)
        self.weights = weights
        self.bind(pl_module)
        if not resumed:
            self.begin()
        self._holding.begin(optimizers_of(trainer))
        if not is_trial(trainer):
            say_left_dense(found)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen, self.stepped = trainer.global_step, False
        step = self._seen
        if self._changed_at is None or (self._changed_at != step and self.due(step, self._total)):
            self._change(trainer)
        self._apply(trainer)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = self.asks_gradients and self._due_now(trainer)  # those of what is masked, too
        if self.weights is not None and self._holding.writes_outside and not wanted:
            self.weights.apply_to_gradients_()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.weights is not None and (self.masks_gradients or trainer.gradient_clip_val is not None):
            self.weights.apply_to_gradients_()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        before, self._seen = self._seen, trainer.global_step  # more than one apart where several optimizers step
        self._check_held(trainer, before)
        self.stepped = True
        if self._postponed or any(self.due(step, self._total) for step in range(before + 1, self._seen + 1)):
            missing = self.asks_gradients and not self.of_gradients
            self._postponed = missing or overflowed(trainer, self.of_gradients.values())
            if not self._postponed:
                self._change(trainer)
        self.of_gradients.clear()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.weights is not None:
            self.log_dict(self._metrics(self.weights))  # type: ignore[attr-defined]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._apply(trainer)
        if self._is_behind and not (fast_dev_run(trainer) or is_trial(trainer)):
            say_behind(self, trainer, self.sparsity, self._postponed, self._total)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._holding.end()
        if self.distill is not None:
            self.distill.teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._holding.end()
        if self.distill is not None:
            self.distill.on_exception(trainer, pl_module, exception)

    def with_gradients(self, trainer: Trainer, optimizer: Optimizer) -> Iterator[tuple[str, Parameter, Tensor]]:
        """Name, target, gradient of what an optimizer is about to step, where masks may change behind this batch."""
        if self.weights is None or not self._due_now(trainer):
            return
        names = {id(p): name for name, p in zip(self.weights.names, self.weights.parameters, strict=True)}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in names and parameter.grad is not None:
                    yield names[id(parameter)], parameter, parameter.grad

    def follow(self, recipe: Mapping[str, Any]) -> None:
        """Cut the masks as the parameters were cut by a recipe of `structure`."""
        if self.weights is not None:
            self.weights = self.weights.cut(recipe)

    def _due_now(self, trainer: Trainer) -> bool:
        """Whether masks may change behind this batch.

        Every optimizer may step in it once more; it is not known which of them is the one that the change is due at.
        """
        last = trainer.global_step + len(trainer.optimizers)
        return self._postponed or any(self.due(s, self._total) for s in range(self._seen + 1, last + 1))

    def _check_held(self, trainer: Trainer, before: int) -> None:
        """Raise where weights changed in this batch in a way that masks or their schedule cannot follow."""
        stepped = self._holding.batch_ended()
        if self.weights is None:
            return
        if stepped and trainer.global_step == before and self.masks_change:
            raise unseen_steps(self, trainer)
        by_hand = not trainer.lightning_module.automatic_optimization
        if not stepped and (by_hand or self._holding.writes_outside) and (revived := self.weights.revived_()):
            raise not_held(self, revived, self._holding.optimizers)

    @property
    def _is_behind(self) -> bool:
        """Whether masks that the schedule asked for are still to come."""
        return self._postponed or not self.settled

    def _check_schedule(self, trainer: Trainer, weights: MaskedWeights) -> None:
        try:
            self.check(weights, self._total)
        except PruneValueError:
            if not fast_dev_run(trainer):
                raise
            self._total = ENDLESS  # its one step tells nothing of the fit that the schedule is made for
            self.check(weights, self._total)

    def _change(self, trainer: Trainer) -> None:
        assert self.weights is not None
        step = trainer.global_step
        masks = self.new_masks(self.weights, step, self._total)
        self._changed_at = step
        if masks is None:
            return
        emptied = [name for name, mask in zip(self.weights.names, masks, strict=True) if mask.numel > mask.count() == 0]
        self.weights.replace(masks)
        self._holding.masks_changed(self.weights)
        if trainer.world_size > 1:
            assert_ranks_agree(trainer.strategy, self.weights.digest(), self)
        self._apply(trainer)
        say_emptied(self, emptied)
        for logger in trainer.loggers:
            logger.log_metrics(self._metrics(self.weights), step=step)

    def _apply(self, trainer: Trainer) -> None:
        if self.weights is None:
            return
        self.weights.apply_()
        for average in averages(trainer):
            self.weights.apply_to_copy_(average)

    def _after_step(self, optimizer: Optimizer) -> None:
        if self.weights is not None:
            self.weights.apply_()

    def _metrics(self, weights: MaskedWeights) -> dict[str, float]:
        layers: Mapping[str, float] = weights.sparsities()
        prefix = f"{self.name}/" if self.name else ""
        each = {f"{prefix}sparsity/{name}": value for name, value in layers.items()}
        return {f"{prefix}sparsity": weights.sparsity, f"{prefix}model_sparsity": self.model_sparsity, **each}
