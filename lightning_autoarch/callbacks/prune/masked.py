"""Training under masks, whatever decides about them: the hooks that all pruning callbacks share.

on_fit_start          targets are found, masks of a checkpoint bound to them, a hook put behind every optimizer step
on_train_start        masks for the first step
optimizer step        ─► masked again at once, so that neither momentum nor weight decay brings a weight back
on_train_batch_end    where the schedule says so: new masks, on the module and on every average of it; where they ask
                      for gradients and there are none (a batch was skipped), or those overflowed (GradScaler skips such
                      a step): behind the next step instead
state_dict            masks as tensors of bytes: what Lightning saves loads where this package is not installed
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.callbacks.outer import is_trial
from lightning_autoarch.callbacks.prune.distillation import Distillation
from lightning_autoarch.callbacks.prune.hooks import assert_ranks_agree, averages, total_steps
from lightning_autoarch.callbacks.prune.steps import StepHooks, optimizers_of, overflowed
from lightning_autoarch.callbacks.prune.strategies import check_whole_parameters
from lightning_autoarch.callbacks.prune.trained import as_ever_trained
from lightning_autoarch.prune.errors import PruneValueError
from lightning_autoarch.prune.magnitude import magnitude_masks
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.masked import MaskedWeights, cut_masks, masks_of, with_names
from lightning_autoarch.prune.targets import Patterns, find_targets

ENDLESS = 10**12  # optimizer steps, more than any fit has


class MaskedTraining(Callback):
    """Holds masks over a fit. Subclasses say when and how they change.

    Args:
        targets: patterns of what is pruned, see `find_targets`.
        exclude: patterns of what is not.
        every_n_steps: optimizer steps between two changes of the masks.
        distill: the dense module, or another teacher, helps to recover.
        name: of the callback in checkpoints, where a Trainer has two of one class.
    """

    masks_gradients = False  # else only where gradients are clipped: theirs is the only norm that would count them

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
        self._of: weakref.ref[LightningModule] | None = None  # the module whose weights they are
        self._total: int | None = None
        self._changed_at: int | None = None  # the step of the last change
        self._seen = 0  # the step that the batch before ended with
        self._postponed = False  # whether a change waits for gradients that are finite
        self._loaded: dict[str, BitMask] | None = None
        self.of_gradients: dict[str, Tensor] = {}  # what was made of those of the batch, by target
        self.stepped = False  # whether a batch of this fit has ended, so that there can be any
        self._hooks = StepHooks(self._after_step)

    @abstractmethod
    def new_masks(self, weights: MaskedWeights, step: int, total: int | None) -> list[BitMask] | None:
        """Masks from `step` on, called where `due` says so; None where they stay.

        Called with the weights, and in `on_train_batch_end` with the gradients, of the step before.
        """

    @abstractmethod
    def due(self, step: int, total: int | None) -> bool:
        """Whether masks may change when `step` optimizer steps are done. `step` 0: before the first."""

    def find(self, module: LightningModule) -> dict[str, Parameter]:
        """The targets by name."""
        return find_targets(module, self.targets, self.exclude)

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
    def masks(self) -> dict[str, BitMask]:
        """Parameter name -> mask; empty before the fit."""
        return {} if self.weights is None else dict(zip(self.weights.names, self.weights.masks, strict=True))

    def shares_of_net(self) -> dict[str, tuple[float, float]]:
        """Weights that are masked, of how many: for a trial's record."""
        if self.weights is None:
            return {}
        n = sum(self.weights.sizes)
        return {"sparsity": (self.weights.sparsity * n, n)}

    @property
    def state_key(self) -> str:
        return f"lightning_autoarch.{type(self).__name__}" + (f".{self.name}" if self.name else "")

    def state_dict(self) -> dict[str, Any]:
        if self.weights is None:
            return {}
        distill = {} if self.distill is None else self.distill.state_dict()
        return {
            "format": 1,
            "masks": self.weights.state(),
            "changed_at": self._changed_at,
            "postponed": self._postponed,
            "distill": distill,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._loaded = masks_of(state_dict["masks"])
            self._changed_at, self._postponed = state_dict["changed_at"], state_dict["postponed"]
            if self.distill is not None:
                self.distill.load_state_dict(state_dict["distill"])

    def start_from(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next fit begin with the masks of another's `state_dict`."""
        self._loaded, self._changed_at = masks_of(state_dict["masks"]), None

    def forget(self) -> None:
        """Give up the masks: the next fit starts with none."""
        self.weights = self._loaded = self._changed_at = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the masks, but no hook of this process and nothing of its module."""
        own = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}  # the module's
        return {
            **own,
            "_hooks": None,
            "of_gradients": {},
            "weights": None,
            "_of": None,
            "_loaded": self._loaded or self.masks or None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hooks = StepHooks(self._after_step)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_whole_parameters(self, trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.distill is not None:
            self.distill.on_fit_start(trainer, pl_module)
        resumed = self._loaded is not None
        masks, self._loaded = self._loaded or (self.masks if self._is_of(pl_module) else None), None
        with as_ever_trained(trainer):
            weights = MaskedWeights(self.find(pl_module), masks)
        self._total = total_steps(trainer)
        _check_finite(weights)
        if self.asks_gradients:
            _check_trained(weights)
        self._check_schedule(trainer, weights)
        self.weights, self._of = weights, weakref.ref(pl_module)
        if not resumed:
            self.begin()
        self._hooks.remove()
        self._hooks.attach(optimizers_of(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen, self.stepped = trainer.global_step, False
        step = self._seen
        if self._changed_at is None or (self._changed_at != step and self.due(step, self._total)):
            self._change(trainer)
        self._apply(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.weights is not None and (self.masks_gradients or trainer.gradient_clip_val is not None):
            self.weights.apply_to_gradients_()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        before, self._seen = self._seen, trainer.global_step  # more than one apart where several optimizers step
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
        if self._is_behind and not (trainer.fast_dev_run or is_trial(trainer)):  # type: ignore[attr-defined]
            self._warn_of_the_rest(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._hooks.remove()
        if self.distill is not None:
            self.distill.teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._hooks.remove()
        if self.distill is not None:
            self.distill.on_exception(trainer, pl_module, exception)

    def with_gradients(self, trainer: Trainer, optimizer: Optimizer) -> Iterator[tuple[str, Parameter, Tensor]]:
        """Name, target, gradient of what an optimizer is about to step, where masks may change behind this batch.

        Every optimizer may step in it once more; it is not known which of them is the one that the change is due at.
        """
        last = trainer.global_step + len(trainer.optimizers)
        due = self._postponed or any(self.due(s, self._total) for s in range(self._seen + 1, last + 1))
        if self.weights is None or not due:
            return
        names = {id(p): name for name, p in zip(self.weights.names, self.weights.parameters, strict=True)}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in names and parameter.grad is not None:
                    yield names[id(parameter)], parameter, parameter.grad

    def follow(self, recipe: Mapping[str, Any]) -> None:
        """Cut the masks as the parameters were cut by a recipe of `structure`."""
        if self.weights is not None:
            masks = cut_masks(self.masks, recipe)
            self.weights = MaskedWeights(dict(zip(self.weights.names, self.weights.parameters, strict=True)), masks)

    @property
    def _is_behind(self) -> bool:
        """Whether masks that the schedule asked for are still to come."""
        return self._postponed or not self.settled

    def _warn_of_the_rest(self, trainer: Trainer) -> None:
        why = (
            "it waited for gradients, which were missing or overflowed in the last steps"
            if self._postponed
            else f"its schedule is made for a fit of {self._total or 'unknown many'} optimizer steps"
        )
        rank_zero_warn(
            f"{type(self).__name__} was not done when the fit ended at step {trainer.global_step}, with a sparsity of "
            f"{self.sparsity:.3g}: {why}."
        )

    def _check_schedule(self, trainer: Trainer, weights: MaskedWeights) -> None:
        try:
            self.check(weights, self._total)
        except PruneValueError:
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]
                raise
            self._total = ENDLESS  # its one step tells nothing of the fit that the schedule is made for
            self.check(weights, self._total)

    def _is_of(self, module: LightningModule) -> bool:
        """Whether the masks are of this module, not of another that was trained before."""
        return self._of is not None and self._of() is module

    def _change(self, trainer: Trainer) -> None:
        assert self.weights is not None
        step = trainer.global_step
        masks = self.new_masks(self.weights, step, self._total)
        self._changed_at = step
        if masks is None:
            return
        self.weights.replace(masks)
        if trainer.world_size > 1:
            assert_ranks_agree(trainer.strategy, self.weights.digest(), self)
        self._apply(trainer)
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
        prefix = f"{self.name}/sparsity" if self.name else "sparsity"
        return {prefix: weights.sparsity, **{f"{prefix}/{name}": value for name, value in layers.items()}}


def _check_trained(weights: MaskedWeights) -> None:
    """Raises PruneValueError naming a parameter that a callback freezes for a while: it has no gradient to go by."""
    for name, parameter in zip(weights.names, weights.parameters, strict=True):
        if not parameter.requires_grad:
            raise PruneValueError(
                f"`{name}` is frozen as the fit begins, so there is no gradient by which its weights are compared. "
                'Leave it out by `exclude`, or compare magnitudes: MagnitudePruning(..., criterion="magnitude").'
            )


def _check_finite(weights: MaskedWeights) -> None:
    """Raises PruneValueError naming a parameter with a NaN, or one that the kernels cannot take."""
    with torch.no_grad():
        for name, parameter in zip(weights.names, weights.parameters, strict=True):
            try:
                magnitude_masks([parameter], k=0)
            except PruneValueError as error:
                raise PruneValueError(with_names(str(error), [name])) from error
