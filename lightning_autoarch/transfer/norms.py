"""Norms with running statistics, in eval while they are frozen.

Without a gradient such a norm still changes: in train it normalises by the batch and moves its statistics, so that a
frozen layer computes one function in training and another one in validation. In eval it is one fixed affine map,

    y = (x - mean) / sqrt(var + eps) * weight + bias .

Whoever calls `train()`, and however often: the forward pass itself looks, by a hook that is there while it is frozen.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


def keeps_statistics(module: nn.Module) -> bool:
    """Whether it is a norm that normalises by running statistics in eval: BatchNorm of any kind, or alike."""
    return all(module._buffers.get(name) is not None for name in ("running_mean", "running_var"))


def hold_in_eval(norm: nn.Module) -> RemovableHandle:
    """Keep it in eval, until the handle is removed."""
    norm.train(False)
    return norm.register_forward_pre_hook(_eval, prepend=True)


def _eval(norm: nn.Module, args: tuple[Any, ...]) -> None:
    if norm.training:
        norm.train(False)
