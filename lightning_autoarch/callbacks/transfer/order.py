"""The callbacks that this one must come before.

Lightning's finders of a learning rate and a batch size train inside of their own `on_fit_start`. What they try is what
is trained afterwards only if groups and frozen layers stand by then. The finder of a learning rate leaves one rate for
all groups, which then is multiplied again.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

from lightning_autoarch.callbacks.transfer.groups import Split


def come_before_tuners(callback: Callback, trainer: Trainer) -> None:
    """Move a callback before the first finder, if one is before it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    finders = [i for i, other in enumerate(callbacks) if isinstance(other, BatchSizeFinder | LearningRateFinder)]
    here = callbacks.index(callback) if callback in callbacks else 0
    if finders and finders[0] < here:
        callbacks.insert(finders[0], callbacks.pop(here))


class FoundRates:
    """Multiplies the rates that a finder has set, once after each of its runs."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        self._seen: dict[Callback, object] = {}

    def scale(self, trainer: Trainer) -> None:
        """Call whenever one may have run."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            found = callback.optimal_lr if isinstance(callback, LearningRateFinder) else None
            if found is not None and self._seen.get(callback) is not found:
                self._seen[callback] = found
                for split in self._splits:
                    if split.is_flat():
                        split.scale_again()
