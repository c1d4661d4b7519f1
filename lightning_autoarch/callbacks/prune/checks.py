"""Errors and warnings of masked training: before a fit, at the end of a batch, and when the fit has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning.pytorch import Callback, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.targets import Targets
from lightning_autoarch.seam.lightning import callbacks_of

SHOWN = 5  # names in a message


def check_trained(weights: MaskedWeights) -> None:
    """Raises PruneValueError naming a parameter that is frozen when the fit begins: it has no gradient."""
    for name, parameter in zip(weights.names, weights.parameters, strict=True):
        if not parameter.requires_grad:
            raise PruneValueError(
                f"`{name}` is frozen as the fit begins, so there is no gradient by which its weights are compared. "
                'Leave it out by `exclude`, or compare magnitudes: MagnitudePruning(..., criterion="magnitude").'
            )


def check_apart(callback: Callback, trainer: Trainer, targets: Mapping[str, Tensor]) -> None:
    """Raises PruneValueError if another callback, set up before, masks some of the same parameters."""
    mine = {id(parameter): name for name, parameter in targets.items()}
    for other in _before(callback, trainer):
        weights: MaskedWeights | None = getattr(other, "weights", None)
        if not isinstance(weights, MaskedWeights):
            continue
        shared = [mine[id(parameter)] for parameter in weights.parameters if id(parameter) in mine]
        if shared:
            raise PruneValueError(
                f"{type(other).__name__} and {type(callback).__name__} of one Trainer both mask {_listed(shared)}: "
                "each would undo what the other does. Use disjoint `targets` or `exclude`, or leave one of them out."
            )


def say_left_dense(found: Targets) -> None:
    """Report the weights that are not pruned although it might be expected."""
    for name, why in found.left_dense.items():
        rank_zero_warn(f"`{name}` is left dense, because a mask on it would not hold: {why}.")
    if found.not_chosen:
        rank_zero_info(
            f"Left dense, as they are no targets by default: {_listed(found.not_chosen)}. Name what is to be pruned by "
            "`targets`."
        )


def say_emptied(callback: Callback, names: Sequence[str]) -> None:
    """Warn about layers that have no weight left."""
    if names:
        rank_zero_warn(
            f"{type(callback).__name__} has pruned every weight of {_listed(names)}: their output no longer "
            "depends on the input. Choose a lower sparsity, another `scope`, or `floor` > 0."
        )


def say_short(callback: Callback, weights: MaskedWeights, masks: Sequence[BitMask], sparsity: float) -> None:
    """Warn if fewer weights are pruned than requested, because every slice of which a norm is taken keeps one."""
    asked = round(sparsity * sum(weights.sizes)) - len(masks)  # counts of each target are rounded
    pruned = sum(mask.numel - mask.count() for mask in masks)
    if pruned < asked and any(weights.normed):
        rank_zero_warn(
            f"{type(callback).__name__} prunes {pruned} weights, not the {asked} of a sparsity of {sparsity:.3g}: "
            "each slice of which a weight norm is taken keeps its largest weight. Leave such layers out with "
            "`exclude`, or choose a lower sparsity."
        )


def say_behind(callback: Callback, trainer: Trainer, sparsity: float, postponed: bool, total: int | None) -> None:
    """Warn that the fit ended before the schedule of the masks did."""
    why = (
        "it was waiting for gradients, which were missing or overflowed in the last steps"
        if postponed
        else f"its schedule is for a fit of {total or 'an unknown number of'} optimizer steps"
    )
    rank_zero_warn(
        f"{type(callback).__name__} was not finished when the fit ended at step {trainer.global_step}, with a sparsity "
        f"of {sparsity:.3g}: {why}."
    )


def not_held(callback: Callback, names: Sequence[str], optimizers: Sequence[Optimizer]) -> PruneValueError:
    """The error if masked weights are no longer 0 although no optimizer stepped."""
    kinds = " and ".join(dict.fromkeys(type(optimizer).__name__ for optimizer in optimizers))
    return PruneValueError(
        f"Weights of {_listed(names)} that {type(callback).__name__} has masked were no longer 0 at the end of a batch "
        f"in which `step()` of {kinds} was not called: something else writes to them. Call `step()` for every "
        "change of the weights, as masks are applied after it."
    )


def unseen_steps(callback: Callback, trainer: Trainer) -> PruneValueError:
    """The error if optimizers step and Lightning does not count the steps, so that a schedule does not advance."""
    return PruneValueError(
        f"An optimizer stepped, but `trainer.global_step` stayed at {trainer.global_step}: the schedule of "
        f"{type(callback).__name__} would never advance. Step with Lightning's `self.optimizers().step()`, not by a "
        "method of the optimizer that Lightning does not know, or use ConstantSparsity."
    )


def _before(callback: Callback, trainer: Trainer) -> list[Callback]:
    callbacks = callbacks_of(trainer)
    return callbacks[: callbacks.index(callback)] if callback in callbacks else []


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
