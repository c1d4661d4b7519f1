"""Optional methods of callbacks that a trial calls in addition to Lightning's hooks.

settled     whether what is trained is of the kind that will come out: a score before that does not count
            (a pruning callback: the weights are as sparse as they will be)
shares_of_net()  what of the net it has changed, as (part, whole) by name: kept in the trial's record
            ("sparsity": weights that are 0, of all that it prunes)
forget()    as if no fit had been: a copy for a trial starts with nothing of an earlier fit (masks)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, Trainer

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.seam.lightning import callbacks_of


class TrialMark:
    """Base of the callback by which a Trainer is known to train a candidate of a search."""


def is_trial(trainer: Trainer) -> bool:
    """Whether the Trainer trains a candidate of a search."""
    return any(isinstance(callback, TrialMark) for callback in callbacks_of(trainer))


@runtime_checkable
class Settling(Protocol):
    """A callback during whose work scores are not yet those of the final network."""

    @property
    def settled(self) -> bool: ...


@runtime_checkable
class Forgetting(Protocol):
    """A callback that keeps state from one fit to the next."""

    def forget(self) -> None: ...


@runtime_checkable
class Sharing(Protocol):
    """A callback that reports which share of the network it has changed."""

    def shares_of_net(self) -> Mapping[str, tuple[float, float]]: ...


def unsettled(trainer: Trainer) -> list[str]:
    """The class names of the callbacks that are not settled yet."""
    callbacks = callbacks_of(trainer)
    return [type(each).__name__ for each in callbacks if isinstance(each, Settling) and not each.settled]


def shares(trainer: Trainer) -> dict[str, float]:
    """Name -> share in [0, 1]. If several callbacks use one name, their parts and their wholes are added."""
    callbacks = callbacks_of(trainer)
    sums: dict[str, tuple[float, float]] = {}
    for each in callbacks:
        for name, (part, whole) in each.shares_of_net().items() if isinstance(each, Sharing) else ():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + part, before[1] + whole
    return {name: part / whole for name, (part, whole) in sums.items() if whole}


def fresh(callbacks: Sequence[Callback]) -> list[Callback]:
    """Copies of callbacks without state of an earlier fit.

    Raises:
        SearchError: a callback cannot be copied, for example since it holds a lock, a file or a connection.
    """
    memo: dict[int, Any] = {}
    copies = [_copied(each, memo) for each in callbacks]
    for each in copies:
        if isinstance(each, Forgetting):
            each.forget()
    return copies


def _copied(callback: Callback, memo: dict[int, Any]) -> Callback:
    """A single `memo` keeps objects shared between the copies that are shared between the originals."""
    try:
        return copy.deepcopy(callback, memo)
    except Exception as error:  # whatever `__deepcopy__` and `__reduce__` raise
        name = type(callback).__name__
        raise SearchError(
            f"{name} cannot be copied, but each trial trains with a copy of its own: {type(error).__name__}: {error}. "
            f"Let {name} make its locks, files and connections in `setup` instead of `__init__`, or give it a "
            "`__deepcopy__`."
        ) from error
