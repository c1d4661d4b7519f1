"""A gentle beginning for what has just thawed: its learning rate grows from 0 over some epochs.

The rate is lowered around each optimizer step and put back behind it, so that schedulers and monitors never see it and
go on as if it were not there. It is a function of the position in training and of the moment at which a phase began,
which the clock keeps: a resumed fit goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_autoarch.transfer.tune.clock import Clock
from lightning_autoarch.transfer.tune.rates import warm_up_factor


class WarmUp:
    """Lowers the learning rates of groups while they are new.

    Args:
        epochs: how long.
        phases: id of a parameter -> the phase in which it thaws; all of a group in one.
        clock: that knows when phases began.
    """

    def __init__(self, epochs: float, phases: Mapping[int, int | None], clock: Clock) -> None:
        self._position = 0.0  # of the running batch, in epochs
        self._epochs, self._phases, self.clock = epochs, phases, clock
        self._handles: list[RemovableHandle] = []
        self._rates: dict[Optimizer, list[Any]] = {}  # of those that step now
        self._depth: dict[Optimizer, int] = {}  # a step that calls another one's has its hooks called twice

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """To these optimizers."""
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before))
            self._handles.append(optimizer.register_step_post_hook(self._after))

    def begin(self, position: float) -> None:
        """A batch begins; a step that was interrupted in the one before leaves its rates as they were."""
        self._position = position
        for optimizer in list(self._rates):
            self._put_back(optimizer)

    def detach(self) -> None:
        """From all of them."""
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
            if phase:  # not what is trained from the start: that is for the user's scheduler
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
