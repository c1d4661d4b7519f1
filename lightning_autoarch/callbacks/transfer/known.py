"""What a fit begins with: weights that were taken over, those of a fit before, or those that the module already had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_autoarch.callbacks.transfer.recipe import Plan, Recipe
from lightning_autoarch.callbacks.transfer.sources import Source, reset_parameters, started_from, take_over
from lightning_autoarch.callbacks.transfer.timing import planned
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.report import TransferReport
from lightning_autoarch.transfer.tune.newness import not_taken_over


@dataclass(frozen=True)
class Known:
    """What is known of the weights of a module.

    Attributes:
        report: what was taken over; None where nothing was.
        start: name -> weights that L2-SP holds on to; empty without it.
        new: names of what was not taken over.
    """

    report: TransferReport | None = None
    start: Mapping[str, Tensor] = field(default_factory=dict)
    new: frozenset[str] = frozenset()


def taken_over(
    trainer: Trainer, module: LightningModule, plan: Plan, source: Source | None, matching: Mapping[str, Any]
) -> Known:
    """Take weights over, or initialise anew what `reinit` names where the module comes with its weights.

    Raises:
        TransferError, CheckpointError: with the module as it was.
    """
    recipe, length = plan.recipe, planned(trainer)
    report: TransferReport | None = None
    if source is None:
        reset_parameters(module, plan.names, plan.reinit)
        new = plan.reinit
    else:

        def check(found: TransferReport) -> None:
            Plan.of(recipe, module, not_taken_over(plan.names, found)).schedule(length)

        report = take_over(module, plan.names, source, reinit=plan.reinit, head=plan.head, check=check, **matching)
        new = frozenset(not_taken_over(plan.names, report))
    if recipe.l2_sp is None:
        return Known(report, new=new)
    chosen = sorted(started_from(plan.names, report, plan.reinit))
    return Known(report, {name: plan.names.parameters[name].detach().clone() for name in chosen}, new)


def gone_on(recipe: Recipe, before: Mapping[str, Any]) -> Known:
    """What the state of a fit says whose weights this one goes on with.

    Raises:
        TransferError: it had no `l2_sp`, which needs the weights that it began with.
    """
    start = {name: tensor.clone() for name, tensor in before["start"].items()}
    if recipe.l2_sp is not None and not start:
        raise TransferError(
            "Expected the weights that `l2_sp` began with from the fit whose weights this one goes on with, which "
            "had no `l2_sp`. Give both of them one, or neither."
        )
    return Known(None, start, frozenset(before.get("new", ())))
