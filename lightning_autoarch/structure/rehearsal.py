"""One forward that really computes, after which nothing is different."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lightning_autoarch.errors import StructureError
from lightning_autoarch.structure.scene import attributes_kept


def rehearse(module: nn.Module, example_inputs: Any) -> None:
    """Run the forward as it is, fused kernels and all; buffers, attributes, inputs and random state are put back.

    Raises:
        StructureError: the forward raised.
    """
    given = tree_map_only(Tensor, torch.clone, example_inputs)
    kwargs = given if isinstance(given, dict) else {}
    args = () if isinstance(given, dict) else given if isinstance(given, (tuple, list)) else (given,)
    devices = {p.device.index for p in module.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), attributes_kept(module), _buffers_kept(module), torch.no_grad():
        try:
            module(*args, **kwargs)
        except Exception as error:
            raise StructureError(f"The forward of the resized module raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
