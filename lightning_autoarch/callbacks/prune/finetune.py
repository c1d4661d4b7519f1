"""Pruning of a module that was trained before: weights are loaded, validated, trained on under pruning callbacks."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.errors import CheckpointError
from lightning_autoarch.prune.optional import MissingPackageError
from lightning_autoarch.prune.sparse_file import save_sparse
from lightning_autoarch.transfer.checkpoint import read_checkpoint

Scores = Mapping[str, float]  # what validation logged; empty where there is none


@dataclass(frozen=True)
class Layer:
    """A target of pruning: how many of its weights are kept."""

    name: str
    n_weights: int
    n_kept: int


@dataclass(frozen=True)
class Pruned:
    """What came of it."""

    before: Scores
    after: Scores
    layers: tuple[Layer, ...]


def load_weights(module: LightningModule, path: str | Path) -> None:
    """All weights of the module, from a checkpoint of any kind that `read_checkpoint` knows.

    Raises:
        CheckpointError: it cannot be read, or is of another module; nothing is changed.
    """
    state: dict[str, Tensor] = dict(read_checkpoint(path))
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, shape in own.items():
        if name not in state or state[name].shape != shape:
            got = f"{tuple(state[name].shape)}" if name in state else "none"
            raise CheckpointError(f"Expected `{name}` of shape {tuple(shape)} in {path}, got {got}: of another module.")
    if strange := [name for name in state if name not in own]:
        raise CheckpointError(f"{path} has `{strange[0]}`, which {type(module).__name__} has not: of another module.")
    module.load_state_dict(state)


def prune_trained(
    trainer: Trainer,  # with pruning callbacks
    module: LightningModule,
    datamodule: LightningDataModule | None,
) -> Pruned:
    """Validate, train on while pruning, validate again."""
    before = _validated(trainer, module, datamodule)
    trainer.fit(module, datamodule=datamodule)
    after = _validated(trainer, module, datamodule)
    return Pruned(before, after, tuple(_layers(trainer.callbacks)))  # type: ignore[attr-defined]


def sizes_on_disk(module: LightningModule, checkpoint: Path) -> dict[str, int]:
    """Of a checkpoint, and of its weights in a `.sparse.safetensors` file where safetensors is installed; bytes."""
    sizes = {"dense": checkpoint.stat().st_size}
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(MissingPackageError):
        file = Path(directory) / "weights.sparse.safetensors"
        save_sparse(module.state_dict(), file)
        sizes["sparse"] = file.stat().st_size
    return sizes


def _layers(callbacks: Iterable[Callback]) -> Iterator[Layer]:
    for callback in callbacks:
        if isinstance(callback, MaskedTraining):
            yield from (Layer(name, mask.numel, mask.count()) for name, mask in callback.masks.items())


def _validated(trainer: Trainer, module: LightningModule, datamodule: LightningDataModule | None) -> Scores:
    source = module if datamodule is None else datamodule
    if not is_overridden("validation_step", module) or not is_overridden("val_dataloader", source):
        return {}
    scores: dict[str, float] = {}
    for logged in trainer.validate(module, datamodule=datamodule, verbose=False):
        scores |= logged
    return scores
