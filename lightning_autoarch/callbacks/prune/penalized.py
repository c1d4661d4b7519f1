"""What the callbacks of penalties have in common: the hooks that take a penalty to the weights of a module.

The mathematics is prune/penalty.py, what each of them is for is regularization.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.callbacks.base import AutoArchCallback, Tunable
from lightning_autoarch.callbacks.optimizer_steps import StepHooks, loss_scale, optimizers_of
from lightning_autoarch.callbacks.prune.trainer import as_ever_trained, fraction_done, is_finite, number
from lightning_autoarch.callbacks.sharding import check_whole_parameters
from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.core.patterns import Patterns, match_values
from lightning_autoarch.prune import density
from lightning_autoarch.prune.counts import non_negative
from lightning_autoarch.prune.penalty import Penalty
from lightning_autoarch.prune.schedule import Moment, Ramp
from lightning_autoarch.prune.targets import Targets, examine_targets
from lightning_autoarch.prune.tensors import check
from lightning_autoarch.seam.lightning import logs_this_step

Weight = float | dict[str, float]


@dataclass(frozen=True)
class _Target:
    name: str
    parameter: Parameter
    weight: float  # of the penalty, at the end of the ramp


@dataclass
class _Fit:
    """What holds for one fit only."""

    targets: dict[int, _Target]  # by the id of the parameter
    hooks: StepHooks
    number: str  # behind the names of what is logged
    batch_idx: int = 0


class Regularization(AutoArchCallback):
    """What the penalties have in common: which weights, how strongly, and when. Not to be used by itself."""

    prefix = "prune"
    _key: str

    def __init__(
        self,
        penalty: Penalty,
        weight: Weight,
        proximal: bool,
        targets: Patterns | None,
        exclude: Patterns,
        ramp: tuple[Moment, Moment] | Ramp | None,
    ) -> None:
        if weight == {}:
            raise PruneValueError("Expected `weight` to be a number or {pattern: number}, got {}.")
        for name, value in weight.items() if isinstance(weight, dict) else [("weight", weight)]:
            non_negative(value, name if name == "weight" else f"weight[{name!r}]")
        if not isinstance(proximal, bool):
            raise PruneTypeError(f"Expected `proximal` to be True or False, got {proximal!r:.80}.")
        self.penalty, self.weight, self.proximal = penalty, weight, proximal
        self.targets, self.exclude = targets, exclude
        self.ramp = None if ramp is None else _ramp(ramp)
        self._fit: _Fit | None = None

    def tunables(self) -> list[Tunable]:
        own = [Tunable("weight", float), Tunable("weight", float, by_pattern=True), Tunable("proximal", bool)]
        return [*own, Tunable("targets"), Tunable("exclude")]

    def shares_of_net(self) -> dict[str, tuple[float, float]]:
        """Weights that are 0, of how many, where the penalty makes any: for a trial's record."""
        if self._fit is None or not (self.proximal and self.penalty.sparse):
            return {}
        parameters = [target.parameter for target in self._fit.targets.values()]
        n = sum(parameter.numel() for parameter in parameters)
        return {"sparsity": ((1 - _density(parameters)) * n, n)}

    def fit_attributes(self) -> dict[str, object]:
        return {"_fit": None}  # parameters, and hooks on optimizers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_whole_parameters(self, trainer)
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        with as_ever_trained(trainer):
            targets = self._find(pl_module)
        self._check_optimizers(optimizers_of(trainer), targets)
        self._check_end(trainer)
        hooks = StepHooks(lambda optimizer: self._after_step(trainer, optimizer))
        self._fit = _Fit(targets, hooks, number(self, trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attach(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attach(trainer)  # optimizers that were made since

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._fit is not None:
            self._fit.batch_idx = batch_idx

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._fit is not None and not self.proximal:
            scale = self._factor(trainer) * loss_scale(trainer, optimizer)
            for target, _ in self._stepped(optimizer):
                _add_to_gradient(target, self.penalty, target.weight * scale)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._fit is None or not logs_this_step(trainer):
            return
        factor, targets = self._factor(trainer), self._fit.targets.values()
        values = [factor * target.weight * self.penalty.value(target.parameter) for target in targets]
        pl_module.log(f"{self._key}_penalty{self._fit.number}", _sum(values, pl_module.device))
        if self.proximal and self.penalty.sparse:
            pl_module.log(f"{self._key}_density{self._fit.number}", _density([target.parameter for target in targets]))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self._fit is not None:
            self._fit.hooks.remove()
            self._fit = None

    def _attach(self, trainer: Trainer) -> None:
        if self._fit is not None and self.proximal:
            self._fit.hooks.attach(optimizers_of(trainer))

    def _find(self, module: LightningModule) -> dict[int, _Target]:
        """The targets that have a weight, checked."""
        examined = examine_targets(module, self.targets, self.exclude)
        found = self._penalized(examined)
        by_pattern = self.weight if isinstance(self.weight, Mapping) else {"*": self.weight}
        weights = match_values(by_pattern, list(found), "weight", PruneValueError)
        for name in weights:
            check(found[name], name)
            self.penalty.check(found[name], name)
        return {id(found[name]): _Target(name, found[name], weight) for name, weight in weights.items()}

    def _penalized(self, examined: Targets) -> dict[str, Parameter]:
        """Without those that a layer normalises: a penalty on their size changes nothing, down to 0 / 0."""
        computed = [name for name in examined.parameters if name in examined.computed]
        if not computed:
            return examined.parameters
        shown = ", ".join(f"`{name}`" for name in computed)
        if len(computed) == len(examined.parameters):
            raise PruneValueError(
                f"Nothing to penalise: the layers compute their weights from {shown}, of which the size has no effect. "
                "Remove the weight norm, spectral norm or other parametrisation, or name other `targets`."
            )
        rank_zero_warn(f"No penalty on {shown}: a layer computes its weight from it, and its size has no effect.")
        return examined.without(computed).parameters

    def _check_optimizers(self, optimizers: list[Optimizer], targets: dict[int, _Target]) -> None:
        groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
        trained = {id(parameter): group for _, group in groups for parameter in group["params"]}
        for key, target in targets.items():
            if key not in trained:
                raise PruneValueError(
                    f"`{target.name}` is in no optimizer, so nothing would train it. Leave it out with `exclude`."
                )
            if self.proximal and trained[key].get("lr") is None:
                raise PruneValueError(
                    f"The proximal step needs a learning rate, but the parameter group of `{target.name}` has no "
                    "`lr`. Pass `proximal=False`."
                )
        if not self.proximal and any(group.get("line_search_fn") is not None for _, group in groups):
            raise PruneValueError(
                "A line search looks at the loss, which the penalty is no part of. Pass `proximal=True`."
            )

    def _check_end(self, trainer: Trainer) -> None:
        if self.ramp is not None and self.ramp.in_fractions and not is_finite(trainer):
            raise PruneValueError(
                f"`ramp={self.ramp}` is in fractions of the fit, but this Trainer has neither `max_epochs` nor "
                "`max_steps`. Give it in optimizer steps, as Step(n)."
            )

    def _factor(self, trainer: Trainer) -> float:
        if self.ramp is None:
            return 1.0
        assert self._fit is not None
        done = fraction_done(trainer, self._fit.batch_idx) if self.ramp.in_fractions else 0.0
        return self.ramp.factor(trainer.global_step, done)

    def _stepped(self, optimizer: Optimizer) -> Iterator[tuple[_Target, float]]:  # and its learning rate
        """The targets that a step of this optimizer changes: it leaves those without a gradient."""
        assert self._fit is not None
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and id(parameter) in self._fit.targets:
                    yield self._fit.targets[id(parameter)], float(group.get("lr") or 0.0)

    def _after_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        factor = self._factor(trainer)
        if factor == 0:
            return
        moved = [(t.parameter, lr * factor * t.weight) for t, lr in self._stepped(optimizer)]
        for together in _alike(moved, lambda item: item[0]):
            self.penalty.proximal_([parameter for parameter, _ in together], [amount for _, amount in together])


def _ramp(given: tuple[Moment, Moment] | Ramp) -> Ramp:
    if isinstance(given, Ramp):
        return given
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise PruneTypeError(f"Expected `ramp` as (start, end), got {given!r:.80}.")
    return Ramp(*given)


def _add_to_gradient(target: _Target, penalty: Penalty, weight: float) -> None:
    gradient = target.parameter.grad
    assert gradient is not None
    if gradient.layout is not torch.strided:
        raise PruneValueError(
            f"The gradient of `{target.name}` is sparse, and that of its penalty is not. Pass `proximal=True`."
        )
    gradient.detach().add_(penalty.gradient(target.parameter).to(gradient.dtype), alpha=weight)


def _alike(items: list[Any], tensor_of: Callable[[Any], Tensor]) -> Iterator[list[Any]]:
    """Those of one dtype on one device together."""

    def kind(item: Any) -> str:
        return f"{tensor_of(item).dtype} {tensor_of(item).device}"

    for _, together in groupby(sorted(items, key=kind), kind):
        yield list(together)


def _density(tensors: list[Parameter]) -> float:
    numbers = sum(tensor.numel() for tensor in tensors)
    each = [density(alike) * sum(t.numel() for t in alike) for alike in _alike(list(tensors), lambda tensor: tensor)]
    return sum(each) / numbers if numbers else 1.0


def _sum(values: list[Tensor], device: torch.device) -> Tensor:
    return torch.stack([value.to(device, torch.float32) for value in values]).sum()
