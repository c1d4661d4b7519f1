"""What requires a gradient in which epoch, and which norms are held in eval meanwhile. At the end all is put back.

`prepare`, before optimizers and DDP are made, lets everything require a gradient that is ever trained. `apply` is a
function of the epoch alone: so a resumed fit needs no memory of what was frozen.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn import Parameter

from lightning_autoarch.transfer.norms import HeldInEval
from lightning_autoarch.transfer.patterns import Names
from lightning_autoarch.transfer.thawing import Thaw, is_frozen


class Freezing:
    """Freezes the parameters of a module, and thaws them.

    Args:
        module: norms are looked for in it anew each time, as SyncBatchNorm takes the place of another.
        parameters: name -> parameter.
        thaw: of each, and of norms without any, the epoch from which it is trained.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, Parameter], thaw: Thaw) -> None:
        self._module, self._parameters, self.thaw = module, parameters, thaw
        self._required = {name: parameter.requires_grad for name, parameter in parameters.items()}
        self._training = {path: norm.training for path, (norm, _) in Names(module).norms.items()}
        self._held: dict[str, HeldInEval] = {}

    def prepare(self) -> None:
        """Before optimizers are made."""
        for name, parameter in self._parameters.items():
            _require(parameter, self.thaw[name] is not None)

    def apply(self, epoch: int) -> bool:
        """As an epoch has it; returns whether a parameter has changed."""
        changed = [
            _require(parameter, not is_frozen(self.thaw[name], epoch)) for name, parameter in self._parameters.items()
        ]
        for path, (norm, units) in Names(self._module).norms.items():
            if all(is_frozen(self.thaw[unit], epoch) for unit in units):
                self._hold(path, norm)
            else:
                self._release(path)
        return any(changed)

    def thawed_later(self) -> list[Parameter]:
        """What is frozen now, but not in every epoch."""
        return [p for name, p in self._parameters.items() if self.thaw[name] is not None and not p.requires_grad]

    def show(self) -> None:
        """Let what is held say so: `training` is False. Not before a fit starts, which warns of modules in eval."""
        for held in self._held.values():
            held.norm.training = False

    def restore(self) -> None:
        """As it was before the fit."""
        for name, parameter in self._parameters.items():
            _require(parameter, self._required[name])
        for path in list(self._held):
            self._release(path)

    def _hold(self, path: str, norm: nn.Module) -> None:
        if path not in self._held or self._held[path].norm is not norm:
            self._held[path] = HeldInEval(norm)

    def _release(self, path: str) -> None:
        if path in self._held:
            held = self._held.pop(path)
            held.release()
            held.norm.train(self._training.get(path, True))


def _require(parameter: Parameter, required: bool) -> bool:
    """Set `requires_grad`; returns whether that is a change. What stops to train loses its gradient."""
    if parameter.requires_grad == required:
        return False
    parameter.requires_grad_(required)
    if not required:
        parameter.grad = None
    return True
