"""`TransferLearning`: add it to a Trainer, and `fit` starts from what is already known and fine-tunes it.

setup            ─► weights taken over, adapters put in; what is ever trained requires a gradient, for
configure_optimizers and DDP, which see all of it
on_fit_start     ─► each parameter in one group; groups split by learning rate; frozen as the epoch says
epoch            ─► thawed, as the epoch says
optimizer step   ─► the pull of L2-SP before it, warm-up around it
teardown         ─► the module requires gradients as it did before

What is frozen is a function of the epoch, and groups one of the arguments: a resumed fit finds both again by itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.call import _call_configure_model
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.callbacks.outer import checkpoint_path, is_rebuilt_later, is_trial
from lightning_autoarch.callbacks.prune.steps import loss_scale, optimizers_of
from lightning_autoarch.callbacks.transfer.course import Block, described
from lightning_autoarch.callbacks.transfer.ddp import check_strategy, wrap_again
from lightning_autoarch.callbacks.transfer.freezing import Freezing
from lightning_autoarch.callbacks.transfer.groups import add_missing, check_each_once, split_groups
from lightning_autoarch.callbacks.transfer.l2_sp import StartingPoint
from lightning_autoarch.callbacks.transfer.lora import add_lora, check_lora
from lightning_autoarch.callbacks.transfer.merged import check_averages, restore_adapters, saved_adapters
from lightning_autoarch.callbacks.transfer.order import FoundRates, check_alone, come_before_tuners
from lightning_autoarch.callbacks.transfer.recipe import Plan, Recipe
from lightning_autoarch.callbacks.transfer.recomputed import Recomputed
from lightning_autoarch.callbacks.transfer.resume import SCHEMA, check_state, planned_epochs
from lightning_autoarch.callbacks.transfer.sources import Source, reset_parameters, started_from, take_over
from lightning_autoarch.callbacks.transfer.warm_up import WarmUp
from lightning_autoarch.errors import TransferError
from lightning_autoarch.schema import VERSION, is_empty
from lightning_autoarch.transfer.contents import Weights, check_weights
from lightning_autoarch.transfer.grids import Grid
from lightning_autoarch.transfer.newness import not_taken_over
from lightning_autoarch.transfer.options import OnMismatch, check_min_share, check_on_mismatch
from lightning_autoarch.transfer.patterns import Names, Patterns
from lightning_autoarch.transfer.report import TransferReport
from lightning_autoarch.transfer.thawing import Strategy, Thaw


@dataclass
class _Fit:
    """What holds for one fit only."""

    module: LightningModule
    plan: Plan
    freezing: Freezing
    recomputed: Recomputed | None = None
    warm_up: WarmUp | None = None
    found_rates: FoundRates | None = None
    start: StartingPoint | None = None


class TransferLearning(Callback):
    """Takes over weights in `setup(stage="fit")`, and decides what is trained when and how fast.

    The module's `configure_optimizers` stays as it is. Patterns are globs over dotted names, of parameters or of
    modules around them: `backbone`, `encoder.layers.[0-5]`, `*.bias`.

    Args:
        checkpoint: what `read_checkpoint` takes; None where the module comes with its weights. A fit that resumes
            (`ckpt_path`) takes nothing over.
        rules: `(pattern, replacement)` for names in the checkpoint, as for `transfer_weights`.
        on_mismatch: what becomes of tensors of other shapes: "skip", "slice", "widen" or "error".
        classes: row of the checkpoint's output layer -> row of the module's.
        freeze: patterns of what is not trained. A norm with running statistics is in eval while it is frozen.
        freeze_depth: how many blocks from the input on (see `transfer/blocks.py`) are not trained.
        unfreeze: epoch -> patterns of what is trained from then on, from 1.
        strategy: "full" trains everything, "linear_probe" the head, "lp_ft" the head and then everything, "gradual" one
            more block from the top each epoch, "lora" adapters (by `peft`) and the head.
        layer_decay: factor of the learning rate from each block to the one below it, see `transfer/blocks.py`.
        lr_scale: pattern -> factor of the learning rate; of several that match the first counts.
        l2_sp: weight of the penalty ||w - w_0||^2 on what was taken over, logged as `l2_sp`. Its start w_0 is kept in
            each checkpoint.
        reinit: patterns of what is not taken over; without `checkpoint`, of what is initialised anew.
        warmup_epochs: over which the learning rate of what has been thawed grows from 0, also a part of one.
        head: patterns of the output layer; by default the block of the last linear or convolution that is registered.
        probe_epochs: of "lp_ft"; by default half of the fit's.
        lora: options of `peft.LoraConfig`: {"r": 8, "lora_alpha": 16}.
        example_inputs: of the module's forward, for "slice" and "widen"; "widen" takes the `example_input_array` where
            there are none.
        grid: of position embeddings, as for `transfer_weights`: `((14, 14), (16, 12))`, or pattern -> that.
        lora_alpha: of adapters that the checkpoint holds beside its weights, as for `transfer_weights`.
        min_share: the least share of the parameters that has to come from the checkpoint, from 0 to 1.
        frozen_dropout: whether frozen layers drop out as the others do. With False they are in eval as a whole.
        weights: of the checkpoint: "state_dict", "average" or "current", as for `read_checkpoint`.
        key: of the dict in the checkpoint to take, "generator" or "nets.teacher", as for `read_checkpoint`.
        trusted: classes that the checkpoint may hold beside plain data, as for `read_checkpoint`.

    What the checkpoint does not have is trained from the start, whatever the strategy holds back, and says which layer
    is the head, wherever that is registered. What `freeze` holds back all the same is named in a warning.

    A checkpoint that is saved while adapters are trained ("lora") holds plain weights, the adapters added: it loads
    into the plain module, and resumes bit for bit with this callback, whose state has the adapters.

    Attributes:
        report: what was taken over; None without `checkpoint`, and where the fit goes on from another one.
        blocks: how each block of layers is trained, from the input to the output; empty before a fit.

    Raises:
        TransferError, CheckpointError: in `setup`, with the module as it was, for everything that can be known by then.

    Example::

        transfer = TransferLearning("pretrained.ckpt", strategy="gradual", layer_decay=0.75, reinit=["head"])
        L.Trainer(max_epochs=20, callbacks=[transfer]).fit(model, datamodule=dm)
    """

    def __init__(
        self,
        checkpoint: Source | None = None,
        *,
        rules: Sequence[tuple[str, str]] = (),
        on_mismatch: OnMismatch = "skip",
        classes: Mapping[int, int] | None = None,
        freeze: Patterns = (),
        freeze_depth: int = 0,
        unfreeze: Mapping[int, Patterns] | None = None,
        strategy: Strategy = "full",
        layer_decay: float | None = None,
        lr_scale: Mapping[str, float] | None = None,
        l2_sp: float | None = None,
        reinit: Patterns = (),
        warmup_epochs: float = 0.0,
        head: Patterns = (),
        probe_epochs: int | None = None,
        lora: Mapping[str, Any] | None = None,
        example_inputs: Any = None,
        grid: Grid | None = None,
        lora_alpha: float | None = None,
        min_share: float | None = None,
        frozen_dropout: bool = True,
        weights: Weights = "state_dict",
        key: str | None = None,
        trusted: Sequence[type | str] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.matching: dict[str, Any] = {
            "rules": rules, "on_mismatch": check_on_mismatch(on_mismatch), "classes": classes,
            "example_inputs": example_inputs, "grid": grid, "lora_alpha": lora_alpha,
            "min_share": check_min_share(min_share), "weights": check_weights(weights), "key": key,
            "trusted": list(trusted) if not isinstance(trusted, str) else trusted,
        }  # fmt: skip
        self.recipe = Recipe(
            strategy=strategy, freeze=freeze, freeze_depth=freeze_depth, unfreeze={} if unfreeze is None else unfreeze,
            layer_decay=layer_decay, lr_scale={} if lr_scale is None else lr_scale, warmup_epochs=warmup_epochs,
            probe_epochs=probe_epochs, head=head, reinit=reinit, l2_sp=l2_sp, lora={} if lora is None else lora,
            frozen_dropout=frozen_dropout,
        )  # fmt: skip
        self.report: TransferReport | None = None
        self.blocks: tuple[Block, ...] = ()
        self._start: dict[str, Tensor] = {}  # of L2-SP
        self._new: frozenset[str] = frozenset()  # names of what was not taken over
        self._epochs: int | None = None  # that the plan is made for
        self._begun = False
        self._loaded: dict[str, Any] | None = None
        self._goes_on_from: Mapping[str, Any] | None = None  # the state of the fit whose weights come after `setup`
        self._taken_by: weakref.ref[Parameter] | None = None  # a parameter of the module that has the weights
        self._fit: _Fit | None = None

    @property
    def state_key(self) -> str:
        check_alone(self)
        return "lightning_autoarch.TransferLearning"

    def state_dict(self) -> dict[str, Any]:
        if not self._begun:
            return {}
        recomputed = None if self._fit is None else self._fit.recomputed
        return {
            VERSION: SCHEMA.version,
            "epochs": self._epochs,
            "groups": self.recipe.groups(),
            "start": dict(self._start),
            "new": sorted(self._new),
            "adapters": self._adapters(),
            "recomputed": recomputed is not None and recomputed.found,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = None if is_empty(state_dict) else SCHEMA.read(state_dict)
        if self._loaded is not None and self._fit is not None:
            self._resume(self._fit, self._loaded)

    def arguments(self) -> dict[str, Any]:
        """With what `__init__` makes this callback again."""
        return {"checkpoint": self.checkpoint, **self.matching, **vars(self.recipe)}

    def shares_of_net(self) -> dict[str, tuple[float, float]]:
        """Parameters that were taken over, of how many: for a trial's record."""
        return {} if self.report is None else {"transferred": (self.report.taken, self.report.parameters)}

    def thawed_later(self) -> list[Parameter]:
        """What is frozen now, but not in every epoch of the fit."""
        return [] if self._fit is None else self._fit.freezing.thawed_later()

    def start_from(self, state_dict: Mapping[str, Any]) -> None:
        """The next fit begins with the weights of another, whose `state_dict` this is, and takes over none."""
        self._goes_on_from = SCHEMA.read(state_dict)

    def forget(self) -> None:
        """As if no fit had been."""
        self.report, self._start, self._epochs, self._begun = None, {}, None, False
        self._new = frozenset()
        self._goes_on_from = self._taken_by = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles know nothing of a fit that runs, nor of its module."""
        own = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}  # the module's
        return {**own, "_fit": None, "_taken_by": None, "_loaded": None, "_goes_on_from": None}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or is_rebuilt_later(self, trainer, pl_module):
            return
        self._end()
        self._loaded, self._begun = None, False
        check_strategy(self, trainer)
        come_before_tuners(self, trainer)
        _call_configure_model(trainer)
        plan = self._planned(pl_module)
        if self.checkpoint is None:
            plan.thaw(planned_epochs(trainer))  # raises what is wrong before anything is changed
        before, self._goes_on_from = self._goes_on_from, None
        if before is not None:
            self._go_on(before)
        elif not self._has_weights(pl_module) and checkpoint_path(trainer)[0] is None:
            self._take_over(trainer, pl_module, plan)
            if self.report is not None and not is_trial(trainer):
                rank_zero_info(str(self.report))
        plan = Plan.of(self.recipe, pl_module, self._new)
        if self.recipe.strategy == "lora":
            plan = self._add_lora(trainer, pl_module, plan)
        thaw = plan.thaw(planned_epochs(trainer))
        _warn_of_never_known(plan, thaw)
        self._taken_by = weakref.ref(next(pl_module.parameters()))
        self._fit = _Fit(pl_module, plan, self._freezing(pl_module, plan, thaw))
        self._fit.freezing.prepare()

    def take_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the weights over before a fit, which then trains the module as it is: to validate what it starts from.

        Raises:
            TransferError, CheckpointError: as `setup` does.
        """
        _call_configure_model(trainer)
        if not self._has_weights(pl_module):
            self._take_over(trainer, pl_module, self._planned(pl_module))
            self._taken_by = weakref.ref(next(pl_module.parameters()))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._fit is not None
        self._fit.plan.check_same(pl_module)
        state = check_state(self._loaded, self.recipe, resumes=checkpoint_path(trainer)[0] is not None)
        self._epochs = planned_epochs(trainer) if state is None else state["epochs"]
        self._start = self._start if state is None else dict(state["start"])
        self._fit.freezing.thaw = self._fit.plan.thaw(self._epochs)
        self.blocks = described(self._fit.plan, self._fit.freezing.thaw)
        self._begun = True
        thaw = self._fit.freezing.thaw
        self._fit.recomputed = Recomputed(pl_module, self._fit.plan.names.parameters, thaw)
        self._fit.recomputed.found |= bool(state and state.get("recomputed"))
        self._group(trainer, self._fit)
        if self.recipe.l2_sp is not None:
            self._fit.start = StartingPoint(self.recipe.l2_sp, self._fit.plan.names.parameters, self._start)
        self._apply(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._apply(trainer, pl_module)  # the epoch of a resumed fit is known by now

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._apply(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert self._fit is not None
        self._fit.freezing.show()
        if self._fit.recomputed is not None:
            self._fit.recomputed.training = True
        if self._fit.found_rates is not None and batch_idx == 0:
            self._fit.found_rates.scale(trainer)
        if self._fit.warm_up is not None:
            batches = trainer.num_training_batches  # inf where it is not known: then whole epochs count
            part = 1.0 if batches == float("inf") else (batch_idx + 1) / batches
            self._fit.warm_up.begin(trainer.current_epoch + part)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._fit is not None and self._fit.start is not None:
            self._fit.start.add_gradients_(optimizer, loss_scale(trainer, optimizer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._fit is not None and self._fit.recomputed is not None:
            self._fit.recomputed.settle()
        if self._fit is not None and self._fit.start is not None and trainer._logger_connector.should_update_logs:
            pl_module.log("l2_sp", self._fit.start.value().to(pl_module.device))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _has_weights(self, module: LightningModule) -> bool:
        """Whether this module has them from a fit before; a search may have made all its parameters new since."""
        first = next(module.parameters(), None)
        return self._taken_by is not None and first is not None and self._taken_by() is first

    def _planned(self, module: LightningModule) -> Plan:
        plan = Plan.of(self.recipe, module, self._new)
        if self.recipe.strategy == "lora":
            check_lora(module, plan.blocks[-1], self.recipe.lora)
        return plan

    def _go_on(self, before: Mapping[str, Any]) -> None:
        self.report = None
        self._new = frozenset(before.get("new", ()))
        self._start = {name: tensor.clone() for name, tensor in before["start"].items()}
        if self.recipe.l2_sp is not None and not self._start:
            raise TransferError(
                "Expected the weights that `l2_sp` began with from the fit whose weights this one goes on with, which "
                "had no `l2_sp`. Give both of them one, or neither."
            )

    def _take_over(self, trainer: Trainer, module: LightningModule, plan: Plan) -> None:
        self.report = None
        if self.checkpoint is not None:

            def check(report: TransferReport) -> None:
                new = not_taken_over(plan.names, report)
                Plan.of(self.recipe, module, new).thaw(planned_epochs(trainer))

            self.report = take_over(
                module, plan.names, self.checkpoint, reinit=plan.reinit, head=plan.head, check=check, **self.matching
            )
            self._new = frozenset(not_taken_over(plan.names, self.report))
        else:
            reset_parameters(module, plan.names, plan.reinit)
            self._new = plan.reinit
        if self.recipe.l2_sp is not None:
            chosen = started_from(plan.names, self.report, plan.reinit)
            self._start = {name: plan.names.parameters[name].detach().clone() for name in sorted(chosen)}

    def _resume(self, fit: _Fit, state: Mapping[str, Any]) -> None:
        """Plan as the fit did that is resumed: what was new then was in no checkpoint."""
        self._new = frozenset(state.get("new", ()))
        fit.freezing.restore()
        if self.recipe.strategy == "lora":
            restore_adapters(fit.module, state.get("adapters") or {})
        fit.plan = Plan.of(self.recipe, fit.module, self._new)
        fit.freezing = self._freezing(fit.module, fit.plan, fit.plan.thaw(state["epochs"]))
        fit.freezing.prepare()

    def _freezing(self, module: LightningModule, plan: Plan, thaw: Thaw) -> Freezing:
        return Freezing(module, plan.names.parameters, thaw, dropout=self.recipe.frozen_dropout)

    def _add_lora(self, trainer: Trainer, module: LightningModule, plan: Plan) -> Plan:
        check_averages(self, trainer)
        kept = {plan.names.parameters[name] for name in self._new if name in plan.names.parameters}
        add_lora(module, {*plan.blocks[-1], *self._new & plan.names.parameters.keys()}, self.recipe.lora)
        self._new = frozenset(name for name, p in Names(module).parameters.items() if p in kept)
        return Plan.of(self.recipe, module, self._new)

    def _adapters(self) -> dict[str, Any]:
        return {} if self._fit is None or self.recipe.strategy != "lora" else saved_adapters(self._fit.module)

    def _group(self, trainer: Trainer, fit: _Fit) -> None:
        """Every trained parameter in one group, with its learning rate."""
        thaw, parameters = fit.freezing.thaw, fit.plan.names.parameters
        optimizers = optimizers_of(trainer)
        had = add_missing(optimizers, {name: p for name, p in parameters.items() if thaw[name]})
        check_each_once(optimizers, {name: p for name, p in parameters.items() if thaw[name] is not None})
        warm = self.recipe.warmup_epochs > 0
        keys = {id(p): (fit.plan.factors[name], thaw[name] if warm else None) for name, p in parameters.items()}
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        splits = [split_groups(o, lambda p: keys.get(id(p), (1.0, None)), schedulers, had) for o in optimizers]
        fit.found_rates = FoundRates(splits)
        if warm:
            fit.warm_up = WarmUp(self.recipe.warmup_epochs, {id(p): thaw[name] for name, p in parameters.items()})
            fit.warm_up.attach(optimizers)

    def _apply(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._fit is not None
        if self._fit.freezing.apply(trainer.current_epoch):
            wrap_again(trainer, module)
        if self._fit.recomputed is not None:
            self._fit.recomputed.reach()

    def _end(self) -> None:
        if self._fit is not None:
            self._fit.freezing.restore()
            if self._fit.recomputed is not None:
                self._fit.recomputed.detach()
            if self._fit.warm_up is not None:
                self._fit.warm_up.detach()
            self._fit = None


def _warn_of_never_known(plan: Plan, thaw: Thaw) -> None:
    never = plan.never_known(thaw)
    if never:
        shown = ", ".join(f"`{name}`" for name in never[:3]) + (f" and {len(never) - 3} more" if len(never) > 3 else "")
        rank_zero_warn(
            f"Frozen, but not taken over from the checkpoint: {shown}. What the module was initialised with stays "
            "there. Let them train, or find them in the checkpoint by `rules`."
        )
