"""What a weight is worth: the less, the sooner it is pruned. None stands for its magnitude, which needs no memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_autoarch.prune.errors import PruneValueError

Criterion = Literal["magnitude", "gradient", "random"]
CRITERIA = ("magnitude", "gradient", "random")


def required_gradients(names: Sequence[str], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of the last backward pass.

    Raises:
        PruneValueError: a parameter has none; it is named.
    """
    for name, parameter in zip(names, parameters, strict=True):
        if parameter.grad is None:
            raise PruneValueError(
                f"`{name}` has no gradient at the optimizer step, by which weights are compared: it takes no part "
                "in the loss. Leave it out by `exclude`."
            )
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def gradient_scores(names: Sequence[str], parameters: Sequence[Tensor]) -> list[Tensor]:
    """|w g|: what the loss changes by, to first order, when w becomes 0 (Molchanov et al. 2017, equation 6).

    Raises:
        PruneValueError: a parameter has no gradient; it is named.
    """
    gradients = required_gradients(names, parameters)
    return [(parameter * grad).abs() for parameter, grad in zip(parameters, gradients, strict=True)]


def random_scores(parameters: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Uniform numbers, one sequence for one seed on every device and in every process; torch's generators stay."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(p.shape, generator=generator).to(p.device) for p in parameters]
