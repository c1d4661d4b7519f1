"""Why a candidate cannot be trained with the parameters of its callback, as far as that is known before."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from lightning_autoarch.callbacks.joint.names import with_parameters
from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.callbacks.transfer.lora import MISSING
from lightning_autoarch.transfer.read.remote import is_remote


def why_not(callback: Callback, parameters: Mapping[str, Any]) -> str | None:
    """Why it cannot be made with these parameters (without prefix), or be of use in a trial; None where it can."""
    try:
        made = with_parameters(callback, parameters)
    except (ValueError, TypeError) as error:
        return str(error)
    return next(iter(obstacles(made).values()), None)


def obstacles(callback: Callback) -> dict[str, str]:
    """What would end a trial for nothing: name of the argument that is at fault -> why."""
    if isinstance(callback, ChannelPruning) and callback.is_after:
        return {"at": "ChannelPruning at the end of a trial comes behind its last score: give `at` below 1.0"}
    if _has_adapters(callback) and importlib.util.find_spec("peft") is None:
        return {"strategy": MISSING}
    if isinstance(callback, TransferLearning):
        source = callback.checkpoint
        if isinstance(source, str | os.PathLike) and not _is_there(os.fspath(source)):
            return {"checkpoint": f"Expected a checkpoint at {source}, got nothing there"}
    return {}


def reshapes(callback: Callback) -> bool:
    """Whether weights of a module that is trained with it do not fit into one without.

    Those of one with adapters do: they are saved as what they add up to.
    """
    return isinstance(callback, ChannelPruning)


def reshapes_before_training(callback: Callback) -> bool:
    """Whether a module that is trained with it takes no weights of one without."""
    return isinstance(callback, ChannelPruning) and callback.is_before


def _has_adapters(callback: Callback) -> bool:
    return isinstance(callback, TransferLearning) and callback.recipe.strategy == "lora"


def _is_there(source: str) -> bool:
    return is_remote(source) or Path(source).expanduser().exists()
