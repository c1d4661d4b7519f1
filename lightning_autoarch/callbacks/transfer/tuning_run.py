"""The state of one running fit: its plan, the clock of thawing, and everything that depends on what is frozen now.

The clock alone decides which phase it is. Layers are frozen, learning rates warmed up, and blocks described by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.callbacks.optimizer_steps import loss_scale, optimizers_of
from lightning_autoarch.callbacks.transfer.freezing import Freezing, wrap_again
from lightning_autoarch.callbacks.transfer.learning_rates import FoundRates, WarmUp
from lightning_autoarch.callbacks.transfer.parameter_groups import add_missing, check_each_once, split_groups
from lightning_autoarch.callbacks.transfer.plan import TuningPlan
from lightning_autoarch.callbacks.transfer.recomputed import Recomputed
from lightning_autoarch.callbacks.transfer.starting_point import PullToStart
from lightning_autoarch.callbacks.transfer.surroundings import begins_step, moment, monitored
from lightning_autoarch.seam.lightning import logs_this_step
from lightning_autoarch.transfer.tune.clock import Clock, Length, Timetable
from lightning_autoarch.transfer.tune.thawing import Thaw

Span = tuple[int, int] | None  # the first and the last time


@dataclass(frozen=True)
class Block:
    """How a block of layers is trained.

    Attributes:
        name: Name of the modules around its parameters.
        parameters: Number of its parameters.
        frozen: How many of them are never trained as far as is known, including what a metric has not thawed yet.
        epochs: The first and the last epoch from which one of the others is trained; None if unknown.
        rates: The smallest and the largest factor of the learning rate.
        steps: The numbers of optimizer steps before those epochs; None if unknown.
    """

    name: str
    parameters: int
    frozen: int
    epochs: Span
    rates: tuple[float, float]
    steps: Span = None


def described(plan: TuningPlan, phases: Thaw, clock: Clock, *, as_planned: bool = True) -> tuple[Block, ...]:
    """How each block of a plan is trained.

    Args:
        plan: The plan for a module.
        phases: Name -> the phase from which on it is trained.
        clock: The clock that says when phases begin.
        as_planned: Whether to include what a timetable plans, or only what has begun.
    """
    return tuple(_block(plan, phases, clock, names, as_planned) for names in plan.blocks if names)


def _block(plan: TuningPlan, phases: Thaw, clock: Clock, names: Sequence[str], as_planned: bool) -> Block:
    numels = {name: plan.names.parameters[name].numel() for name in names}
    known = {name: phase for name in names if (phase := phases[name]) is not None}
    times = {
        name: [_time(clock, phase, unit, as_planned) for unit in ("epoch", "step")] for name, phase in known.items()
    }
    trained = {name: pair for name, pair in times.items() if pair != [None, None]}
    factors = [plan.factors.get(name, 1.0) for name in trained or names]
    return Block(
        name=_around(names),
        parameters=sum(numels.values()),
        frozen=sum(numel for name, numel in numels.items() if name not in trained),
        epochs=_span([epoch for epoch, _ in trained.values()]),
        rates=(min(factors), max(factors)),
        steps=_span([step for _, step in trained.values()]),
    )


def _time(clock: Clock, phase: int, unit: str, as_planned: bool) -> int | None:
    """When a phase begins; None if unknown."""
    began, rule = clock.began(phase), clock.rule
    if began is not None:
        return began.of(unit)
    return rule.begins[phase - 1] if as_planned and isinstance(rule, Timetable) and rule.unit == unit else None


def _span(times: Sequence[int | None]) -> Span:
    known = [time for time in times if time is not None]
    return (min(known), max(known)) if known and len(known) == len(times) else None


def _around(names: Sequence[str]) -> str:
    """The module that holds all of them, or the first and the last one.

    >>> _around(["net.0.weight", "net.0.bias"]), _around(["net.0.weight", "net.1.bias"])
    ('net.0', 'net.0 to net.1')
    """
    owners = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    shared = [part for part in _shared(owners) if part]
    if len(owners) > 1 and len(shared) > 1:
        return ".".join(shared)
    return owners[0] if len(owners) == 1 else f"{owners[0]} to {owners[-1]}"


def _shared(owners: Sequence[str]) -> list[str]:
    shared = []
    for parts in zip(*(owner.split(".") for owner in owners), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


class TuningRun:
    """A running fit.

    Args:
        module: The module that is trained.
        plan: The plan for it.
        length: Length of the fit that the plan is made for.

    Attributes:
        clock: Tells the phase of thawing.

    Raises:
        TransferError: The plan does not fit into the length.
    """

    def __init__(self, module: LightningModule, plan: TuningPlan, length: Length) -> None:
        self.module = module
        self._recomputed: Recomputed | None = None
        self._warm_up: WarmUp | None = None
        self._found_rates: FoundRates | None = None
        self._pull: PullToStart | None = None
        self._prepare(plan, length)

    def replan(self, new: Collection[str], length: Length, clock: Mapping[str, Any] | None) -> None:
        """Plan as the resumed fit did, and continue its clock.

        Args:
            new: Names of what was not taken over then.
            length: Length of that fit.
            clock: State of its clock; None if the checkpoint has none.
        """
        self._freezing.restore()
        self._prepare(TuningPlan.of(self.plan.tuning, self.module, new), length)
        if clock is not None:
            self.clock.load_state_dict(clock)

    def begin(self, trainer: Trainer, start: Mapping[str, Tensor], recomputed: bool) -> None:
        """Group the parameters of the optimizers, and freeze what is frozen at the start."""
        plan, tuning = self.plan, self.plan.tuning
        self._recomputed = Recomputed(self.module, plan.names.parameters, self._phases)
        self._recomputed.found |= recomputed
        self._group(trainer)
        if tuning.l2_sp is not None:
            self._pull = PullToStart(tuning.l2_sp, plan.names.parameters, start)
        self.apply(trainer)

    def advance(self, trainer: Trainer, batch_idx: int) -> bool:
        """Thaw what is due before a batch, unless gradients are being accumulated; returns whether anything was due."""
        due = begins_step(trainer, batch_idx) and self.clock.advance(moment(trainer, batch_idx))
        if due or batch_idx == 0:  # each epoch, also what other code has frozen or thawed
            self.apply(trainer)
        return due

    def apply(self, trainer: Trainer) -> None:
        """Freeze and thaw as the clock says."""
        if self._freezing.apply(self.clock.phase):
            wrap_again(trainer, self.module)
        if self._recomputed is not None:
            self._recomputed.reach()

    def before_batch(self, trainer: Trainer, batch_idx: int) -> None:
        """Set the mode of frozen layers and the learning rates of the batch."""
        self._freezing.show()
        if self._recomputed is not None:
            self._recomputed.training = True
        if self._found_rates is not None and batch_idx == 0:
            self._found_rates.scale(trainer)
        if self._warm_up is not None:
            batches = trainer.num_training_batches  # inf if unknown: then whole epochs count
            part = 1.0 if batches == float("inf") else (batch_idx + 1) / batches
            self._warm_up.begin(trainer.current_epoch + part)

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Add the gradient of L2-SP."""
        if self._pull is not None:
            self._pull.add_gradients_(optimizer, loss_scale(trainer, optimizer))

    def after_batch(self, trainer: Trainer) -> None:
        """Log the penalty of L2-SP, and stop watching recomputation if there is none."""
        if self._recomputed is not None:
            self._recomputed.settle()
        if self._pull is not None and logs_this_step(trainer):
            self.module.log("l2_sp", self._pull.value().to(self.module.device))

    def after_validation(self, trainer: Trainer) -> None:
        """Give the clock the metric that blocks thaw by, if there is one."""
        if self.plan.tuning.thawing.monitor is not None:
            value = monitored(trainer, self.plan.tuning.thawing.monitor)
            self.clock.check(value, trainer.fit_loop.total_batch_idx + 1)

    def end(self) -> None:
        """Put everything back as it was before the fit."""
        self._freezing.restore()
        if self._recomputed is not None:
            self._recomputed.detach()
        if self._warm_up is not None:
            self._warm_up.detach()

    def blocks(self, *, as_planned: bool = True) -> tuple[Block, ...]:
        """How each block is trained, including what is planned or only what has begun."""
        return described(self.plan, self._phases, self.clock, as_planned=as_planned)

    def thawed_later(self) -> list[Parameter]:
        """Parameters that are frozen now, and may thaw in this fit."""
        return self._freezing.thawed_later()

    def recomputes(self) -> bool:
        """Whether trained layers are run by reentrant checkpointing, or may be."""
        return self._recomputed is not None and self._recomputed.found

    def never_trained(self) -> list[str]:
        """Names of what was not taken over and is never trained."""
        return self.plan.never_trained(self._phases)

    def _prepare(self, plan: TuningPlan, length: Length) -> None:
        self.plan = plan
        self._phases: Thaw
        self._phases, rule = plan.schedule(length)
        self.clock = Clock(rule)
        if self._warm_up is not None:
            self._warm_up.clock = self.clock
        self._freezing = Freezing(self.module, plan.names.parameters, self._phases, dropout=plan.tuning.frozen_dropout)
        self._freezing.prepare()

    def _group(self, trainer: Trainer) -> None:
        """Put every trained parameter into one group with its learning rate."""
        phases, parameters, warm = self._phases, self.plan.names.parameters, self.plan.tuning.warmup_epochs
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
