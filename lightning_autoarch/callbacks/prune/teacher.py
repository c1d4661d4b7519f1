"""The teacher of a distillation: a frozen copy that shares nothing with the module that learns from it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_autoarch.callbacks.prune.distilled_step import Given
from lightning_autoarch.core.errors import CheckpointError, PruneTypeError, PruneValueError, shown
from lightning_autoarch.core.rest import detached_copy
from lightning_autoarch.reading.archive import read_with_weights, with_plain_weights
from lightning_autoarch.seam.lightning import load


def make_teacher(module: LightningModule, given: Given, layer: str) -> nn.Module:
    """A teacher in eval mode, without gradients, on the module's device.

    Args:
        module: the student; its `layer` is taught, or all of it if `layer` is "".
        given: None: the teacher is a copy of the layer; a path: a copy with the weights of a checkpoint; a
            LightningModule: a copy of its `layer`; any other module: a copy of this module.
        layer: name of a submodule, or "".

    Raises:
        PruneTypeError, PruneValueError: the module cannot be copied; the checkpoint cannot be read, or belongs to
            another module.
    """
    if given is None:
        teacher = _copied(module.get_submodule(layer))
    elif isinstance(given, LightningModule):
        teacher = _copied(_part(given, layer))
    elif isinstance(given, nn.Module):
        teacher = _copied(given)
    else:
        teacher = _loaded(_copied(module), given).get_submodule(layer)
    return teacher.requires_grad_(False).eval().to(module.device)


def _copied(module: nn.Module) -> nn.Module:
    try:
        twin = detached_copy(module)
    except Exception as error:  # whatever an attribute of the user's raises
        raise PruneTypeError(
            f"{type(module).__name__} cannot be copied as a teacher: {error} Pass a `teacher` of its own, or name by "
            "`layer` the submodule that computes the output."
        ) from error
    for child in twin.modules():
        if child._compiled_call_impl is not None:
            child._compiled_call_impl = None  # it would call the module that was copied
        if isinstance(child, LightningModule):
            child.log = child.log_dict = _nothing  # type: ignore[method-assign]  # it has no Trainer
    return twin


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Takes the place of logging."""


def _part(module: LightningModule, layer: str) -> nn.Module:
    try:
        return module.get_submodule(layer)
    except AttributeError as error:
        raise PruneValueError(
            f"The teacher {type(module).__name__} has no `{layer}`. Pass the submodule that is the teacher itself."
        ) from error


def _loaded(module: nn.Module, path: str | Path) -> nn.Module:
    """The module with the weights of a Lightning checkpoint or a state_dict. No code in the file is run."""
    try:
        checkpoint = _content(path)
    except CheckpointError as error:
        raise PruneValueError(
            f"The teacher's checkpoint cannot be read: {error} If you trust it, load it yourself: "
            "`teacher=MyModule.load_from_checkpoint(path)`."
        ) from error
    except OSError as error:
        raise PruneValueError(f"The teacher's checkpoint cannot be read: {error}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise PruneValueError(
            f"{path} is no checkpoint that torch loads with `weights_only=True`. If you trust it, load it yourself: "
            "`teacher=MyModule.load_from_checkpoint(path)`."
        ) from error
    weights = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else {}
    try:
        module.load_state_dict(weights)
    except Exception as error:  # `_load_from_state_dict` and hooks of the user's module may raise anything
        raise PruneValueError(
            f"{path} holds the weights of another module: {type(error).__name__}: {shown(str(error), 1000)} "
            "Pass a teacher of another architecture as a module."
        ) from error
    return module


def _content(path: str | Path) -> Mapping[str, Any]:
    if "://" not in str(path):
        return read_with_weights(Path(path))
    held = load(path, weights_only=True)  # through Lightning: a bucket of a cloud
    return with_plain_weights(held, str(path), 0)


def to_precision_of(teacher: nn.Module, module: nn.Module) -> nn.Module:
    """The teacher in the dtype of the module's parameters, if they all have one other than float32 ("bf16-true")."""
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    return teacher.to(dtypes.pop()) if len(dtypes) == 1 and torch.float32 not in dtypes else teacher
