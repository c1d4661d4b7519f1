"""A search of architecture and callbacks together: names of a space that are tunables of callbacks.

trials      train with a copy of the one callback with the prefix of the names, among `trial.callbacks` or else among
            the outer Trainer's callbacks
outer fit   its callback becomes the winner's in place, before its `setup`. Where the fit starts from the weights of the
            winner's trial, it also begins with what the trial's callback was: masks, fewer channels, the start of L2-SP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_autoarch.callbacks.base import AutoArchCallback, declared_callbacks
from lightning_autoarch.callbacks.joint.tuned import TunedCallback, tuned_among
from lightning_autoarch.callbacks.joint.tuning import part
from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.core.prefixes import DATA, TRAINER, prefix_of
from lightning_autoarch.seam.lightning import callbacks_of
from lightning_autoarch.search.space import SearchSpace

_DRAWS = 20  # random points of the space in which a value is tried: one that is possible in none is a mistake


@dataclass(frozen=True)
class JointSearch:
    """See the module's docstring.

    Attributes:
        space: with or without names of callbacks.
        tuned: callbacks that are varied, or that leave a module of another shape.
        trial_callbacks: as the user gave them.
        outer_callbacks: of the outer Trainer.
    """

    space: SearchSpace
    tuned: tuple[TunedCallback, ...]
    trial_callbacks: tuple[Callback, ...]
    outer_callbacks: tuple[Callback, ...]

    @classmethod
    def of(
        cls, space: SearchSpace, trial_callbacks: Sequence[Callback], trainer: Trainer, module: LightningModule
    ) -> JointSearch:
        """For a running `setup`.

        Raises:
            SearchError: no callback, or more than one, has the prefix of a name.
            SpaceError: a name that the callback does not declare.
        """
        outer = callbacks_of(trainer)
        tuned = [_varied(prefix, space, trial_callbacks, outer, module) for prefix in _prefixes(space)]
        known = {id(each.trial) for each in tuned}
        shaping = [cb for cb in trial_callbacks if isinstance(cb, AutoArchCallback) and cb.reshapes]
        tuned += [TunedCallback(cb, _twin(cb, outer)) for cb in shaping if id(cb) not in known]
        for each in tuned:
            each.check_names(space)
        return cls(space, tuple(tuned), tuple(trial_callbacks), tuple(outer))

    def check(self, after: str, inherit: object = None) -> None:
        """Raise before training what would be wrong later; `after` and `inherit` are those of the search.

        Raises:
            SpaceError: a value that is never possible.
            SearchError: weights of a trial that would not fit into the outer module; a name without effect because
                trials inherit weights; an argument with which no trial can end well.
        """
        rng = np.random.default_rng(0)
        draws = [self.space.architecture(self.space.random(rng)) for _ in range(_DRAWS)]
        for each in self.tuned:
            without = each.sets_weights()
            if inherit is not None and without is not None:
                raise SearchError(
                    f"`{without}` of the space has no effect with `inherit={inherit!r}`: the weights of a parent come "
                    "over what was taken over. Leave one of them out."
                )
            each.check_values(self.space, draws)
        if after != "train":
            self._check_shapes(after)
        if after != "stop":
            for each in self.tuned:
                each.warn_of_a_plain_fit()

    def callbacks(self, architecture: Mapping[str, Any]) -> list[Callback]:
        """Those of a candidate's trial, in the order in which the user gave them, the outer ones first."""
        made = {id(each.trial): each.of_trial(architecture) for each in self.tuned}
        only_outer = [cb for cb in self.outer_callbacks if not _is_in(cb, self.trial_callbacks)]
        of_outer = [made[id(callback)] for callback in only_outer if id(callback) in made]
        return [*of_outer, *(made.get(id(cb), cb) for cb in self.trial_callbacks)]

    def why_not(self, architecture: Mapping[str, Any]) -> str | None:
        """Why this candidate cannot be trained as it says; None where it can."""
        reasons = (each.why_not(architecture) for each in self.tuned)
        return next((reason for reason in reasons if reason is not None), None)

    def parametrise_outer_(self, winner: Mapping[str, Any]) -> None:
        """Let the outer fit do as the winner's trial did."""
        for each in self.tuned:
            each.parametrise_outer_(winner)

    def start_outer_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Let the outer callbacks begin with what those of the trial were whose weights come."""
        for each in self.tuned:
            each.start_outer_from(checkpoint.get("callbacks", {}))

    def _check_shapes(self, after: str) -> None:
        alone = [each.trial for each in self.tuned if each.outer is None and each.trial.reshapes]
        if alone:
            raise SearchError(
                f"The weights of a trial with {type(alone[0]).__name__} do not fit into the module of the outer fit, "
                f"which has none, but `after={after!r}` loads them. Put it among the Trainer's callbacks too, or take "
                '`after="train"`.'
            )
        outer = [each.outer for each in self.tuned]
        for callback in self.outer_callbacks:
            if not isinstance(callback, AutoArchCallback) or _is_in(callback, outer):
                continue
            if callback.reshapes_before_training:
                raise SearchError(
                    f"`after={after!r}` loads the weights of a trial into the module of the outer fit, but there "
                    f"{type(callback).__name__} changes the module before, and no trial has it. Put it among "
                    '`trial.callbacks` too, or take `after="train"`.'
                )


def _prefixes(space: SearchSpace) -> list[str]:
    """The prefixes of callbacks that names of a space have."""
    found = dict.fromkeys(prefix_of(name) for name in space.parameters)
    return [prefix for prefix in found if prefix not in (None, DATA, TRAINER)]


def _varied(
    prefix: str,
    space: SearchSpace,
    trial_callbacks: Sequence[Callback],
    outer_callbacks: Sequence[Callback],
    module: LightningModule,
) -> TunedCallback:
    """The callback, and its counterpart in the outer fit, whose tunables the names of a prefix are."""
    names = tuple(part(prefix, space.parameters))
    _check_not_of_module(prefix, names[0], module)
    trial = tuned_among(prefix, trial_callbacks, "`trial.callbacks`", names)
    outer = tuned_among(prefix, outer_callbacks, "the Trainer's callbacks", names, like=trial)
    found = trial or outer
    if found is None:
        raise SearchError(
            f"`{prefix}.{names[0]}` of the space needs a callback whose tunable it is, such as {_examples(prefix)}: "
            "Trainer(callbacks=[search, ...])."
        )
    return TunedCallback(found, outer, names)


def _examples(prefix: str) -> str:
    """The imported classes that have a prefix, without private ones and bases of others in the same package."""
    found = [cls for cls in declared_callbacks() if cls.prefix == prefix and _is_public(cls)]
    return " or ".join(sorted(cls.__name__ for cls in found if not any(map(_is_base(cls), found))))


def _is_public(cls: type) -> bool:
    return not cls.__name__.startswith("_")


def _is_base(cls: type) -> Callable[[type], bool]:
    """Whether a class of the same package derives from `cls`."""
    package = cls.__module__.partition(".")[0]
    return lambda other: cls in other.__bases__ and other.__module__.partition(".")[0] == package


def _twin(callback: AutoArchCallback, outer_callbacks: Sequence[Callback]) -> AutoArchCallback | None:
    """The outer callback that a checkpoint of a trial takes for this one."""
    kin = [other for other in outer_callbacks if isinstance(other, type(callback)) and type(other) is type(callback)]
    return next((other for other in kin if other.state_key == callback.state_key), None)


def _is_in(callback: Callback, callbacks: Sequence[Callback | None]) -> bool:
    return any(callback is other for other in callbacks)


def _check_not_of_module(prefix: str, name: str, module: LightningModule) -> None:
    if not is_overridden("configure_callbacks", module):
        return
    made = module.configure_callbacks()
    for callback in made if isinstance(made, Sequence) else [made]:
        if isinstance(callback, AutoArchCallback) and callback.prefix == prefix:
            raise SearchError(
                f"`{prefix}.{name}` of the space needs {type(callback).__name__} among the Trainer's callbacks: every "
                "trial's module makes its own in `configure_callbacks`, which stands in for any other."
            )
