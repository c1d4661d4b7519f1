"""Norms with running statistics, in eval while they are frozen.

Without a gradient such a norm still changes: in train it normalises by the batch and moves its statistics, so that a
frozen layer computes one function in training and another one in validation. In eval it is one fixed affine map,

    y = (x - mean) / sqrt(var + eps) * weight + bias .

Whoever calls `train()`, and however often: every forward pass is one of eval, by hooks that are there while it is held.
"""

from __future__ import annotations

from typing import Any

from torch import nn

STATISTICS = ("running_mean", "running_var")


def keeps_statistics(module: nn.Module) -> bool:
    """Whether it is a norm that normalises by running statistics in eval: BatchNorm of any kind, or alike."""
    return all(module._buffers.get(name) is not None for name in STATISTICS)


class HeldInEval:
    """Forward passes of a norm are those of eval, until it is released.

    Args:
        norm: what it says of itself, `training`, stays its own affair.
    """

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm
        self._was_training = False
        self._handles = [
            norm.register_forward_pre_hook(self._before, prepend=True),
            norm.register_forward_hook(self._after, always_call=True),
        ]

    def release(self) -> None:
        """Let it be as it says again."""
        for handle in self._handles:
            handle.remove()

    def _before(self, norm: nn.Module, args: Any) -> None:
        self._was_training = norm.training
        if norm.training:
            norm.training = False

    def _after(self, norm: nn.Module, args: Any, output: Any) -> None:
        if self._was_training:
            norm.training = True
