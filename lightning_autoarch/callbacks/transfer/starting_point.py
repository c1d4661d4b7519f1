"""The weights that a fit starts from: taken over from a checkpoint, those of an earlier fit, or the module's own.

With `l2_sp` they are kept: the penalty pulls the weights back to them (equation in `transfer/tune/rates.py`). They are
part of the callback's state, so that a checkpoint grows by them and a resumed fit needs no other file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lightning_autoarch.callbacks.transfer.plan import Tuning, TuningPlan
from lightning_autoarch.callbacks.transfer.surroundings import planned
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.matching import Matching, TransferOptions
from lightning_autoarch.transfer.read.checkpoint import AnySource, Source
from lightning_autoarch.transfer.transfer_report import TAKEN, TransferReport
from lightning_autoarch.transfer.transfer_weights import transfer
from lightning_autoarch.transfer.tune.blocks import not_taken_over
from lightning_autoarch.transfer.tune.rates import l2_sp_gradient_, l2_sp_value
from lightning_autoarch.transfer.tune.trainable import TrainableNames


@dataclass(frozen=True)
class StartingPoint:
    """What is known about the weights of a module when a fit starts.

    Attributes:
        report: What was taken over; None if nothing was.
        start: Name -> weights that `l2_sp` pulls to; empty without it.
        new: Names of what was not taken over.
    """

    report: TransferReport | None = None
    start: Mapping[str, Tensor] = field(default_factory=dict)
    new: frozenset[str] = frozenset()


def take_over(
    trainer: Trainer, module: LightningModule, plan: TuningPlan, source: AnySource | None, options: TransferOptions
) -> StartingPoint:
    """Take weights over, or initialise anew what `reinit` names if the module comes with its weights.

    Raises:
        TransferError, CheckpointError: The weights cannot be taken over. The module is left unchanged.
    """
    tuning, length = plan.tuning, planned(trainer)
    report: TransferReport | None = None
    if source is None:
        reset_parameters(module, plan.names, plan.reinit)
        new = plan.reinit
    else:
        where = source.path if isinstance(source, Source) else source

        def check(found: TransferReport) -> None:
            _check_any(module, where, found)
            TuningPlan.of(tuning, module, not_taken_over(plan.names, found)).schedule(length)

        report = transfer(module, source, options, check)
        new = frozenset(not_taken_over(plan.names, report))
    if tuning.l2_sp is None:
        return StartingPoint(report, new=new)
    chosen = sorted(started_from(plan.names, report, plan.reinit))
    return StartingPoint(report, {name: plan.names.parameters[name].detach().clone() for name in chosen}, new)


def continued(tuning: Tuning, before: Mapping[str, Any]) -> StartingPoint:
    """The starting point of the fit whose weights this one continues with, from that fit's state.

    Raises:
        TransferError: It had no `l2_sp`, which needs the weights that it began with.
    """
    start = {name: tensor.clone() for name, tensor in before["start"].items()}
    if tuning.l2_sp is not None and not start:
        raise TransferError(
            "Expected the weights that `l2_sp` began with from the fit whose weights this one continues with, got one "
            "without `l2_sp`. Pass it to both of them or to neither."
        )
    return StartingPoint(None, start, frozenset(before.get("new", ())))


def with_inputs(matching: Matching, on_mismatch: str, module: nn.Module) -> Matching:
    """Example inputs on the module's device; for "widen" by default the module's `example_input_array`.

    Raises:
        TransferError: "widen" needs inputs, and there are none.
    """
    given = matching.example_inputs
    if on_mismatch == "widen" and given is None:
        given = getattr(module, "example_input_array", None)
        if given is None:
            raise TransferError(
                f'Expected inputs for `on_mismatch="widen"`, which runs the forward of {type(module).__name__}: set '
                "`self.example_input_array` in the module, or pass `matching=Matching(example_inputs=...)`."
            )
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    moved = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, given)
    return replace(matching, example_inputs=moved)


def started_from(names: TrainableNames, report: TransferReport | None, reinit: Collection[str]) -> set[str]:
    """Names of parameters whose weights are not new: all but `reinit` if the module already had its weights."""
    if report is None:
        return set(names.parameters) - set(reinit)
    taken = {tensor.name for tensor in report if tensor.status in TAKEN}
    return {name for name in names.parameters if taken.intersection(names.in_state_dict([name]))}


def reset_parameters(module: nn.Module, names: TrainableNames, chosen: Collection[str]) -> None:
    """Initialise parameters anew, as their layers do. Other parameters of the same layer keep their values.

    Raises:
        TransferError: A layer has no `reset_parameters`.
    """
    wanted = {id(names.parameters[name]): name for name in chosen if name in names.parameters}
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        here = [wanted[id(parameter)] for parameter in own if id(parameter) in wanted]
        if not here:
            continue
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if not callable(reset):
            raise TransferError(
                f"Expected a `reset_parameters` of {type(layer).__name__} to make `{here[0]}` anew, got none: "
                "initialise it in the module, and leave it out of `reinit`."
            )
        kept = [(parameter, parameter.detach().clone()) for parameter in own if id(parameter) not in wanted]
        reset()
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)


class PullToStart:
    """The penalty of L2-SP, which pulls parameters to the weights that they started from.

    Args:
        weight: Weight of the penalty.
        start: Name -> weights; None copies those that `parameters` have.
        parameters: Name -> parameter.

    Raises:
        TransferError: The weights are of another module.
    """

    def __init__(self, weight: float, parameters: Mapping[str, Parameter], start: Mapping[str, Tensor] | None) -> None:
        self.weight = weight
        self.start = {name: p.detach().clone() for name, p in parameters.items()} if start is None else dict(start)
        self._check(parameters)
        self._parameters = {name: parameters[name] for name in self.start}
        self._names = {id(parameter): name for name, parameter in self._parameters.items()}

    def value(self) -> Tensor:  # ()
        """The penalty of what is trained now; what is frozen has not moved."""
        trained = [(p, self._of(name)) for name, p in self._parameters.items() if p.requires_grad]
        return l2_sp_value(trained, self.weight)

    def add_gradients_(self, optimizer: Optimizer, scale: float) -> None:
        """Add the gradient of the penalty to the gradients that the optimizer is about to use.

        Raises:
            TransferError: A gradient is sparse, but that of the penalty is dense.
        """
        for parameter in self._stepped(optimizer):
            name, gradient = self._names[id(parameter)], parameter.grad
            assert gradient is not None
            if gradient.layout is not torch.strided:
                raise TransferError(
                    f"Expected dense gradients for `l2_sp`, got a sparse one for `{name}`: pass `sparse=False` to it."
                )
            l2_sp_gradient_(gradient, parameter, self._of(name), self.weight * scale)

    def _stepped(self, optimizer: Optimizer) -> Iterator[Parameter]:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and id(parameter) in self._names:
                    yield parameter

    def _of(self, name: str) -> Tensor:
        """The starting weights, on the device and of the dtype of the parameter."""
        parameter, start = self._parameters[name], self.start[name]
        if (start.device, start.dtype) != (parameter.device, parameter.dtype):
            start = self.start[name] = start.to(parameter)
        return start

    def _check(self, parameters: Mapping[str, Parameter]) -> None:
        for name, start in self.start.items():
            if name not in parameters or parameters[name].shape != start.shape:
                raise TransferError(
                    f"Expected the weights that `{name}` began with, got {tuple(start.shape)} from the checkpoint that "
                    "this fit resumes from, which is of another module."
                )


def _check_any(module: nn.Module, source: object, report: TransferReport) -> None:
    if not report.taken:
        where = source if isinstance(source, str | os.PathLike) else type(source).__name__
        raise TransferError(
            f"Expected weights for {type(module).__name__} in {where}, but not one parameter was taken over: it is of "
            f"another architecture, its names need `rules`, or `reinit` excludes everything.\n{report}"
        )
