"""Learning rates that change outside of schedulers: warm-up of what thaws, and rates that a finder has set.

During warm-up the rate is lowered around each optimizer step and restored afterwards, so that schedulers and monitors
never see it. It is a function of the position in training and of the moment at which a phase began, which the clock
keeps, so that a resumed fit continues it.

Lightning's finder of a learning rate leaves one rate for all groups, which is then multiplied by their factors again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_autoarch.callbacks.transfer.parameter_groups import Split
from lightning_autoarch.seam.lightning import callbacks_of
from lightning_autoarch.transfer.tune.clock import Clock
from lightning_autoarch.transfer.tune.rates import warm_up_factor


class WarmUp:
    """Lowers the learning rates of groups that have just thawed.

    Args:
        epochs: For how long.
        phases: Id of a parameter -> the phase in which it thaws, the same for all parameters of a group.
        clock: The clock that knows when phases began.
    """

    def __init__(self, epochs: float, phases: Mapping[int, int | None], clock: Clock) -> None:
        self._position = 0.0  # of the current batch, in epochs
        self._epochs, self._phases, self.clock = epochs, phases, clock
        self._handles: list[RemovableHandle] = []
        self._rates: dict[Optimizer, list[Any]] = {}  # of the optimizers that are stepping
        self._depth: dict[Optimizer, int] = {}  # the hooks of a step that calls another one are called twice

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """Register the hooks."""
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before))
            self._handles.append(optimizer.register_step_post_hook(self._after))

    def begin(self, position: float) -> None:
        """Start a batch, and restore the rates of a step that was interrupted in the one before."""
        self._position = position
        for optimizer in list(self._rates):
            self._put_back(optimizer)

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.begin(0.0)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._depth[optimizer] = self._depth.get(optimizer, 0) + 1
        if self._depth[optimizer] > 1:
            return
        self._rates[optimizer] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            phase = self._phases.get(id(group["params"][0])) if group["params"] else None
            if phase:  # what is trained from the start is up to the user's scheduler
                group["lr"] = group["lr"] * self._factor(phase)

    def _factor(self, phase: int) -> float:
        began = self.clock.began(phase)
        return 0.0 if began is None else warm_up_factor(self._position, began.position, self._epochs)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._depth[optimizer] -= 1
        if self._depth[optimizer] == 0:
            self._put_back(optimizer)

    def _put_back(self, optimizer: Optimizer) -> None:
        self._depth.pop(optimizer, None)
        for group, rate in zip(optimizer.param_groups, self._rates.pop(optimizer, ()), strict=False):
            group["lr"] = rate


class FoundRates:
    """Multiplies the rates that a finder has set by the factors of the groups, once after each of its runs."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        self._seen: dict[Callback, object] = {}

    def scale(self, trainer: Trainer) -> None:
        """Call this whenever a finder may have run."""
        for callback in callbacks_of(trainer):
            found = callback.optimal_lr if isinstance(callback, LearningRateFinder) else None
            if found is not None and self._seen.get(callback) is not found:
                self._seen[callback] = found
                for split in self._splits:
                    if split.is_flat():
                        split.scale_again()
