"""What a fit trains at all: a callback that thaws layers step by step has frozen most of them when pruning looks.

What is pruned is looked for once, as a fit starts. What is frozen by then, but not later, is a target like any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from lightning.pytorch import Callback, Trainer
from torch.nn import Parameter


@runtime_checkable
class Thawing(Protocol):
    """A callback that trains some parameters for a part of the fit only."""

    def thawed_later(self) -> Iterable[Parameter]: ...


@contextlib.contextmanager
def as_ever_trained(trainer: Trainer) -> Iterator[None]:
    """Within, every parameter requires a gradient that does at any time of the fit."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    frozen = [parameter for each in callbacks if isinstance(each, Thawing) for parameter in each.thawed_later()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
