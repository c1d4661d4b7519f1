"""Penalties on weights: the value, the gradient, and the proximal step of each.

    penalty        P(w)               a subgradient of P               prox_aP(w) = argmin_v |v - w|^2 / 2 + a P(v)
    L1             |w|_1              sign(w), 0 at 0                  sign(w) max(|w| - a, 0)
    SquaredL2      |w|_2^2            2 w                              w / (1 + 2 a)
    Groups         sum_g |w_g|_2      w_g / |w_g|_2, 0 at 0            w_g max(1 - a / |w_g|_2, 0)

A proximal gradient step with learning rate lr and weight c of the penalty is w <- prox_{lr c P}(w - lr grad) (Parikh &
Boyd, "Proximal Algorithms", 2014, section 4.2). L1: Tibshirani 1996. Groups: Yuan & Lin 2006, without their factor of
the square root of a group's size. The proximal steps of L1 and Groups reach zero; subgradients only approach it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune.counts import non_negative
from lightning_autoarch.prune.regularize import group_norms, group_soft_threshold_, soft_threshold_


class Penalty(ABC):
    """A convex function of a weight tensor, with its minimum at 0."""

    sparse: bool  # whether the proximal step reaches zero

    @abstractmethod
    def value(self, weight: Tensor) -> Tensor:  # without dimensions; float64 for float64, else float32
        """P(weight)."""

    @abstractmethod
    def gradient(self, weight: Tensor) -> Tensor:  # of the weight's shape and dtype
        """The gradient of P; where it has none, 0, which is a subgradient."""

    @abstractmethod
    def proximal_(self, weights: Sequence[Tensor], amounts: Sequence[float]) -> None:
        """Replace each weight by prox_{a P}(weight). The tensors have one dtype and device, and a >= 0."""

    def check(self, weight: Tensor, name: str) -> None:
        """Raises PruneValueError if the penalty is not defined for a tensor of this shape."""
        return


@dataclass(frozen=True)
class L1(Penalty):
    """Sum of the magnitudes.

    >>> weight = torch.tensor([1.0, -0.25, 0.0])
    >>> L1().value(weight), L1().gradient(weight)
    (tensor(1.2500), tensor([ 1., -1.,  0.]))
    >>> L1().proximal_([weight], [0.5])
    >>> weight
    tensor([0.5000, 0.0000, 0.0000])
    """

    sparse = True

    def value(self, weight: Tensor) -> Tensor:
        return _norm(weight, 1)

    def gradient(self, weight: Tensor) -> Tensor:
        return weight.detach().sign()

    def proximal_(self, weights: Sequence[Tensor], amounts: Sequence[float]) -> None:
        soft_threshold_(weights, amounts)


@dataclass(frozen=True)
class SquaredL2(Penalty):
    """Sum of the squares; its proximal step divides, and is decoupled weight decay to first order in the amount.

    >>> weight = torch.tensor([3.0, -1.0])
    >>> SquaredL2().value(weight), SquaredL2().gradient(weight)
    (tensor(10.), tensor([ 6., -2.]))
    >>> SquaredL2().proximal_([weight], [0.5])
    >>> weight
    tensor([ 1.5000, -0.5000])
    """

    sparse = False

    def value(self, weight: Tensor) -> Tensor:
        return _norm(weight, 2).square()

    def gradient(self, weight: Tensor) -> Tensor:
        return 2 * weight.detach()

    def proximal_(self, weights: Sequence[Tensor], amounts: Sequence[float]) -> None:
        for weight, amount in zip(weights, amounts, strict=True):
            weight.detach().mul_(1 / (1 + 2 * non_negative(amount, "amounts")))


@dataclass(frozen=True)
class Groups(Penalty):
    """Sum of the 2-norms of the slices along `dim`: with 0 of a Linear or Conv, one group is a neuron or a channel.

    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    >>> Groups().value(weight)
    tensor(6.)
    >>> Groups().gradient(weight)
    tensor([[0.6000, 0.8000],
            [0.0000, 1.0000],
            [0.0000, 0.0000]])
    >>> Groups().proximal_([weight], [2.5])
    >>> weight
    tensor([[1.5000, 2.0000],
            [0.0000, 0.0000],
            [0.0000, 0.0000]])
    """

    dim: int = 0
    sparse = True

    def value(self, weight: Tensor) -> Tensor:
        return group_norms([weight], 2, self.dim)[0].sum()

    def gradient(self, weight: Tensor) -> Tensor:
        norms = group_norms([weight], 2, self.dim)[0]
        shape = [-1 if d == self.dim % weight.dim() else 1 for d in range(weight.dim())]
        divisors = torch.where(norms == 0, 1, norms).view(shape)
        return (weight.detach().to(norms.dtype) / divisors).to(weight.dtype)

    def proximal_(self, weights: Sequence[Tensor], amounts: Sequence[float]) -> None:
        group_soft_threshold_(weights, amounts, self.dim)

    def check(self, weight: Tensor, name: str) -> None:
        if not -weight.dim() <= self.dim < weight.dim():
            raise PruneValueError(
                f"Expected `dim` to be a dimension of every target, got {self.dim} for `{name}` of shape "
                f"{tuple(weight.shape)}. Leave it out with `exclude`."
            )


def _norm(weight: Tensor, p: int) -> Tensor:
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    norm: Tensor = torch.linalg.vector_norm(weight.detach(), p, dtype=dtype)
    return norm
