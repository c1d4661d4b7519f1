"""One forward that really computes, after which nothing is different."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.calls import run_on
from lightning_autoarch.structure.rest import left_as_it_was


def rehearse(module: nn.Module, example_inputs: Any) -> None:
    """Run the forward as it is, fused kernels and all; buffers, attributes, inputs and random state are put back.

    Raises:
        StructureError: the forward raised.
    """
    given = tree_map_only(Tensor, torch.clone, example_inputs)
    with left_as_it_was(module), torch.no_grad():
        try:
            run_on(module, given)
        except Exception as error:
            raise StructureError(f"The forward of the resized module raised {type(error).__name__}: {error}") from error
