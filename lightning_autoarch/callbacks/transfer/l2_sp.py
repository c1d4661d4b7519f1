"""The weights that fine-tuning began with, and the pull towards them (equation in `transfer/tune/rates.py`).

They are part of the callback's state: a checkpoint grows by them, and a resumed fit needs no file but itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.tune.rates import l2_sp_gradient_, l2_sp_value


class StartingPoint:
    """Copies of parameters.

    Args:
        weight: of the penalty.
        start: name -> weights; None takes those that `parameters` have.
        parameters: name -> parameter.
    """

    def __init__(self, weight: float, parameters: Mapping[str, Parameter], start: Mapping[str, Tensor] | None) -> None:
        self.weight = weight
        self.start = {name: p.detach().clone() for name, p in parameters.items()} if start is None else dict(start)
        self._check(parameters)
        self._parameters = {name: parameters[name] for name in self.start}
        self._names = {id(parameter): name for name, parameter in self._parameters.items()}

    def value(self) -> Tensor:  # ()
        """Omega, of what is trained now: what is frozen has not moved."""
        trained = [(p, self._of(name)) for name, p in self._parameters.items() if p.requires_grad]
        return l2_sp_value(trained, self.weight)

    def add_gradients_(self, optimizer: Optimizer, scale: float) -> None:
        """Add its gradient to what the optimizer is about to step.

        Raises:
            TransferError: a gradient is sparse, and that of the penalty is not.
        """
        for parameter in self._stepped(optimizer):
            name, gradient = self._names[id(parameter)], parameter.grad
            assert gradient is not None
            if gradient.layout is not torch.strided:
                raise TransferError(
                    f"The gradient of `{name}` is sparse, and that of `l2_sp` is not. Pass `sparse=False` to its layer."
                )
            l2_sp_gradient_(gradient, parameter, self._of(name), self.weight * scale)

    def _stepped(self, optimizer: Optimizer) -> Iterator[Parameter]:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and id(parameter) in self._names:
                    yield parameter

    def _of(self, name: str) -> Tensor:
        """Where its parameter is, and of its dtype."""
        parameter, start = self._parameters[name], self.start[name]
        if (start.device, start.dtype) != (parameter.device, parameter.dtype):
            start = self.start[name] = start.to(parameter)
        return start

    def _check(self, parameters: Mapping[str, Parameter]) -> None:
        for name, start in self.start.items():
            if name not in parameters or parameters[name].shape != start.shape:
                raise TransferError(
                    f"Expected the weights that `{name}` began with, got {tuple(start.shape)} from the checkpoint that "
                    "this fit resumes from: it is of another module."
                )
