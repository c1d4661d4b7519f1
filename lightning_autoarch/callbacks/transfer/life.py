"""The life of `TransferLearning` in a Trainer: what each hook does.

setup            ─► weights taken over, adapters put in; what is ever trained requires a gradient, for
configure_optimizers and DDP, which see all of it
on_fit_start     ─► each parameter in one group; groups split by learning rate; frozen as the clock says
epoch, batch     ─► what the clock says is due thaws, between two optimizer steps
validation       ─► the clock hears of the metric that blocks thaw by
optimizer step   ─► the pull of L2-SP before it, warm-up around it
teardown         ─► the module requires gradients as it did before

What is frozen is a function of the clock's phase (`transfer/tune/clock.py`), which is part of the state, and the groups
are a function of the arguments: a resumed fit has both again.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.callbacks.base import AutoArchCallback
from lightning_autoarch.callbacks.flavour import check_flavour
from lightning_autoarch.callbacks.outer import is_rebuilt_later
from lightning_autoarch.callbacks.transfer.course import Block
from lightning_autoarch.callbacks.transfer.ddp import check_strategy
from lightning_autoarch.callbacks.transfer.fitting import Fitting
from lightning_autoarch.callbacks.transfer.known import Known, gone_on, taken_over
from lightning_autoarch.callbacks.transfer.lora import add_lora, check_lora
from lightning_autoarch.callbacks.transfer.merged import check_averages, restore_adapters, saved_adapters
from lightning_autoarch.callbacks.transfer.order import check_alone, come_before_tuners
from lightning_autoarch.callbacks.transfer.recipe import Plan, Recipe
from lightning_autoarch.callbacks.transfer.resume import SCHEMA, check_state
from lightning_autoarch.callbacks.transfer.sources import Source
from lightning_autoarch.callbacks.transfer.timing import check_validation, measured, planned
from lightning_autoarch.core.schema import VERSION, is_empty
from lightning_autoarch.seam.lightning import checkpoint_path, run_configure_model
from lightning_autoarch.training.callback_protocols import is_trial
from lightning_autoarch.transfer.match.report import TransferReport
from lightning_autoarch.transfer.patterns import Names
from lightning_autoarch.transfer.tune.clock import Length


class FineTuning(AutoArchCallback):
    """Hooks and state of a callback that takes weights over and thaws what it trains.

    Args:
        checkpoint: where weights come from; None where the module comes with them.
        matching: arguments of `transfer_weights`.
        recipe: how to fine-tune.
    """

    def __init__(self, checkpoint: Source | None, matching: dict[str, Any], recipe: Recipe) -> None:
        self.checkpoint, self.matching, self.recipe = checkpoint, matching, recipe
        self.blocks: tuple[Block, ...] = ()
        self._known = Known()
        self._length = Length(None)  # of the fit that the plan is made for
        self._clock: dict[str, Any] | None = None  # of a fit that has ended
        self._begun = False
        self._loaded: dict[str, Any] | None = None
        self._goes_on_from: Mapping[str, Any] | None = None  # the state of the fit whose weights come after `setup`
        self._taken_by: weakref.ref[Parameter] | None = None  # a parameter of the module that has the weights
        self._fit: Fitting | None = None

    @property
    def report(self) -> TransferReport | None:
        """What was taken over."""
        return self._known.report

    def state_dict(self) -> dict[str, Any]:
        if not self._begun:
            return {}
        return {
            VERSION: SCHEMA.version,
            "epochs": self._length.epochs,
            "groups": self.recipe.groups(),
            "start": dict(self._known.start),
            "new": sorted(self._known.new),
            "adapters": self._adapters(),
            "recomputed": self._fit is not None and self._fit.recomputes(),
            "clock": self._clock if self._fit is None else self._fit.clock.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = None if is_empty(state_dict) else SCHEMA.read(state_dict)
        if self._loaded is not None and self._fit is not None:
            self._resume(self._fit, self._loaded)

    def shares_of_net(self) -> dict[str, tuple[float, float]]:
        """Parameters that were taken over, of how many: for a trial's record."""
        return {} if self.report is None else {"transferred": (self.report.taken, self.report.parameters)}

    def thawed_later(self) -> list[Parameter]:
        """What is frozen now, and may thaw in this fit."""
        return [] if self._fit is None else self._fit.thawed_later()

    def start_from(self, state_dict: Mapping[str, Any]) -> None:
        """The next fit begins with the weights of another, whose `state_dict` this is, and takes over none."""
        self._goes_on_from = SCHEMA.read(state_dict)

    def forget(self) -> None:
        """As if no fit had been."""
        self._known, self._length, self._clock, self._begun = Known(), Length(None), None, False
        self._goes_on_from = self._taken_by = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles know nothing of a fit that runs, nor of its module."""
        own = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}  # the module's
        return {**own, "_fit": None, "_taken_by": None, "_loaded": None, "_goes_on_from": None}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        check_flavour(self, trainer, pl_module)
        if is_rebuilt_later(self, trainer, pl_module):
            return
        self._end()
        self._loaded, self._clock, self._begun = None, None, False
        check_strategy(self, trainer)
        check_alone(self, trainer)
        check_validation(self.recipe, trainer)
        come_before_tuners(self, trainer)
        run_configure_model(trainer)
        plan = self._planned(pl_module)
        if self.checkpoint is None:
            plan.schedule(planned(trainer))  # raises what is wrong before anything is changed
        before, self._goes_on_from = self._goes_on_from, None
        if before is not None:
            self._known = gone_on(self.recipe, before)
        elif not self._has_weights(pl_module) and checkpoint_path(trainer).path is None:
            self._take_over(trainer, pl_module, plan)
            if self.report is not None and not is_trial(trainer):
                rank_zero_info(str(self.report))
        plan = Plan.of(self.recipe, pl_module, self._known.new)
        if self.recipe.strategy == "lora":
            plan = self._add_lora(trainer, pl_module, plan)
        self._taken_by = weakref.ref(next(pl_module.parameters()))
        self._fit = Fitting(pl_module, plan, planned(trainer))
        _warn_of_never_known(self._fit.never_known())

    def take_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the weights over before a fit, which then trains the module as it is: to validate what it starts from.

        Raises:
            TransferError, CheckpointError: as `setup` does.
        """
        check_flavour(self, trainer, pl_module)
        run_configure_model(trainer)
        if not self._has_weights(pl_module):
            self._take_over(trainer, pl_module, self._planned(pl_module))
            self._taken_by = weakref.ref(next(pl_module.parameters()))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._fit is not None
        self._fit.plan.check_same(pl_module)
        state = check_state(self._loaded, self.recipe, resumes=checkpoint_path(trainer).path is not None)
        self._length = planned(trainer)
        if state is not None:
            self._length = Length(state["epochs"])
            self._known = replace(self._known, start=dict(state["start"]))
        self._begun = True
        self._fit.begin(trainer, self._known.start, bool(state and state.get("recomputed")))
        self.blocks = self._fit.blocks()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._fit is not None
        if self._loaded is None:
            self._fit.plan.schedule(measured(trainer, pl_module))  # raises what the number of batches makes wrong
        self._fit.apply(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._advance(trainer, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert self._fit is not None
        self._advance(trainer, batch_idx)
        self._fit.before_batch(trainer, batch_idx)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._fit is not None:
            self._fit.before_step(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._fit is not None:
            self._fit.after_batch(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._fit is not None and not trainer.sanity_checking:
            self._fit.after_validation(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._fit is not None
        self.blocks = self._fit.blocks(as_planned=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _advance(self, trainer: Trainer, batch_idx: int) -> None:
        assert self._fit is not None
        if self._fit.advance(trainer, batch_idx):
            self.blocks = self._fit.blocks()

    def _has_weights(self, module: LightningModule) -> bool:
        """Whether this module has them from a fit before; a search may have made all its parameters new since."""
        first = next(module.parameters(), None)
        return self._taken_by is not None and first is not None and self._taken_by() is first

    def _planned(self, module: LightningModule) -> Plan:
        plan = Plan.of(self.recipe, module, self._known.new)
        if self.recipe.strategy == "lora":
            check_lora(module, plan.blocks[-1], self.recipe.lora)
        return plan

    def _take_over(self, trainer: Trainer, module: LightningModule, plan: Plan) -> None:
        self._known = replace(self._known, report=None)
        self._known = taken_over(trainer, module, plan, self.checkpoint, self.matching)

    def _resume(self, fit: Fitting, state: Mapping[str, Any]) -> None:
        """Plan as the fit did that is resumed: what was new then was in no checkpoint."""
        self._known = replace(self._known, new=frozenset(state.get("new", ())))
        if self.recipe.strategy == "lora":
            restore_adapters(fit.module, state.get("adapters") or {})
        fit.replan(self._known.new, Length(state["epochs"]), state.get("clock"))

    def _add_lora(self, trainer: Trainer, module: LightningModule, plan: Plan) -> Plan:
        check_averages(self, trainer)
        new = self._known.new & plan.names.parameters.keys()
        kept = {plan.names.parameters[name] for name in new}
        add_lora(module, {*plan.blocks[-1], *new}, self.recipe.lora)
        new = frozenset(name for name, parameter in Names(module).parameters.items() if parameter in kept)
        self._known = replace(self._known, new=new)
        return Plan.of(self.recipe, module, new)

    def _adapters(self) -> dict[str, Tensor]:
        return {} if self._fit is None or self.recipe.strategy != "lora" else saved_adapters(self._fit.module)

    def _end(self) -> None:
        if self._fit is not None:
            self._clock = self._fit.clock.state_dict()
            self._fit.end()
            self._fit = None


def _warn_of_never_known(never: Sequence[str]) -> None:
    if never:
        shown = ", ".join(f"`{name}`" for name in never[:3]) + (f" and {len(never) - 3} more" if len(never) > 3 else "")
        rank_zero_warn(
            f"Frozen, but not taken over from the checkpoint: {shown}. What the module was initialised with stays "
            "there. Let them train, or find them in the checkpoint by `rules`."
        )
