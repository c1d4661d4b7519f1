"""What requires a gradient in which phase, and which norms are in eval mode meanwhile. It is all undone at the end.

Before optimizers and DDP are made, `prepare` lets everything that is ever trained require a gradient. `apply` is a
function of the phase alone, which the clock of the fit knows (see `transfer/tune/clock.py`).

DistributedDataParallel decides when it is made which gradients it averages. What thaws later would be trained on each
rank separately, and what freezes later would be waited for. So it is made again whenever `requires_grad` changes,
between two steps: nothing frozen is averaged, and neither `find_unused_parameters` nor a static graph is affected.
Every rank does so before the same batch, and receives the weights of rank 0 once more.
"""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from lightning_autoarch.callbacks.sharding import SHARDED
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.tune.thawing import Thaw, is_frozen
from lightning_autoarch.transfer.tune.trainable import HeldInEval, TrainableNames


class Freezing:
    """Freezes the parameters of a module, and thaws them.

    Args:
        module: The module. Its norms are looked up each time, because SyncBatchNorm may replace them.
        parameters: Name -> parameter.
        thaw: The phase from which on each parameter, and each norm without parameters, is trained.
        dropout: Whether dropout in frozen layers stays active; otherwise frozen layers are in eval mode.
    """

    def __init__(
        self, module: nn.Module, parameters: Mapping[str, Parameter], thaw: Thaw, *, dropout: bool = True
    ) -> None:
        self._module, self._parameters, self._thaw, self._dropout = module, parameters, thaw, dropout
        self._required = {name: parameter.requires_grad for name, parameter in parameters.items()}
        self._training = {path: norm.training for path, (norm, _) in TrainableNames(module).norms.items()}
        self._held: dict[str, HeldInEval] = {}

    def prepare(self) -> None:
        """Let everything that is ever trained require a gradient, before optimizers are made."""
        for name, parameter in self._parameters.items():
            _require(parameter, self._thaw[name] is not None)

    def apply(self, phase: int) -> bool:
        """Freeze and thaw for a phase; returns whether a parameter has changed."""
        changed = [
            _require(parameter, not is_frozen(self._thaw[name], phase)) for name, parameter in self._parameters.items()
        ]
        for path, (norm, units) in TrainableNames(self._module).norms.items():
            if all(is_frozen(self._thaw[unit], phase) for unit in units):
                self._hold(path, norm)
            else:
                self._release(path)
        if not self._dropout:
            self._still(phase)
        return any(changed)

    def thawed_later(self) -> list[Parameter]:
        """Parameters that are frozen now, but not in every phase."""
        return [p for name, p in self._parameters.items() if self._thaw[name] is not None and not p.requires_grad]

    def show(self) -> None:
        """Set `training` of frozen layers to False; not before a fit starts, when Lightning warns about eval mode."""
        for held in self._held.values():
            held.norm.training = False

    def restore(self) -> None:
        """Put everything back as it was before the fit."""
        for name, parameter in self._parameters.items():
            _require(parameter, self._required[name])
        for path in list(self._held):
            self._release(path)

    def _still(self, phase: int) -> None:
        """Put layers into eval mode if everything in them is frozen, and layers without parameters behind them."""
        frozen = {id(p) for name, p in self._parameters.items() if is_frozen(self._thaw[name], phase)}
        norms = {id(norm) for norm, _ in TrainableNames(self._module).norms.values()}
        still: dict[str, bool] = {}
        before: dict[str, bool] = {}  # path of a module -> whether the last of its children so far is in eval mode
        for path, layer in self._module.named_modules():
            outer, own = path.rpartition(".")[0], list(layer.parameters())
            without = bool(path) and (still[outer] or before.get(outer, False))
            still[path] = before[outer] = all(id(p) in frozen for p in own) if own else without
            if id(layer) in norms:
                continue
            if still[path]:
                self._training.setdefault(path, layer.training)
                self._hold(path, layer)
            else:
                self._release(path)

    def _hold(self, path: str, norm: nn.Module) -> None:
        if path not in self._held or self._held[path].norm is not norm:
            self._held[path] = HeldInEval(norm)

    def _release(self, path: str) -> None:
        if path in self._held:
            held = self._held.pop(path)
            held.release()
            held.norm.training = self._training.get(path, True)


def _require(parameter: Parameter, required: bool) -> bool:
    """Set `requires_grad`; returns whether that is a change. What is frozen loses its gradient."""
    if parameter.requires_grad == required:
        return False
    parameter.requires_grad_(required)
    if not required:
        parameter.grad = None
    return True


def wrap_again(trainer: Trainer, module: LightningModule) -> None:
    """Make DDP again, so that it sees which parameters require a gradient now. Does nothing without DDP."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        # The old one may live on in a reference cycle.
        strategy.model._remove_autograd_hooks()  # type: ignore[no-untyped-call]
        strategy.model = module
        strategy.configure_ddp()


def check_strategy(callback: Callback, trainer: Trainer) -> None:
    """Raise TransferError if the strategy shards parameters."""
    if isinstance(trainer.strategy, SHARDED):
        raise TransferError(
            f"{type(callback).__name__} needs whole parameters in every process, but "
            f"{type(trainer.strategy).__name__} shards them. Train with `strategy='ddp'`, or on one device."
        )
