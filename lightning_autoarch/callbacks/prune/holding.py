"""What keeps masked weights at 0 over a fit, whatever its optimizers are: see `optimizers`."""

from __future__ import annotations

from collections.abc import Iterable

from torch.optim import Optimizer

from lightning_autoarch.callbacks.optimizer_steps import AfterStep, StepHooks
from lightning_autoarch.callbacks.prune.optimizers import clear_state_, with_inner, writes_in_step_only
from lightning_autoarch.prune.masked import MaskedWeights


class Holding:
    """Calls a function after each step of a fit's optimizers and of those inside of them.

    Attributes:
        optimizers: all of them; empty between fits.
        writes_outside: whether one may write to weights outside of its `step()`.
    """

    def __init__(self, after_step: AfterStep) -> None:
        self._call = after_step
        self._hooks = StepHooks(self._after_step)
        self._stepped = False
        self.optimizers: list[Optimizer] = []
        self.writes_outside = False

    def begin(self, optimizers: Iterable[Optimizer]) -> None:
        self.end()
        self.optimizers = with_inner(optimizers)
        self.writes_outside = not all(map(writes_in_step_only, self.optimizers))
        self._hooks.attach(self.optimizers)

    def end(self) -> None:
        self._hooks.remove()
        self.optimizers, self.writes_outside, self._stepped = [], False, False

    def masks_changed(self, weights: MaskedWeights) -> None:
        """Let optimizers that write outside of their step forget what is masked now."""
        if self.writes_outside:
            clear_state_(self.optimizers, weights)

    def batch_ended(self) -> bool:
        """Whether one has stepped since the last call."""
        stepped, self._stepped = self._stepped, False
        return stepped

    def _after_step(self, optimizer: Optimizer) -> None:
        self._stepped = True
        self._call(optimizer)
