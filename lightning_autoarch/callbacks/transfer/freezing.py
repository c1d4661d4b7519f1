"""What requires a gradient in which phase, and which norms are held in eval meanwhile. At the end all is put back.

`prepare`, before optimizers and DDP are made, lets everything require a gradient that is ever trained. `apply` is a
function of the phase alone, which the clock of the fit knows (see `transfer/tune/clock.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn import Parameter

from lightning_autoarch.transfer.patterns import Names
from lightning_autoarch.transfer.tune.norms import HeldInEval
from lightning_autoarch.transfer.tune.thawing import Thaw, is_frozen


class Freezing:
    """Freezes the parameters of a module, and thaws them.

    Args:
        module: norms are looked for in it anew each time, as SyncBatchNorm takes the place of another.
        parameters: name -> parameter.
        thaw: of each, and of norms without any, the phase from which on it is trained.
        dropout: whether frozen layers drop out as the others do; otherwise all of them are held in eval.
    """

    def __init__(
        self, module: nn.Module, parameters: Mapping[str, Parameter], thaw: Thaw, *, dropout: bool = True
    ) -> None:
        self._module, self._parameters, self._thaw, self._dropout = module, parameters, thaw, dropout
        self._required = {name: parameter.requires_grad for name, parameter in parameters.items()}
        self._training = {path: norm.training for path, (norm, _) in Names(module).norms.items()}
        self._held: dict[str, HeldInEval] = {}

    def prepare(self) -> None:
        """Before optimizers are made."""
        for name, parameter in self._parameters.items():
            _require(parameter, self._thaw[name] is not None)

    def apply(self, phase: int) -> bool:
        """As a phase has it; returns whether a parameter has changed."""
        changed = [
            _require(parameter, not is_frozen(self._thaw[name], phase)) for name, parameter in self._parameters.items()
        ]
        for path, (norm, units) in Names(self._module).norms.items():
            if all(is_frozen(self._thaw[unit], phase) for unit in units):
                self._hold(path, norm)
            else:
                self._release(path)
        if not self._dropout:
            self._still(phase)
        return any(changed)

    def thawed_later(self) -> list[Parameter]:
        """What is frozen now, but not in every phase."""
        return [p for name, p in self._parameters.items() if self._thaw[name] is not None and not p.requires_grad]

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

    def _still(self, phase: int) -> None:
        """Hold layers in eval of which everything is frozen, and those without parameters that belong to them."""
        frozen = {id(p) for name, p in self._parameters.items() if is_frozen(self._thaw[name], phase)}
        norms = {id(norm) for norm, _ in Names(self._module).norms.values()}
        still: dict[str, bool] = {}
        before: dict[str, bool] = {}  # path of a module -> whether the last of its children so far is still
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
    """Set `requires_grad`; returns whether that is a change. What stops to train loses its gradient."""
    if parameter.requires_grad == required:
        return False
    parameter.requires_grad_(required)
    if not required:
        parameter.grad = None
    return True
