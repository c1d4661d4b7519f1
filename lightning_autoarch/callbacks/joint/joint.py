"""A search of architecture and callbacks together: the `prune.*` and `transfer.*` names of a space.

trials      train with a copy of the one callback of a family among `trial.callbacks`, else among the outer Trainer's
outer fit   its callback becomes the winner's in place, before its `setup`; where the fit starts from the weights of the
            winner's trial, it also begins with what the trial's was: masks, fewer channels, the start of L2-SP
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_autoarch.callbacks.joint.families import FAMILIES, Family
from lightning_autoarch.callbacks.joint.obstacles import reshapes, reshapes_before_training
from lightning_autoarch.callbacks.joint.pair import Pair, the_one
from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.seam.lightning import callbacks_of
from lightning_autoarch.search.space import SearchSpace

_DRAWS = 20  # random points of the space in which a value is tried: one that is possible in none is a mistake


@dataclass(frozen=True)
class JointSearch:
    """See the module's docstring.

    Attributes:
        space: with or without names of callbacks.
        pairs: of callbacks that are varied, or that leave a module of another shape.
        trial_callbacks: as the user gave them.
        outer_callbacks: of the outer Trainer.
    """

    space: SearchSpace
    pairs: tuple[Pair, ...]
    trial_callbacks: tuple[Callback, ...]
    outer_callbacks: tuple[Callback, ...]

    @classmethod
    def of(
        cls, space: SearchSpace, trial_callbacks: Sequence[Callback], trainer: Trainer, module: LightningModule
    ) -> JointSearch:
        """For a running `setup`.

        Raises:
            SearchError: no callback for the names of a family, or more than one.
            SpaceError: a name that it does not take.
        """
        outer = callbacks_of(trainer)
        pairs = [pair for family in FAMILIES for pair in _varied(family, space, trial_callbacks, outer, module)]
        known = {id(pair.trial) for pair in pairs}
        pairs += [Pair(cb, _twin(cb, outer)) for cb in trial_callbacks if reshapes(cb) and id(cb) not in known]
        for pair in pairs:
            pair.check_names(space)
        return cls(space, tuple(pairs), tuple(trial_callbacks), tuple(outer))

    def check(self, after: str) -> None:
        """Raise before training what would be wrong later; `after` as of the search.

        Raises:
            SpaceError: a value that is never possible.
            SearchError: weights of a trial that would not fit into the outer module, and other things, with a remedy.
        """
        rng = np.random.default_rng(0)
        draws = [self.space.architecture(self.space.random(rng)) for _ in range(_DRAWS)]
        for pair in self.pairs:
            pair.check_values(self.space, draws)
        if after != "train":
            self._check_shapes(after)
        if after != "stop":
            for pair in self.pairs:
                pair.warn_of_a_plain_fit()

    def callbacks(self, architecture: Mapping[str, Any]) -> list[Callback]:
        """Those of a candidate's trial, in the order in which the user gave them, the outer ones first."""
        made = {id(pair.trial): pair.of_trial(architecture) for pair in self.pairs}
        only_outer = [cb for cb in self.outer_callbacks if not _is_in(cb, self.trial_callbacks)]
        of_outer = [made[id(callback)] for callback in only_outer if id(callback) in made]
        return [*of_outer, *(made.get(id(cb), cb) for cb in self.trial_callbacks)]

    def why_not(self, architecture: Mapping[str, Any]) -> str | None:
        """Why this candidate cannot be trained as it says; None where it can."""
        reasons = (pair.why_not(architecture) for pair in self.pairs)
        return next((reason for reason in reasons if reason is not None), None)

    def parametrise_outer_(self, winner: Mapping[str, Any]) -> None:
        """Let the outer fit do as the winner's trial did."""
        for pair in self.pairs:
            pair.parametrise_outer_(winner)

    def start_outer_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Let the outer callbacks begin with what those of the trial were whose weights come."""
        for pair in self.pairs:
            pair.start_outer_from(checkpoint.get("callbacks", {}))

    def _check_shapes(self, after: str) -> None:
        alone = [pair.trial for pair in self.pairs if pair.outer is None and reshapes(pair.trial)]
        if alone:
            raise SearchError(
                f"The weights of a trial with {type(alone[0]).__name__} do not fit into the module of the outer fit, "
                f"which has none, but `after={after!r}` loads them. Put it among the Trainer's callbacks too, or take "
                '`after="train"`.'
            )
        paired = [pair.outer for pair in self.pairs]
        for callback in self.outer_callbacks:
            if reshapes_before_training(callback) and not _is_in(callback, paired):
                raise SearchError(
                    f"`after={after!r}` loads the weights of a trial into the module of the outer fit, but there "
                    f"{type(callback).__name__} changes the module before, and no trial has it. Put it among "
                    '`trial.callbacks` too, or take `after="train"`.'
                )


def _varied(
    family: Family,
    space: SearchSpace,
    trial_callbacks: Sequence[Callback],
    outer_callbacks: Sequence[Callback],
    module: LightningModule,
) -> Iterator[Pair]:
    """The pair whose parameters a family's names are; none where there are no such names."""
    names = tuple(family.part(space.parameters))
    if not names:
        return
    _check_not_of_module(family, names[0], module)
    trial = the_one(family, trial_callbacks, "`trial.callbacks`", names)
    outer = the_one(family, outer_callbacks, "the Trainer's callbacks", names, like=trial)
    found = trial or outer
    if found is None:
        raise SearchError(
            f"`{family.prefix}{names[0]}` of the space needs a {family.noun}, whose parameter it is: "
            f"Trainer(callbacks=[search, {family.example}])."
        )
    yield Pair(found, outer, family, names)


def _twin(callback: Callback, outer_callbacks: Sequence[Callback]) -> Callback | None:
    """The outer callback that a checkpoint of a trial takes for this one."""
    kin = [other for other in outer_callbacks if type(other) is type(callback)]
    return next((other for other in kin if other.state_key == callback.state_key), None)


def _is_in(callback: Callback, callbacks: Sequence[Callback | None]) -> bool:
    return any(callback is other for other in callbacks)


def _check_not_of_module(family: Family, name: str, module: LightningModule) -> None:
    if not is_overridden("configure_callbacks", module):
        return
    made = module.configure_callbacks()
    for callback in made if isinstance(made, Sequence) else [made]:
        if isinstance(callback, family.kinds):
            raise SearchError(
                f"`{family.prefix}{name}` of the space needs {type(callback).__name__} among the Trainer's callbacks: "
                "every trial's module makes its own in `configure_callbacks`, which stands in for any other."
            )
