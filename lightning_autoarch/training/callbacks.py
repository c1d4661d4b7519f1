"""What a trial asks of its callbacks beside Lightning's hooks, where they have it.

settled     whether what is trained is of the kind that will come out: a score before that does not count
            (a pruning callback: the weights are as sparse as they will be)
forget()    as if no fit had been: a copy for a trial starts with nothing of an earlier fit (masks)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lightning.pytorch import Callback, Trainer


@runtime_checkable
class Settling(Protocol):
    """A callback that turns the net into another one for part of a fit."""

    @property
    def settled(self) -> bool: ...


@runtime_checkable
class Forgetting(Protocol):
    """A callback that keeps something from one fit to the next."""

    def forget(self) -> None: ...


def unsettled(trainer: Trainer) -> list[str]:
    """The classes of callbacks that are not done yet with making the net what it will be."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [type(each).__name__ for each in callbacks if isinstance(each, Settling) and not each.settled]


def fresh(callbacks: Sequence[Callback]) -> list[Callback]:
    """Copies that know of no fit."""
    copies = copy.deepcopy(list(callbacks))
    for each in copies:
        if isinstance(each, Forgetting):
            each.forget()
    return copies
