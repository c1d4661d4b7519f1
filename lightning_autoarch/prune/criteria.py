"""What a weight is worth: the less, the sooner it is pruned. None stands for its magnitude, which needs no memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError

Criterion = Literal["magnitude", "gradient", "random"]
CRITERIA = ("magnitude", "gradient", "random")


def gradient_score(parameter: Tensor, gradient: Tensor) -> Tensor:
    """|w g|: what the loss changes by, to first order, when w becomes 0 (Molchanov et al. 2017, equation 6)."""
    return (parameter.detach() * gradient.detach()).abs()


def of_all(names: Sequence[str], found: Mapping[str, Tensor]) -> list[Tensor]:
    """What was made of the gradients, in the order of the names.

    Raises:
        PruneValueError: there was no gradient for one; it is named.
    """
    for name in names:
        if name not in found:
            raise PruneValueError(
                f"`{name}` has no gradient at the optimizer step, by which weights are compared: it takes no part in "
                "the loss, or its optimizer did not step with that of the others. Leave it out by `exclude`, or give "
                "the weights of each optimizer a callback of their own, by `targets` and `name`."
            )
    return [found[name] for name in names]


def random_scores(parameters: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Uniform numbers, one sequence for one seed on every device and in every process; torch's generators stay."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(p.shape, generator=generator).to(p.device) for p in parameters]
