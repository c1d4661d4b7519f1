"""`fine_tune`: take weights over, validate, train as a `TransferLearning` says, validate again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from lightning_autoarch.callbacks.scores import Scores, validated
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.callbacks.transfer.lora import merge_lora
from lightning_autoarch.callbacks.transfer.tuning_run import Block
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.seam.lightning import callbacks_of
from lightning_autoarch.transfer.transfer_report import TransferReport


@dataclass(frozen=True)
class FineTuned:
    """The result of `fine_tune`.

    Attributes:
        report: What was taken over; None if the module already had its weights.
        before: What validation logged before any training.
        after: What validation logged after it.
        blocks: How each block of layers was trained.
    """

    report: TransferReport | None
    before: Scores
    after: Scores
    blocks: tuple[Block, ...] = ()


def fine_tune(
    trainer: Trainer,
    module: LightningModule,
    datamodule: LightningDataModule | None = None,
) -> FineTuned:
    """Take weights over, validate, train, validate again. Adapters are merged into the weights at the end.

    Args:
        trainer: A Trainer with one `TransferLearning` among its callbacks.
        module: The module to fine-tune.
        datamodule: Its data; None if the module has them.

    Raises:
        TransferError: There is no `TransferLearning`, or it raises.
    """
    callbacks = callbacks_of(trainer)
    transfer = _only_one(callbacks)
    earlier = _Earlier(transfer)
    callbacks.insert(0, earlier)
    try:
        before = validated(trainer, module, datamodule)
        trainer.fit(module, datamodule=datamodule)
    finally:
        callbacks.remove(earlier)
    after = validated(trainer, module, datamodule)
    if transfer.strategy == "lora":
        merge_lora(module)
    return FineTuned(transfer.report, before, after, transfer.blocks)


class _Earlier(Callback):
    """Lets a validation before the fit see the weights that the fit starts from."""

    def __init__(self, transfer: TransferLearning) -> None:
        self._transfer = transfer

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._transfer.take_over(trainer, pl_module)


def _only_one(callbacks: Sequence[Callback]) -> TransferLearning:
    found = [callback for callback in callbacks if isinstance(callback, TransferLearning)]
    if len(found) != 1:
        raise TransferError(f"Expected one TransferLearning among the Trainer's callbacks, got {len(found)}.")
    return found[0]
