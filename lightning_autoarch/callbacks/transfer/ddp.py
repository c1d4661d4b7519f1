"""DistributedDataParallel decides when it is made which gradients it averages: those of what requires one then.

What thaws later would train on each rank by itself, and what freezes later would be waited for. So it is made anew when
`requires_grad` changes, between two steps: nothing is averaged that is frozen, and neither `find_unused_parameters`
nor a static graph needs a thought. Every rank does so before the same batch, and gets rank 0's weights once more.
"""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from lightning_autoarch.callbacks.sharding import SHARDED
from lightning_autoarch.core.errors import TransferError


def wrap_again(trainer: Trainer, module: LightningModule) -> None:
    """Let DDP see which parameters require a gradient now; nothing where there is no DDP."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        # Of the one that goes, which may live on in a cycle.
        strategy.model._remove_autograd_hooks()  # type: ignore[no-untyped-call]
        strategy.model = module
        strategy.configure_ddp()


def check_strategy(callback: Callback, trainer: Trainer) -> None:
    """Raises TransferError where the strategy shards parameters."""
    if isinstance(trainer.strategy, SHARDED):
        raise TransferError(
            f"{type(callback).__name__} needs whole parameters in every process, but "
            f"{type(trainer.strategy).__name__} shards them. Train with `strategy='ddp'`, or on one device."
        )
