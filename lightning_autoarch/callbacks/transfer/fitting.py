"""What holds for one fit: its plan in a module, the clock of thawing, and all that asks what is frozen now.

The clock alone decides which phase it is. Layers are frozen, learning rates warmed up, and blocks described by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.callbacks.optimizer_steps import loss_scale, optimizers_of
from lightning_autoarch.callbacks.transfer.course import Block, described
from lightning_autoarch.callbacks.transfer.ddp import wrap_again
from lightning_autoarch.callbacks.transfer.freezing import Freezing
from lightning_autoarch.callbacks.transfer.groups import add_missing, check_each_once, split_groups
from lightning_autoarch.callbacks.transfer.l2_sp import StartingPoint
from lightning_autoarch.callbacks.transfer.order import FoundRates
from lightning_autoarch.callbacks.transfer.recipe import Plan
from lightning_autoarch.callbacks.transfer.recomputed import Recomputed
from lightning_autoarch.callbacks.transfer.timing import begins_step, moment, monitored
from lightning_autoarch.callbacks.transfer.warm_up import WarmUp
from lightning_autoarch.seam.lightning import logs_this_step
from lightning_autoarch.transfer.tune.clock import Clock, Length
from lightning_autoarch.transfer.tune.thawing import Thaw


class Fitting:
    """A fit that runs.

    Args:
        module: that is trained.
        plan: of it.
        length: of the fit that the plan is made for.

    Attributes:
        clock: says which phase of thawing it is.

    Raises:
        TransferError: the plan does not go with the length.
    """

    def __init__(self, module: LightningModule, plan: Plan, length: Length) -> None:
        self.module = module
        self._recomputed: Recomputed | None = None
        self._warm_up: WarmUp | None = None
        self._found_rates: FoundRates | None = None
        self._start: StartingPoint | None = None
        self._prepare(plan, length)

    def replan(self, new: Collection[str], length: Length, clock: Mapping[str, Any] | None) -> None:
        """Plan as the fit did that is resumed, and go on from where its clock stood.

        Args:
            new: names of what was not taken over then.
            length: of the fit then.
            clock: its state; None in a checkpoint of before there were clocks.
        """
        self._freezing.restore()
        self._prepare(Plan.of(self.plan.recipe, self.module, new), length)
        if clock is not None:
            self.clock.load_state_dict(clock)

    def begin(self, trainer: Trainer, start: Mapping[str, Tensor], recomputed: bool) -> None:
        """Optimizers are there: each parameter gets its group, and what is frozen is frozen."""
        plan, recipe = self.plan, self.plan.recipe
        self._recomputed = Recomputed(self.module, plan.names.parameters, self._phases)
        self._recomputed.found |= recomputed
        self._group(trainer)
        if recipe.l2_sp is not None:
            self._start = StartingPoint(recipe.l2_sp, plan.names.parameters, start)
        self.apply(trainer)

    def advance(self, trainer: Trainer, batch_idx: int) -> bool:
        """Thaw what is due before a batch, unless gradients wait for a step; returns whether anything was."""
        due = begins_step(trainer, batch_idx) and self.clock.advance(moment(trainer, batch_idx))
        if due or batch_idx == 0:  # at the beginning of an epoch also what somebody else has frozen or thawed
            self.apply(trainer)
        return due

    def apply(self, trainer: Trainer) -> None:
        """Freeze and thaw as the clock has it."""
        if self._freezing.apply(self.clock.phase):
            wrap_again(trainer, self.module)
        if self._recomputed is not None:
            self._recomputed.reach()

    def before_batch(self, trainer: Trainer, batch_idx: int) -> None:
        """What is held says so, and learning rates are those of the batch."""
        self._freezing.show()
        if self._recomputed is not None:
            self._recomputed.training = True
        if self._found_rates is not None and batch_idx == 0:
            self._found_rates.scale(trainer)
        if self._warm_up is not None:
            batches = trainer.num_training_batches  # inf where it is not known: then whole epochs count
            part = 1.0 if batches == float("inf") else (batch_idx + 1) / batches
            self._warm_up.begin(trainer.current_epoch + part)

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """The pull of L2-SP."""
        if self._start is not None:
            self._start.add_gradients_(optimizer, loss_scale(trainer, optimizer))

    def after_batch(self, trainer: Trainer) -> None:
        """Gradients were computed."""
        if self._recomputed is not None:
            self._recomputed.settle()
        if self._start is not None and logs_this_step(trainer):
            self.module.log("l2_sp", self._start.value().to(self.module.device))

    def after_validation(self, trainer: Trainer) -> None:
        """A value of the metric that blocks thaw by, where there is one."""
        if self.plan.recipe.monitor is not None:
            value = monitored(trainer, self.plan.recipe.monitor)
            self.clock.check(value, trainer.fit_loop.total_batch_idx + 1)

    def end(self) -> None:
        """Everything is as it was before the fit."""
        self._freezing.restore()
        if self._recomputed is not None:
            self._recomputed.detach()
        if self._warm_up is not None:
            self._warm_up.detach()

    def blocks(self, *, as_planned: bool = True) -> tuple[Block, ...]:
        """How each block is trained, by what is planned or only by what has begun."""
        return described(self.plan, self._phases, self.clock, as_planned=as_planned)

    def thawed_later(self) -> list[Parameter]:
        """What is frozen now, and may thaw in this fit."""
        return self._freezing.thawed_later()

    def recomputes(self) -> bool:
        """Whether layers that are trained are run by reentrant checkpointing, or may be."""
        return self._recomputed is not None and self._recomputed.found

    def never_known(self) -> list[str]:
        """What was not taken over and is never trained."""
        return self.plan.never_known(self._phases)

    def _prepare(self, plan: Plan, length: Length) -> None:
        self.plan = plan
        self._phases: Thaw
        self._phases, rule = plan.schedule(length)
        self.clock = Clock(rule)
        if self._warm_up is not None:
            self._warm_up.clock = self.clock
        self._freezing = Freezing(self.module, plan.names.parameters, self._phases, dropout=plan.recipe.frozen_dropout)
        self._freezing.prepare()

    def _group(self, trainer: Trainer) -> None:
        """Every trained parameter in one group, with its learning rate."""
        phases, parameters, warm = self._phases, self.plan.names.parameters, self.plan.recipe.warmup_epochs
        optimizers = optimizers_of(trainer)
        had = add_missing(optimizers, {name: p for name, p in parameters.items() if phases[name]})
        check_each_once(optimizers, {name: p for name, p in parameters.items() if phases[name] is not None})
        keys = {id(p): (self.plan.factors[name], phases[name] if warm else None) for name, p in parameters.items()}
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        splits = [split_groups(o, lambda p: keys.get(id(p), (1.0, None)), schedulers, had) for o in optimizers]
        self._found_rates = FoundRates(splits)
        if warm:
            self._warm_up = WarmUp(warm, {id(p): phases[name] for name, p in parameters.items()}, self.clock)
            self._warm_up.attach(optimizers)
