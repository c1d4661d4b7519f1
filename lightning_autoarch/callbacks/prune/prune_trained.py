"""Pruning of a trained module: load its weights, validate, train on with pruning callbacks, validate again."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.costs import Costs, FirstBatch, compared, copied, stored
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.callbacks.scores import Scores, validated
from lightning_autoarch.core.errors import CheckpointError, MissingPackageError, shown
from lightning_autoarch.seam.lightning import callbacks_of
from lightning_autoarch.training.sparse_file import save_sparse
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint

MASKS_ARE_NOT_FAST = "Zeros under masks make no forward faster: torch multiplies with them too. They make files small."


@dataclass(frozen=True)
class Layer:
    """How many weights of a layer, or of a target of pruning, are kept."""

    name: str
    n_weights: int
    n_kept: int


@dataclass(frozen=True)
class Pruned:
    """The result of `prune_trained`.

    Attributes:
        before, after: the metrics that validation logged.
        layers: the masked targets.
        resized: the parameters of each layer, if channels were removed.
        costs: of the dense module and of the pruned one; None if they were not measured.
        notes: sentences on how they were measured.
    """

    before: Scores
    after: Scores
    layers: tuple[Layer, ...] = ()
    resized: tuple[Layer, ...] = ()
    costs: tuple[Costs, Costs] | None = None
    notes: tuple[str, ...] = ()


def load_weights(module: LightningModule, path: str | Path) -> None:
    """Load all weights of the module from a checkpoint of any kind that `read_checkpoint` knows.

    Raises:
        CheckpointError: it cannot be read, or belongs to another module; nothing is changed.
    """
    state: dict[str, Tensor] = dict(read_checkpoint(path))
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, shape in own.items():
        if name not in state or state[name].shape != shape:
            got = f"{tuple(state[name].shape)}" if name in state else "none"
            raise CheckpointError(
                f"Expected `{shown(name)}` of shape {tuple(shape)} in {path}, got {got}: it belongs to another module."
            )
    if strange := [name for name in state if name not in own]:
        raise CheckpointError(
            f"{path} has `{shown(strange[0])}`, which {type(module).__name__} does not have: it belongs to another "
            "module."
        )
    try:
        module.load_state_dict(state)
    except Exception as error:  # `_load_from_state_dict` and hooks of the user's module may raise anything
        raise CheckpointError(
            f"The weights of {path} are not those of {type(module).__name__}: {type(error).__name__}: "
            f"{shown(str(error), 1000)}"
        ) from error


def prune_trained(
    trainer: Trainer,  # with pruning callbacks
    module: LightningModule,
    datamodule: LightningDataModule | None = None,
) -> Pruned:
    """Validate, train on while pruning, and validate again; with parameters, FLOPs and latency before and after.

    A copy of the dense module is kept, so that both can be run in turns at the end.
    """
    (dense, unknown), was, sizes = copied(module), stored(module), _parameters(module)
    first = FirstBatch()
    with first.listening(trainer):
        before = validated(trainer, module, datamodule)
        trainer.fit(module, datamodule=datamodule)
    after = validated(trainer, module, datamodule)
    layers = tuple(_layers(callbacks_of(trainer)))
    resized = tuple(_resized(sizes, _parameters(module))) if recipes(trainer) else ()
    costs, notes = compared(trainer, [*dense, module], first)
    notes += unknown + ([MASKS_ARE_NOT_FAST] if layers else [])
    return Pruned(before, after, layers, resized, (costs[0] if dense else was, costs[-1]), tuple(notes))


def save_pruned(trainer: Trainer, path: Path) -> None:
    """Save weights and hyperparameters, and if channels were removed the recipe that `load_pruned` needs."""
    removed = recipes(trainer)
    with _added_to_checkpoints(trainer.lightning_module, {"callbacks": removed} if removed else {}):
        trainer.save_checkpoint(path, weights_only=True)


@contextlib.contextmanager
def _added_to_checkpoints(module: LightningModule, entries: Mapping[str, Any]) -> Iterator[None]:
    """Within the context, checkpoints of the module have these entries too; the module's own hook runs first."""
    own, was_on_instance = module.on_save_checkpoint, "on_save_checkpoint" in module.__dict__

    def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
        own(checkpoint)
        checkpoint.update(entries)

    module.on_save_checkpoint = on_save_checkpoint  # type: ignore[method-assign]
    try:
        yield
    finally:
        if was_on_instance:
            module.on_save_checkpoint = own  # type: ignore[method-assign]
        else:
            del module.on_save_checkpoint


def sizes_on_disk(
    module: LightningModule,
    checkpoint: Path,
    dense: Costs | None = None,  # of the module before
) -> dict[str, int]:
    """Bytes of a checkpoint, and of its weights in a `.sparse.safetensors` file if safetensors is installed.

    "before" is the size that the checkpoint would have with the weights of `dense`.
    """
    sizes = {"dense": checkpoint.stat().st_size}
    if dense is not None:
        sizes["before"] = sizes["dense"] + dense.size - stored(module).size
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(MissingPackageError):
        file = Path(directory) / "weights.sparse.safetensors"
        save_sparse(module.state_dict(), file)
        sizes["sparse"] = file.stat().st_size
    return sizes


def recipes(trainer: Trainer) -> dict[str, Any]:
    """The states of callbacks that removed channels, by their keys in a checkpoint."""
    found = [cb for cb in callbacks_of(trainer) if isinstance(cb, ChannelPruning)]
    return {callback.state_key: callback.state_dict() for callback in found if callback.recipe}


def _layers(callbacks: Iterable[Callback]) -> Iterator[Layer]:
    for callback in callbacks:
        if isinstance(callback, MaskedTraining):
            yield from (Layer(name, mask.numel, mask.count()) for name, mask in callback.masks.items())


def _parameters(module: nn.Module) -> dict[str, int]:
    """The number of parameters of each layer that has any of its own."""
    own = {path: [p.numel() for p in layer.parameters(recurse=False)] for path, layer in module.named_modules()}
    return {path or "(itself)": sum(numels) for path, numels in own.items() if numels}


def _resized(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Layer]:
    yield from (Layer(name, n, after.get(name, 0)) for name, n in before.items())
