"""The callbacks that this one must come before, and those that it cannot be with.

Lightning's finders of a learning rate and a batch size train inside of their own `on_fit_start`. What they try is what
is trained afterwards only if groups and frozen layers stand by then. The finder of a learning rate leaves one rate for
all groups, which then is multiplied again. Lightning's `BaseFinetuning` freezes and thaws layers itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, BatchSizeFinder, LearningRateFinder

from lightning_autoarch.callbacks.transfer.groups import Split
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.seam.lightning import callbacks_of


def come_before_tuners(callback: Callback, trainer: Trainer) -> None:
    """Move a callback before the first finder, if one is before it."""
    callbacks = callbacks_of(trainer)
    finders = [i for i, other in enumerate(callbacks) if isinstance(other, BatchSizeFinder | LearningRateFinder)]
    here = callbacks.index(callback) if callback in callbacks else 0
    if finders and finders[0] < here:
        callbacks.insert(finders[0], callbacks.pop(here))


def check_alone(callback: Callback, trainer: Trainer) -> None:
    """Raises TransferError where another callback freezes and thaws layers too."""
    callbacks = callbacks_of(trainer)
    other = next((each for each in callbacks if isinstance(each, BaseFinetuning)), None)
    if other is not None:
        name = type(other).__name__
        raise TransferError(
            f"{type(callback).__name__} and {name} both freeze layers and decide when they train. Leave {name} out and "
            'choose a `strategy`, such as "gradual" or "lp_ft"; or keep it, and take the weights over before `fit` by '
            "`transfer_weights(module, checkpoint)`."
        )


class FoundRates:
    """Multiplies the rates that a finder has set, once after each of its runs."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        self._seen: dict[Callback, object] = {}

    def scale(self, trainer: Trainer) -> None:
        """Call whenever one may have run."""
        for callback in callbacks_of(trainer):
            found = callback.optimal_lr if isinstance(callback, LearningRateFinder) else None
            if found is not None and self._seen.get(callback) is not found:
                self._seen[callback] = found
                for split in self._splits:
                    if split.is_flat():
                        split.scale_again()
