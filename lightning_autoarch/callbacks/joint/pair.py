"""One callback in the trials of a search, and the one that does the same in the outer fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.callbacks.joint import obstacles
from lightning_autoarch.callbacks.joint.families import Family
from lightning_autoarch.callbacks.joint.names import check_names, parametrise_, takes, with_parameters
from lightning_autoarch.core.errors import SearchError, SpaceError
from lightning_autoarch.search.choices import Scalar
from lightning_autoarch.search.nodes import Node
from lightning_autoarch.search.parameters import Categorical, Repeat
from lightning_autoarch.search.space import Architecture, SearchSpace


@runtime_checkable
class Continuing(Protocol):
    """A callback that can begin with what another was in the fit whose weights are taken."""

    def start_from(self, state_dict: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Pair:
    """See the module's docstring.

    Attributes:
        trial: what the trials' callback is a copy of.
        outer: the outer Trainer's, None where it has none.
        family: of the names that vary both; None where none does.
        names: in the space, without the family's prefix.
    """

    trial: Callback
    outer: Callback | None
    family: Family | None = None
    names: tuple[str, ...] = ()

    def of_trial(self, architecture: Mapping[str, Any]) -> Callback:
        """The callback of a candidate's trial."""
        return self.trial if self.family is None else with_parameters(self.trial, self._part(architecture))

    def why_not(self, architecture: Mapping[str, Any]) -> str | None:
        """Why this candidate cannot be trained so; None where it can."""
        return obstacles.why_not(self.trial, self._part(architecture)) if self.names else None

    def parametrise_outer_(self, winner: Mapping[str, Any]) -> None:
        """Let the outer fit do as the winner's trial did."""
        if self.outer is not None:
            parametrise_(self.outer, self._part(winner))

    def start_outer_from(self, states: Mapping[str, Any]) -> None:
        """Let the outer one begin with what the trial's was, of whose callbacks these are the states."""
        state = states.get(self.trial.state_key)
        outer: object = self.outer
        if state and isinstance(outer, Continuing):
            outer.start_from(state)

    def check_names(self, space: SearchSpace) -> None:
        """Raises SpaceError for a name that a callback does not take."""
        if self.family is None:
            return
        for name in self.names:
            if isinstance(space.parameters[self.family.prefix + name], Repeat):
                full = self.family.prefix + name
                raise SpaceError(f"Expected `{full}` to be an Int, Float or Categorical, got a Repeat.")
        for callback in self._callbacks():
            check_names(self.family, callback, self.names)

    def check_values(self, space: SearchSpace, draws: Sequence[Architecture]) -> None:
        """Raise before training for what cannot be in any trial; `draws` are architectures of the space.

        Raises:
            SpaceError: a choice, or an end of a range, with which a callback can never be made.
            SearchError: an argument that is not varied, with which no trial can end well.
        """
        if self.family is None:
            return
        for argument, reason in obstacles.obstacles(self.trial).items():
            if argument not in self.names:
                raise SearchError(f"{reason}.")
        for callback in self._callbacks():
            for node in space.nodes:
                if node.name.startswith(self.family.prefix):
                    self._check_values(callback, node, [self._part(draw) for draw in draws])

    def warn_of_a_plain_fit(self) -> None:
        """Where the outer fit trains the winner, but without what its trial had."""
        if self.outer is None and self.family is not None:
            rank_zero_warn(
                f"The winner is trained without {self.family.deed} after the search: only `trial.callbacks` have a "
                f"{type(self.trial).__name__}. Put it among the Trainer's callbacks, where trials find it too."
            )

    def _callbacks(self) -> list[Callback]:
        return [self.trial, *([] if self.outer is None or self.outer is self.trial else [self.outer])]

    def _part(self, architecture: Mapping[str, Any]) -> Architecture:
        return {} if self.family is None else self.family.part(architecture)

    def _check_values(self, callback: Callback, node: Node, draws: Sequence[Mapping[str, Any]]) -> None:
        assert self.family is not None
        p = node.parameter
        values: Sequence[Scalar] = p.choices if isinstance(p, Categorical) else (p.low, p.high)
        name = node.name.removeprefix(self.family.prefix)
        for value in values:
            reasons = [obstacles.why_not(callback, {**draw, name: value}) for draw in draws]
            if all(reason is not None for reason in reasons):
                raise SpaceError(f"`{node.name}` cannot be {value!r}: {reasons[0]}")


def the_one(
    family: Family, callbacks: Iterable[Callback], where: str, names: Sequence[str], like: Callback | None = None
) -> Callback | None:
    """The callback of a family whose arguments the names are: of several the one that takes them all.

    Args:
        family: of the names.
        callbacks: among which it is.
        where: a description of where they are.
        names: without prefix.
        like: only one of this one's kind.

    Raises:
        SearchError: there are several that may be meant.
    """
    kinds = tuple(kind for kind in family.kinds if like is None or isinstance(like, kind))
    found = [callback for callback in callbacks if isinstance(callback, kinds)]
    if len(found) > 1:
        fitting = [callback for callback in found if takes(family, callback, names)]
        if len(fitting) != 1:
            kin = ", ".join(type(callback).__name__ for callback in found)
            raise SearchError(
                f"`{family.prefix}*` of the space are parameters of one {family.noun}, got {kin} in {where}."
            )
        return fitting[0]
    return found[0] if found else None
