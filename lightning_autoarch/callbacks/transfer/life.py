"""The hooks of `TransferLearning`, and its state in a checkpoint.

setup            ─► take weights over, insert adapters; everything that is ever trained requires a gradient, so that
configure_optimizers and DDP see all of it
on_fit_start     ─► every parameter in one group; split groups by learning rate; freeze as the clock says
epoch, batch     ─► thaw what the clock says is due, between two optimizer steps
validation       ─► give the clock the metric that blocks thaw by
optimizer step   ─► add the gradient of L2-SP before it, warm up around it
teardown         ─► the module requires gradients as it did before

What is frozen is a function of the clock's phase (`transfer/tune/clock.py`), which is part of the state, and the groups
are a function of the arguments, so that a resumed fit has both again.
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
from torch.utils._pytree import tree_leaves

from lightning_autoarch.callbacks.base import AutoArchCallback
from lightning_autoarch.callbacks.flavour import check_flavour
from lightning_autoarch.callbacks.running_fit import is_rebuilt_later
from lightning_autoarch.callbacks.transfer.freezing import check_strategy
from lightning_autoarch.callbacks.transfer.lora import (
    add_lora,
    check_averages,
    check_lora,
    restore_adapters,
    saved_adapters,
)
from lightning_autoarch.callbacks.transfer.plan import Tuning, TuningPlan
from lightning_autoarch.callbacks.transfer.starting_point import StartingPoint, continued, take_over
from lightning_autoarch.callbacks.transfer.surroundings import (
    check_alone,
    check_validation,
    come_before_tuners,
    measured,
    planned,
)
from lightning_autoarch.callbacks.transfer.tuning_run import Block, TuningRun
from lightning_autoarch.core.errors import TransferError, shown
from lightning_autoarch.core.schema import (
    Mismatch,
    Schema,
    data,
    flag,
    items,
    mapping,
    optional,
    real,
    record,
    sequence,
    tensor,
    text,
    whole,
)
from lightning_autoarch.seam.lightning import checkpoint_path, run_configure_model
from lightning_autoarch.training.callback_protocols import is_trial
from lightning_autoarch.transfer.matching import TransferOptions
from lightning_autoarch.transfer.read.checkpoint import AnySource
from lightning_autoarch.transfer.transfer_report import TransferReport
from lightning_autoarch.transfer.tune.clock import Length
from lightning_autoarch.transfer.tune.trainable import TrainableNames


def _setting(value: Any, where: str) -> None:
    """Plain data without tensors, which can be compared with the current settings."""
    data()(value, where)
    held = next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)), None)
    if held is not None:
        raise Mismatch(where, "numbers, strings, lists and dicts", held)


MOMENT = items(whole(), whole(), real(0.0))
CLOCK = record({"begun": sequence(MOMENT), "best": optional(real(finite=False)), "wait": whole(), "checked": whole(-1)})
SCHEMA = Schema(
    "TransferLearning",
    1,
    {"epochs": optional(whole()), "groups": mapping(_setting), "start": mapping(tensor())},
    {"new": sequence(text()), "adapters": mapping(tensor()), "recomputed": flag(), "clock": optional(CLOCK)},
)


def check_state(state: dict[str, Any] | None, tuning: Tuning, *, resumes: bool) -> dict[str, Any] | None:
    """The callback's state in a checkpoint, if the fit resumes from one.

    Args:
        state: The state as it was saved; None if the checkpoint has none.
        tuning: The current arguments.
        resumes: Whether the fit resumes from a checkpoint.

    Raises:
        TransferError: The checkpoint has other groups, or not the weights that L2-SP began with.
    """
    if state is None or not resumes:
        if resumes and tuning.l2_sp is not None:
            raise TransferError(
                "Expected a checkpoint of a fit with TransferLearning, because `l2_sp` needs the weights that the fit "
                "began with. To start from another checkpoint pass it as `checkpoint`, not as `ckpt_path`."
            )
        return None
    groups, stored = tuning.groups(), state["groups"]
    for name in {**groups, **stored}:
        before, today = stored.get(name), groups.get(name)
        if before != today:
            raise TransferError(
                f"Expected `{shown(name)}={shown(repr(before))}`, as in the fit that is resumed, got {today!r}: its "
                "optimizer has other parameter groups, or its layers thaw at other times. To continue differently, "
                "pass the file as `checkpoint`, not as `ckpt_path`."
            )
    if tuning.l2_sp is not None and not state["start"]:
        raise TransferError("Expected the weights that `l2_sp` began with in the checkpoint, got one of a fit without.")
    return state


class FineTuning(AutoArchCallback):
    """The hooks and the state of `TransferLearning`, which has the arguments."""

    schema = SCHEMA
    error = TransferError
    remedy = (
        "They would freeze and group the same parameters: pass all patterns to one of them, and take over a second "
        "checkpoint by `transfer_weights` before the fit."
    )

    checkpoint: AnySource | None

    def __init__(self) -> None:
        self.blocks: tuple[Block, ...] = ()
        self._start = StartingPoint()
        self._length = Length(None)  # of the fit that the plan is made for
        self._clock: dict[str, Any] | None = None  # of a fit that has ended
        self._begun = False
        self._loaded: dict[str, Any] | None = None
        self._continues: Mapping[str, Any] | None = None  # state of the fit whose weights are loaded after `setup`
        self._taken_by: weakref.ref[Parameter] | None = None  # a parameter of the module that has the weights
        self._run: TuningRun | None = None

    @property
    def tuning(self) -> Tuning:
        """What is trained when and how fast."""
        raise NotImplementedError

    def transfer_options(self, module: LightningModule) -> TransferOptions:
        """How the checkpoint is matched to a module."""
        raise NotImplementedError

    @property
    def report(self) -> TransferReport | None:
        """What was taken over; None without `checkpoint`, and in a fit that continues another one."""
        return self._start.report

    def save_state(self) -> dict[str, Any] | None:
        if not self._begun:
            return None
        return {
            "epochs": self._length.epochs,
            "groups": self.tuning.groups(),
            "start": dict(self._start.start),
            "new": sorted(self._start.new),
            "adapters": self._adapters(),
            "recomputed": self._run is not None and self._run.recomputes(),
            "clock": self._clock if self._run is None else self._run.clock.state_dict(),
        }

    def restore_state(self, state: dict[str, Any]) -> None:
        self._loaded = state
        if self._run is not None:
            self._resume(self._run, state)

    def shares_of_net(self) -> dict[str, tuple[float, float]]:
        """The number of parameters that were taken over, and of all, for the record of a trial."""
        return {} if self.report is None else {"transferred": (self.report.taken, self.report.parameters)}

    def thawed_later(self) -> list[Parameter]:
        """Parameters that are frozen now, and may thaw in this fit."""
        return [] if self._run is None else self._run.thawed_later()

    def start_from(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next fit begin with the weights of another fit, whose `state_dict` this is."""
        self._continues = SCHEMA.read(state_dict)

    def forget(self) -> None:
        """Forget every fit."""
        self._start, self._length, self._clock, self._begun = StartingPoint(), Length(None), None, False
        self._continues = self._taken_by = None

    def fit_attributes(self) -> dict[str, object]:
        return {"_run": None, "_taken_by": None, "_loaded": None, "_continues": None}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if is_rebuilt_later(self, trainer, pl_module):
            return
        self._end()
        self._loaded, self._clock, self._begun = None, None, False
        check_strategy(self, trainer)
        check_alone(self, trainer)
        check_validation(self.tuning.thawing, trainer)
        come_before_tuners(self, trainer)
        run_configure_model(trainer)
        plan = self._planned(pl_module)
        if self.checkpoint is None:
            plan.schedule(planned(trainer))  # raises before anything is changed
        before, self._continues = self._continues, None
        if before is not None:
            self._start = continued(self.tuning, before)
        elif not self._has_weights(pl_module) and checkpoint_path(trainer).path is None:
            self._take_over(trainer, pl_module, plan)
            if self.report is not None and not is_trial(trainer):
                rank_zero_info(str(self.report))
        plan = TuningPlan.of(self.tuning, pl_module, self._start.new)
        if self.tuning.strategy == "lora":
            plan = self._add_lora(trainer, pl_module, plan)
        self._taken_by = weakref.ref(next(pl_module.parameters()))
        self._run = TuningRun(pl_module, plan, planned(trainer))
        _warn_of_untrained(self._run.never_trained())

    def take_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the weights over before a fit, so that they can be validated; the fit then trains the module as it is.

        Raises:
            TransferError, CheckpointError: As in `setup`.
        """
        check_flavour(self, trainer, pl_module, self.error)
        run_configure_model(trainer)
        if not self._has_weights(pl_module):
            self._take_over(trainer, pl_module, self._planned(pl_module))
            self._taken_by = weakref.ref(next(pl_module.parameters()))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._run is not None
        self._run.plan.check_same(pl_module)
        state = check_state(self._loaded, self.tuning, resumes=checkpoint_path(trainer).path is not None)
        self._length = planned(trainer)
        if state is not None:
            self._length = Length(state["epochs"])
            self._start = replace(self._start, start=dict(state["start"]))
        self._begun = True
        self._run.begin(trainer, self._start.start, bool(state and state.get("recomputed")))
        self.blocks = self._run.blocks()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._run is not None
        if self._loaded is None:
            self._run.plan.schedule(measured(trainer, pl_module))  # raises what depends on the number of batches
        self._run.apply(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._advance(trainer, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert self._run is not None
        self._advance(trainer, batch_idx)
        self._run.before_batch(trainer, batch_idx)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._run is not None:
            self._run.before_step(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._run is not None:
            self._run.after_batch(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None and not trainer.sanity_checking:
            self._run.after_validation(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._run is not None
        self.blocks = self._run.blocks(as_planned=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _advance(self, trainer: Trainer, batch_idx: int) -> None:
        assert self._run is not None
        if self._run.advance(trainer, batch_idx):
            self.blocks = self._run.blocks()

    def _has_weights(self, module: LightningModule) -> bool:
        """Whether this module has the weights already. A search may have replaced all of its parameters since."""
        first = next(module.parameters(), None)
        return self._taken_by is not None and first is not None and self._taken_by() is first

    def _planned(self, module: LightningModule) -> TuningPlan:
        plan = TuningPlan.of(self.tuning, module, self._start.new)
        if self.tuning.strategy == "lora":
            check_lora(module, plan.blocks[-1], self.tuning.lora)
        return plan

    def _take_over(self, trainer: Trainer, module: LightningModule, plan: TuningPlan) -> None:
        self._start = replace(self._start, report=None)
        self._start = take_over(trainer, module, plan, self.checkpoint, self.transfer_options(module))

    def _resume(self, run: TuningRun, state: Mapping[str, Any]) -> None:
        """Plan as the resumed fit did, with what was new then."""
        self._start = replace(self._start, new=frozenset(state.get("new", ())))
        if self.tuning.strategy == "lora":
            restore_adapters(run.module, state.get("adapters") or {})
        run.replan(self._start.new, Length(state["epochs"]), state.get("clock"))

    def _add_lora(self, trainer: Trainer, module: LightningModule, plan: TuningPlan) -> TuningPlan:
        check_averages(self, trainer)
        new = self._start.new & plan.names.parameters.keys()
        kept = {plan.names.parameters[name] for name in new}
        add_lora(module, {*plan.blocks[-1], *new}, self.tuning.lora)
        new = frozenset(name for name, parameter in TrainableNames(module).parameters.items() if parameter in kept)
        self._start = replace(self._start, new=new)
        return TuningPlan.of(self.tuning, module, new)

    def _adapters(self) -> dict[str, Tensor]:
        return {} if self._run is None or self.tuning.strategy != "lora" else saved_adapters(self._run.module)

    def _end(self) -> None:
        if self._run is not None:
            self._clock = self._run.clock.state_dict()
            self._run.end()
            self._run = None


def _warn_of_untrained(never: Sequence[str]) -> None:
    if never:
        few = ", ".join(f"`{name}`" for name in never[:3]) + (f" and {len(never) - 3} more" if len(never) > 3 else "")
        rank_zero_warn(
            f"Frozen, but not taken over from the checkpoint: {few}. These parameters keep their initial values. Train "
            "them, or find them in the checkpoint by `rules`."
        )
