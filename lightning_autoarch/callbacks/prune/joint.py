"""A search of architecture and sparsity together: whose parameters the `prune.*` names of a space are.

trials      train with a copy of the one pruning callback among `trial_callbacks`, else among the outer Trainer's
outer fit   its pruning callback becomes the winner's in place, before it prunes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.callbacks.prune.parameters import (
    PREFIX,
    check_names,
    parametrise_,
    pruning_part,
    remade,
    why_not,
)
from lightning_autoarch.errors import SearchError, SpaceError
from lightning_autoarch.search.parameters import Categorical, Repeat, Scalar
from lightning_autoarch.search.space import Node, SearchSpace

_DRAWS = 20  # random points of the space in which a value is tried: one that is possible in none is a mistake


@dataclass(frozen=True)
class JointPruning:
    """See the module's docstring.

    Attributes:
        space: has `prune.*` names.
        trial: what the trials' callback is a copy of.
        others: of `trial_callbacks`, with the place of `trial` among them left out.
        outer: the outer Trainer's, None where it does not prune.
    """

    space: SearchSpace
    trial: MaskedTraining
    others: tuple[Callback, ...]
    outer: MaskedTraining | None

    @classmethod
    def of(
        cls, space: SearchSpace, trial_callbacks: Sequence[Callback], trainer: Trainer, module: LightningModule
    ) -> JointPruning | None:
        """For a running `setup`; None for a space without `prune.*`.

        Raises:
            SearchError: no pruning callback, or more than one.
            SpaceError: a name or a value that it does not take.
        """
        names = [name for name in space.parameters if name.startswith(PREFIX)]
        if not names:
            return None
        _check_not_of_module(names[0], module)
        outer = _the_one(trainer.callbacks, "the Trainer's callbacks")  # type: ignore[attr-defined]
        trial = _the_one(trial_callbacks, "`trial_callbacks`") or outer
        if trial is None:
            raise SearchError(
                f"`{names[0]}` of the space needs a pruning callback, whose parameter it is: "
                "Trainer(callbacks=[search, MagnitudePruning(CubicSparsity(0.9))])."
            )
        joint = cls(space, trial, tuple(cb for cb in trial_callbacks if cb is not trial), outer)
        for callback in (trial, *([] if outer is None or outer is trial else [outer])):
            joint._check(callback)
        return joint

    def callbacks(self, architecture: Mapping[str, Any]) -> list[Callback]:
        """Those of a candidate's trial."""
        return [remade(self.trial, pruning_part(architecture)), *self.others]

    def why_not(self, architecture: Mapping[str, Any]) -> str | None:
        """Why this candidate cannot be pruned so; None where it can."""
        return why_not(self.trial, pruning_part(architecture))

    def parametrise_outer_(self, winner: Mapping[str, Any]) -> None:
        """Let the outer fit prune as the winner's trial did."""
        if self.outer is not None:
            parametrise_(self.outer, pruning_part(winner))

    def take_masks(self, checkpoint: Mapping[str, Any]) -> None:
        """Let the outer fit start with the masks of the trial whose weights it starts from."""
        if self.outer is None:
            return
        state = checkpoint.get("callbacks", {}).get(self.trial.state_key)
        if state:
            self.outer.start_from(state)

    def warn_of_a_dense_fit(self) -> None:
        """Where the outer fit trains the winner, but nothing prunes there."""
        if self.outer is None:
            rank_zero_warn(
                "The winner is trained without pruning after the search: only `trial_callbacks` have a "
                f"{type(self.trial).__name__}. Put it among the Trainer's callbacks, where trials find it too."
            )

    def _check(self, callback: MaskedTraining) -> None:
        parameters = pruning_part(self.space.parameters)
        for name, parameter in parameters.items():
            if isinstance(parameter, Repeat):
                raise SpaceError(f"Expected `{PREFIX}{name}` to be an Int, Float or Categorical, got a Repeat.")
        check_names(callback, parameters)
        rng = np.random.default_rng(0)
        draws = [pruning_part(self.space.architecture(self.space.random(rng))) for _ in range(_DRAWS)]
        for node in self.space.nodes:
            if node.name.startswith(PREFIX):
                _check_values(callback, node, draws)


def _check_values(callback: MaskedTraining, node: Node, draws: Sequence[Mapping[str, Any]]) -> None:
    """Raises SpaceError for a choice or an end of a range with which the callback can never be made."""
    p = node.parameter
    values: Sequence[Scalar] = p.choices if isinstance(p, Categorical) else (p.low, p.high)
    for value in values:
        reasons = [why_not(callback, {**draw, node.name.removeprefix(PREFIX): value}) for draw in draws]
        if all(reason is not None for reason in reasons):
            raise SpaceError(f"`{node.name}` cannot be {value!r}: {reasons[0]}")


def _the_one(callbacks: Sequence[Callback], where: str) -> MaskedTraining | None:
    found = [callback for callback in callbacks if isinstance(callback, MaskedTraining)]
    if len(found) > 1:
        names = ", ".join(type(callback).__name__ for callback in found)
        raise SearchError(f"`{PREFIX}*` of the space are parameters of one pruning callback, got {names} in {where}.")
    return found[0] if found else None


def _check_not_of_module(name: str, module: LightningModule) -> None:
    if not is_overridden("configure_callbacks", module):
        return
    made = module.configure_callbacks()
    for callback in made if isinstance(made, Sequence) else [made]:
        if isinstance(callback, MaskedTraining):
            raise SearchError(
                f"`{name}` of the space needs {type(callback).__name__} among the Trainer's callbacks: every trial's "
                f"module makes its own in `configure_callbacks`, which stands in for any other."
            )
