"""A checkpoint that goes into `load_state_dict`: what else it holds as data, and its weights as plain tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.reading.archive import read_archive
from lightning_autoarch.reading.tensors import check_sizes, plain_tensor


def read_with_weights(path: Path) -> Mapping[str, Any]:
    """What a file of `torch.save` holds; its "state_dict", or else all of it, has plain tensors that fit its size.

    Raises:
        CheckpointError: not there, broken, or with anything in it that is not data.
    """
    if not os.path.isfile(path):  # `Path.is_file` raises for a name that no file can have
        raise CheckpointError(f"Expected a checkpoint at {path}, got no file there.")
    return with_plain_weights(read_archive(path), str(path), path.stat().st_size)


def with_plain_weights(content: object, origin: str, size: int) -> Mapping[str, Any]:
    """The same for what was read already from a file of `size` bytes."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"Expected a dict of tensors in {origin}, got {shown(content)}.")
    tensors = {
        name: plain_tensor(name, value, origin, from_file=True)
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    check_sizes(tensors, origin, size)
    plain = {**state, **tensors}
    if state is content:
        return plain
    assert isinstance(content, Mapping)
    return {**content, "state_dict": plain}
