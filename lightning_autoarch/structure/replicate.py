"""Replicating channels so that the function is kept: Net2WiderNet (Chen, Goodfellow & Shlens 2016, equation 4).

A unit u that exists r times afterwards is copied where it is produced, and its consumers share the weight that it had:

    producer  W[j, :] = W[u, :]     consumer  V[:, j] = s_j V[:, u],   where the s_j of one u sum to 1

The paper has s_j = 1 / r. Copies with equal weights would have equal gradients for ever (the paper adds noise, and
loses exactness); shares that differ break the tie and keep the function. `structure.widen` draws them at random, a
transfer spaces them evenly.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NOT_SCALED = "they are summed where no parameter scales them, or shuffled"


def why_not(replicable: bool, tied: Iterable[str]) -> str:
    """Why the channels of a group cannot be replicated; an empty string if they can.

    Args:
        replicable: Whether a parameter scales each channel wherever it is read.
        tied: Names of tensors that both produce and read the channels.
    """
    if not replicable:
        return NOT_SCALED
    name = next(iter(tied), None)
    return "" if name is None else f"`{name}` is tied, it both produces and reads them"


def keeps_norms(exact: bool, old: int, new: int) -> bool:
    """Whether norms and means over `old` channels stay as they are with `new` ones.

    Args:
        exact: Whether no norm or mean is taken over the channels at all.
        old: Number of channels before.
        new: Number of channels afterwards.
    """
    return exact or new % old == 0


def shares(origin: Tensor, weights: Tensor) -> Tensor:  # (W,) -> (W,), float64
    """The share of each copy of what the consumers of its unit had.

    Args:
        origin: (W,) For each unit, the unit that it is a copy of.
        weights: (W,) Positive; the shares of one unit's copies are proportional to them.
    """
    total = torch.zeros(int(origin.max()) + 1, dtype=torch.float64).index_add_(0, origin, weights.double())
    return weights.double() / total[origin]


def spaced_weights(origin: Tensor) -> Tensor:  # (W,) -> (W,), float64
    """Weights 1 + (2 c - r + 1) / (2 r) for copy c of r, for an ascending `origin`.

    >>> spaced_weights(torch.tensor([0, 0, 1])).tolist()
    [0.75, 1.25, 1.0]
    """
    counts = torch.bincount(origin)[origin].double()
    copy = torch.arange(len(origin)) - torch.searchsorted(origin, origin)
    return 1 + (2 * copy - counts + 1) / (2 * counts)
