"""One callback in the trials of a search, and its counterpart in the outer fit that does the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.callbacks.base import AutoArchCallback
from lightning_autoarch.callbacks.joint.tuning import check_names, parametrise_, part, takes, why_not, with_parameters
from lightning_autoarch.core.errors import SearchError, SpaceError
from lightning_autoarch.search.choices import Scalar
from lightning_autoarch.search.nodes import Node
from lightning_autoarch.search.parameters import Categorical, Repeat
from lightning_autoarch.search.space import Architecture, SearchSpace


@dataclass(frozen=True)
class TunedCallback:
    """See the module's docstring.

    Attributes:
        trial: what the trials' callback is a copy of.
        outer: the outer Trainer's counterpart, None where it has none.
        names: its tunables in the space, without prefix; none where only its shapes matter to the search.
    """

    trial: AutoArchCallback
    outer: AutoArchCallback | None
    names: tuple[str, ...] = ()

    def of_trial(self, architecture: Mapping[str, Any]) -> Callback:
        """The callback of a candidate's trial."""
        return with_parameters(self.trial, self._part(architecture)) if self.names else self.trial

    def why_not(self, architecture: Mapping[str, Any]) -> str | None:
        """Why this candidate cannot be trained so; None where it can."""
        return why_not(self.trial, self._part(architecture)) if self.names else None

    def parametrise_outer_(self, winner: Mapping[str, Any]) -> None:
        """Let the outer fit do as the winner's trial did."""
        if self.outer is not None:
            parametrise_(self.outer, self._part(winner))

    def start_outer_from(self, states: Mapping[str, Any]) -> None:
        """Let the outer callback begin with what the trial's was, of whose callbacks these are the states."""
        state = states.get(self.trial.state_key)
        if state and self.outer is not None:
            self.outer.start_from(state)

    def check_names(self, space: SearchSpace) -> None:
        """Raise SpaceError for a name that a callback does not declare."""
        for name in self.names:
            full = f"{self.trial.prefix}.{name}"
            if isinstance(space.parameters[full], Repeat):
                raise SpaceError(f"Expected `{full}` to be an Int, Float or Categorical, got a Repeat.")
        for callback in self._callbacks() if self.names else ():
            check_names(callback, self.names)

    def check_values(self, space: SearchSpace, draws: Sequence[Architecture]) -> None:
        """Raise before training for what cannot be in any trial; `draws` are architectures of the space.

        Raises:
            SpaceError: a choice, or an end of a range, with which a callback can never be made.
            SearchError: an argument that is not varied, with which no trial can end well.
        """
        if not self.names:
            return
        for argument, reason in self.trial.obstacles().items():
            if argument not in self.names:
                raise SearchError(f"{reason}.")
        for callback in self._callbacks():
            for node in space.nodes:
                if node.name.startswith(f"{self.trial.prefix}."):
                    self._check_values(callback, node, [self._part(draw) for draw in draws])

    def warn_of_a_plain_fit(self) -> None:
        """Warn where the outer fit trains the winner, but without the callback that its trial had."""
        if self.outer is None and self.names:
            kind = type(self.trial).__name__
            rank_zero_warn(
                f"The winner is trained without {kind} after the search: only `trial.callbacks` have one. Put it among "
                "the Trainer's callbacks, where trials find it too."
            )

    def sets_weights(self) -> str | None:
        """The first varied name that says from which weights a trial starts; None where none does."""
        names = {tunable.name for tunable in self.trial.tunables() if tunable.sets_weights}
        return next((f"{self.trial.prefix}.{name}" for name in self.names if name in names), None)

    def _callbacks(self) -> list[AutoArchCallback]:
        return [self.trial, *([] if self.outer is None or self.outer is self.trial else [self.outer])]

    def _part(self, architecture: Mapping[str, Any]) -> Architecture:
        return part(self.trial.prefix, architecture) if self.names and self.trial.prefix else {}

    def _check_values(self, callback: AutoArchCallback, node: Node, draws: Sequence[Mapping[str, Any]]) -> None:
        p = node.parameter
        values: Sequence[Scalar] = p.choices if isinstance(p, Categorical) else (p.low, p.high)
        name = node.name.removeprefix(f"{callback.prefix}.")
        for value in values:
            reasons = [why_not(callback, {**draw, name: value}) for draw in draws]
            if all(reason is not None for reason in reasons):
                raise SpaceError(f"`{node.name}` cannot be {value!r}: {reasons[0]}")


def tuned_among(
    prefix: str,
    callbacks: Iterable[Callback],
    where: str,
    names: Sequence[str],
    like: AutoArchCallback | None = None,
) -> AutoArchCallback | None:
    """The callback that the names of a prefix are tunables of. Of several callbacks, the only one that has them all.

    Args:
        prefix: of the names.
        callbacks: among which it is looked for.
        where: describes them, for a message.
        names: without prefix.
        like: only callbacks of the same kind as this one.

    Raises:
        SearchError: several may be meant.
    """
    found = [callback for callback in callbacks if isinstance(callback, AutoArchCallback) and callback.prefix == prefix]
    if like is not None:
        found = [callback for callback in found if kind_of(callback) is kind_of(like)]
    if len(found) > 1:
        fitting = [callback for callback in found if takes(callback, names)]
        if len(fitting) != 1:
            kin = ", ".join(type(callback).__name__ for callback in found)
            raise SearchError(f"`{prefix}.*` of the space are tunables of one callback, got {kin} in {where}.")
        return fitting[0]
    return found[0] if found else None


def kind_of(callback: AutoArchCallback) -> type[AutoArchCallback]:
    """The class directly below `AutoArchCallback`: one callback stands in for another of the same kind only."""
    below = [cls for cls in type(callback).__mro__ if issubclass(cls, AutoArchCallback)]
    return below[-2] if len(below) > 1 else below[0]
