"""`ChannelPruning`: whole neurons, channels and heads are taken out of the module, before, in, or after the
training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer

from lightning_autoarch.callbacks.base import AutoArchCallback, Tunable
from lightning_autoarch.callbacks.optimizer_steps import optimizers_of
from lightning_autoarch.callbacks.prune.distillation import Distillation
from lightning_autoarch.callbacks.prune.followers import Followers, prune_with_followers_, why_not
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.callbacks.prune.step_calls import StepCalls
from lightning_autoarch.callbacks.prune.trainer import averages, total_steps
from lightning_autoarch.callbacks.running_fit import callback_states, is_rebuilt_later
from lightning_autoarch.callbacks.sharding import check_whole_parameters
from lightning_autoarch.core.errors import PruneValueError, StructureError
from lightning_autoarch.core.examples import moved_to, needed_example
from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.core.rest import detached_copy
from lightning_autoarch.core.schema import is_empty
from lightning_autoarch.prune.channels import Quantity, Reduction, Removed, Selection, check_prunable
from lightning_autoarch.prune.load import (
    SCHEMA,
    Rounds,
    add_round,
    all_rounds,
    catch_up_,
    rounds_in,
    rounds_of,
    state_of,
)
from lightning_autoarch.prune.schedule import Moment, Step, check_moment, step_of
from lightning_autoarch.prune.units import Norm, UnitScope
from lightning_autoarch.seam.lightning import callbacks_of, checkpoint_path, fast_dev_run
from lightning_autoarch.structure.optimizer import check_carriable
from lightning_autoarch.structure.recipe import apply_recipe_


class ChannelPruning(AutoArchCallback):
    """Removes the least important channels physically: the module comes back smaller, dense and faster.

    Parameters stay the same objects, and the state of the optimizers is cut along, so that training goes on.
    What the training copies weights into, an averaged copy or a target network, loses the same channels; see
    `Followers`. Checkpoints from then on are of the small module; `load_pruned` loads them, and `fit(ckpt_path=...)`
    with this callback resumes.

    Args:
        ratio: the share that is removed, in (0, 1): 0.4 leaves 60 %.
        of: what `ratio` is a share of: "channels"; "parameters"; "flops", of one forward of the example; "latency", the
            measured seconds of one forward of the example on the device of the fit.
        at: when, as a fraction of the fit or as `Step(n)`, an optimizer step. 0, the default: before the optimizers are
            made. 1: after the training.
        scope: "global", or "layer", the same share of each.
        round_to: counts of channels become multiples of it: odd ones are not faster.
        p: norm of the weights of a channel, 1 or 2.
        targets: patterns of what may lose channels; None: everything but inputs and outputs of the module.
        exclude: patterns of what may not.
        example_inputs: for the forward; None: `example_input_array`, or else what the first training step calls: the
            module itself, or submodules one by one, whose results then keep their channels; see `StepCalls`.
        distill: `Distillation(...)`: a teacher, by default the module as it was, helps to recover.
        name: of the callback in checkpoints, where a Trainer has two: rounds of pruning, which `load_pruned` and
            resumed fits go through in order.

    Attributes:
        removed: what was done, with the costs before and after; None before.

    Raises:
        PruneValueError: before training: a ratio out of (0, 1), `at` after the end, nothing may be removed, a
            ratio out of reach. Of a latency this is known only when it prunes.
        StructureError: before training: the forward cannot be followed, naming the place; the module is as before.
        MisconfigurationException: parameters are sharded; or several processes, and `at` in the middle of the fit.

    Example::

        L.Trainer(max_epochs=20, callbacks=[ChannelPruning(0.5, of="flops", at=0.3)]).fit(model, datamodule=dm)
    """

    prefix = "prune"  # `bind`: to the module that was made smaller
    schema = SCHEMA
    remedy = "Give one of them a `name`."
    reshapes = True

    def __init__(
        self,
        ratio: float,
        *,
        of: Quantity = "channels",
        at: Moment = 0.0,
        scope: UnitScope = "global",
        round_to: int = 8,
        p: Norm = 2,
        targets: Patterns | None = None,
        exclude: Patterns = (),
        example_inputs: Any = None,
        distill: Distillation | None = None,
        name: str | None = None,
    ) -> None:
        self.reduction = Reduction(ratio, of)
        self.selection = Selection(scope, round_to, p, targets, exclude)
        self.ratio, self.of = ratio, of
        check_moment(at, "at")
        self.at, self.scope, self.round_to, self.p = at, scope, round_to, p
        self.targets, self.exclude, self.example_inputs, self.name = targets, exclude, example_inputs, name
        self.distill = distill
        self.removed: Removed | None = None
        self._rounds: Rounds = ()  # what the module lost, up to the round of this callback
        self._unchecked = False  # whether it was not tried yet if the module can be made smaller
        self._calls = StepCalls()  # in place of example inputs that are not given
        self._followers = Followers()  # nets that the training copies weights into
        self._left: list[str] = []  # those that kept their sizes
        self._step: int | None = None  # after which it prunes; None: not in the course of the fit
        self._goes_on_from: Rounds = ()  # of a fit whose weights come after `setup`

    def tunables(self) -> list[Tunable]:
        own = [Tunable("ratio", float), Tunable("of", str), Tunable("at"), Tunable("scope", str)]
        return [*own, Tunable("round_to", int), Tunable("p", int), Tunable("targets"), Tunable("exclude")]

    def obstacles(self) -> dict[str, str]:
        if not self.is_after:
            return {}
        return {"at": "ChannelPruning at the end of a trial comes behind its last score: give `at` below 1.0"}

    @property
    def reshapes_before_training(self) -> bool:
        return self.is_before

    def save_state(self) -> dict[str, Any] | None:
        return state_of(self._rounds) or None

    def restore_state(self, state: dict[str, Any]) -> None:
        self._rounds = rounds_in(state)

    def start_from(self, state_dict: Mapping[str, Any]) -> None:
        """The next fit begins with the weights of another, whose `state_dict` this is, and as small as they are."""
        self._goes_on_from = rounds_in(state_dict)

    def forget(self) -> None:
        """As if no module had been made smaller yet."""
        self.removed = None
        self.unbind()
        self._rounds, self._left = (), []

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """What it removed, for `apply_recipe_`: None before."""
        return self._rounds[-1] if self._rounds else None

    @property
    def settled(self) -> bool:
        """Whether the module is as small as it will be. A search takes no score before."""
        return self.bound_module() is not None

    @property
    def is_after(self) -> bool:
        """Whether it prunes when the training is over."""
        return self.at == 1

    @property
    def is_before(self) -> bool:
        """Whether it prunes before the training begins."""
        return self.at in (0, Step(0))

    def shares_of_net(self) -> dict[str, tuple[float, float]]:
        """Parameters that were removed, of how many: for a trial's record."""
        if self.removed is None:
            return {}
        before, after = self.removed.before.parameters, self.removed.after.parameters
        return {"removed": (before - after, before)}

    def fit_attributes(self) -> dict[str, object]:
        return {"_goes_on_from": (), "_calls": StepCalls(), "_followers": Followers()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        check_whole_parameters(self, trainer)
        if trainer.world_size > 1 and not (self.is_before or self.is_after):
            raise MisconfigurationException(
                "ChannelPruning cannot change the parameters of a module that DistributedDataParallel holds: prune "
                "before the training, `at=0.0`, or after it, `at=1.0`."
            )
        super().setup(trainer, pl_module, stage)
        if is_rebuilt_later(self, trainer, pl_module) or self.is_bound_to(pl_module):
            return
        self.forget()  # another module than that of the fit before
        before, self._goes_on_from = self._goes_on_from, ()
        path, trusted = checkpoint_path(trainer)
        if before:
            self._shrink_to(trainer, pl_module, before)
        elif path is not None:
            self._resume(trainer, pl_module, callback_states(path, trusted=trusted))
        elif self.is_before:
            if self.distill is not None and self.distill.teacher is None:
                self.distill.teacher = detached_copy(pl_module)
            self._prune(trainer, pl_module)

    def _resume(self, trainer: Trainer, module: LightningModule, states: Mapping[str, Any]) -> None:
        """Make the module as small as that of the checkpoint, whichever callback removed its channels.

        Where this one did not yet, it does when its step comes; that of `at=0.0` is then the first one of this fit,
        since the weights, which are larger, are yet to be loaded.
        """
        own = states.get(self.state_key)
        if is_empty(own) and self.is_before and trainer.world_size > 1:
            raise MisconfigurationException(
                "Expected a checkpoint in which this ChannelPruning(at=0.0) has removed channels, got one without: in "
                "several processes it cannot do so after the weights were loaded. Load them into the module, and call "
                "`fit` without `ckpt_path`."
            )
        catch_up_(module, all_rounds(states), *averages(trainer))
        if not is_empty(own):
            self._rounds = rounds_in(own)
            self.bind(module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.distill is not None:
            self.distill.on_fit_start(trainer, pl_module)
        total = None if fast_dev_run(trainer) and isinstance(self.at, Step) else total_steps(trainer)
        self._step = None if self.is_after else step_of(self.at, total, "at")
        self._unchecked = not self.is_bound_to(pl_module)
        if self._unchecked:
            _check_optimizers(optimizers_of(trainer))
            if self._given(pl_module) is not None:
                self._check(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.is_bound_to(pl_module):
            return
        if not self.is_after:
            self._followers.begin(pl_module, optimizers_of(trainer))
        if self._given(pl_module) is None:
            self._calls.begin(pl_module, batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._check(pl_module)  # a step of several optimizers has not made all of its calls yet: again at its end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if self._calls.end() or self._unchecked:
            self._unchecked = True
            self._check(pl_module)
        if self._step is not None and trainer.global_step >= self._step and not self.is_bound_to(pl_module):
            self._prune(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_after and not self.is_bound_to(pl_module):
            self._prune(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._calls.forget()
        self._followers.forget()
        if self.distill is not None:
            self.distill.teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        in_course = self._step and self.removed is not None and self.is_bound_to(pl_module)
        if isinstance(exception, RuntimeError | ValueError) and (self._left or (in_course and _is_of_sizes(exception))):
            names = ", ".join(f"`{path}`" for path in self._left)
            kept = (
                f"{names} kept their sizes, as nothing was copied into them before"
                if names
                else (
                    "tensors that are no parameters, such as copies of the weights in a list, a dict or buffers, kept "
                    f"their sizes when channels were removed, in step {self._step}"
                )
            )
            exception.add_note(
                f"ChannelPruning: {kept}. If that is at "
                "fault, prune later, or when the training is over: `ChannelPruning(..., at=1.0)`."
            )
        self._calls.forget()
        self._followers.forget()
        if self.distill is not None:
            self.distill.on_exception(trainer, pl_module, exception)

    def _check(self, module: LightningModule) -> None:
        """Once in a fit, before it changes a weight."""
        if not self._unchecked:
            return
        self._unchecked = False
        if self._given(module) is not None:
            check_prunable(module, self._inputs(module), self.reduction, self.selection)
            return
        self._calls.check(module, self.reduction, self.selection)
        if not self.is_after:
            self._calls.tell_twins(module, self._followers.alike)
            self._check_followers(module)

    def _check_followers(self, module: LightningModule) -> None:
        """Warn where nets that may come to follow another one could not lose channels with it."""
        still = self._calls.still
        pairs = {path: others[0] for path, others in self._followers.alike.items() if path in still}
        reason = why_not(module, self._inputs(module), self.reduction, pairs, self.selection) if pairs else None
        if reason is not None:
            names = ", ".join(f"`{path}`" for path in pairs)
            rank_zero_warn(
                f"If the training copies weights into {names}, whose results then keep their channels, the pruning "
                f"will fail: {reason} Prune when the training is over: `ChannelPruning(..., at=1.0)`."
            )

    def _prune(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            optimizers = optimizers_of(trainer)
            pairs = self._followers.found(module, optimizers)
            self._left = self._calls.tell_left(self._followers.alike.keys() - pairs)
            self.removed = prune_with_followers_(
                module, self._inputs(module), self.reduction, pairs, self.selection, optimizers
            )
        recipe: dict[str, Any] = trainer.strategy.broadcast(self.removed.recipe if self.removed is not None else {})
        if not trainer.is_global_zero:
            apply_recipe_(module, recipe)
        add_round(module, recipe)
        self._rounds = rounds_of(module)
        self.bind(module)
        self._take_along(trainer, recipe)
        if self.removed is not None:
            self._say(trainer, self.removed)

    def _shrink_to(self, trainer: Trainer, module: LightningModule, rounds: Rounds) -> None:
        catch_up_(module, rounds, *averages(trainer))  # which were made in a `setup` before this one
        self._rounds = rounds
        self.bind(module)

    def _given(self, module: LightningModule) -> Any:
        return self.example_inputs if self.example_inputs is not None else module.example_input_array

    def _inputs(self, module: LightningModule) -> Any:
        given = self._calls.inputs if self._given(module) is None else self._given(module)
        return moved_to(needed_example(module, given, "ChannelPruning", PruneValueError), module.device)

    def _take_along(self, trainer: Trainer, recipe: dict[str, Any]) -> None:
        """Averages of the module, and the masks of callbacks that hold some."""
        for average in averages(trainer):
            apply_recipe_(average, recipe)
        for callback in callbacks_of(trainer):
            if isinstance(callback, MaskedTraining):
                callback.follow(recipe)

    def _say(self, trainer: Trainer, removed: Removed) -> None:
        before, after = removed.before, removed.after
        rank_zero_info(
            f"ChannelPruning: {before.parameters:,} -> {after.parameters:,} parameters, {before.flops:,} -> "
            f"{after.flops:,} FLOPs."
        )
        for logger in trainer.loggers:
            logger.log_metrics({"parameters": after.parameters, "flops": after.flops}, step=trainer.global_step)


def _is_of_sizes(exception: Exception) -> bool:
    """Whether torch raises it where tensors do not fit each other."""
    return any(word in str(exception) for word in ("size", "shape"))


def _check_optimizers(optimizers: list[Optimizer]) -> None:
    """Before the first step: their states have to become smaller with the module."""
    for optimizer in optimizers:
        try:
            check_carriable(optimizer)
        except StructureError as error:
            raise StructureError(
                f"{error} Remove channels before the training, `ChannelPruning(..., at=0.0)`, or train with an "
                "optimizer that keeps a state for each parameter, such as the one inside."
            ) from None
