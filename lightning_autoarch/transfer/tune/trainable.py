"""The names of everything in a module that can be trained or frozen.

Parameters are listed once, under their first name. A norm without parameters that keeps running statistics is listed
under its own path, because freezing it changes what it computes: in training mode it normalises by the batch and moves
its statistics, so that a frozen layer would compute one function in training and another one in validation. While it
is frozen its forward passes are those of eval mode, by hooks that do not depend on who calls `train()` and how often:

    y = (x - mean) / sqrt(var + eps) * weight + bias
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.core.patterns import ModuleNames, Patterns, compile_patterns, joined, plain_name

STATISTICS = ("running_mean", "running_var")


def keeps_statistics(module: nn.Module) -> bool:
    """Whether it normalises by running statistics in eval mode, as every kind of BatchNorm does."""
    return all(module._buffers.get(name) is not None for name in STATISTICS)


class HeldInEval:
    """Runs the forward passes of a layer in eval mode until it is released.

    Args:
        norm: The layer. Its attribute `training` keeps its value between forward passes.
    """

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm
        self._was_training = False
        self._handles = [
            norm.register_forward_pre_hook(self._before, prepend=True),
            norm.register_forward_hook(self._after, always_call=True),
        ]

    def release(self) -> None:
        """Run forward passes in the mode of `training` again."""
        for handle in self._handles:
            handle.remove()

    def _before(self, norm: nn.Module, args: Any) -> None:
        self._was_training = norm.training
        if norm.training:
            norm.training = False

    def _after(self, norm: nn.Module, args: Any, output: Any) -> None:
        if self._was_training:
            norm.training = True


class TrainableNames(ModuleNames):
    """The names of a module's parameters, and of its norms that have no parameters but keep running statistics.

    Attributes:
        order: The names of parameters, and of norms without any, in the order of registration.
        norms: Path of each norm with running statistics -> the norm, and the names that it is trained with: those of
            its parameters, or its own path.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.norms: dict[str, tuple[nn.Module, list[str]]] = {}
        order: dict[str, None] = {}
        for raw, owner in module.named_modules(remove_duplicate=False):
            path = plain_name(raw)
            order |= {self.first[joined(path, leaf)]: None for leaf, _ in owner.named_parameters(recurse=False)}
            if keeps_statistics(owner):
                self._add_norm(path, raw, owner)
                order |= dict.fromkeys(self.norms[path][1])
        self.order = list(order)

    def named(self, patterns: Patterns, argument: str) -> set[str]:
        """First names of what patterns match.

        Raises:
            TransferError: A pattern matches nothing, or is not a pattern.
        """
        return self.matching(compile_patterns(patterns, argument, TransferError), argument, TransferError)

    def in_state_dict(self, names: Iterable[str]) -> list[str]:
        """All names of these in the module's state_dict."""
        return [raw for name in names for raw in self.raw[name]]

    def _add_norm(self, path: str, raw: str, norm: nn.Module) -> None:
        leaves = [leaf for leaf, _ in norm.named_parameters(recurse=False)]
        if not leaves:
            self.add(path, path, raw)
        self.norms[path] = norm, [self.first[joined(path, leaf)] for leaf in leaves] or [path]


def names_matching(patterns: Patterns, names: Collection[str], argument: str) -> set[str]:
    """The names that patterns match, or whose modules they match.

    Raises:
        TransferError: A pattern matches nothing, or is not a pattern.
    """
    plain = {plain_name(name): name for name in names}
    found: set[str] = set()
    for pattern in compile_patterns(patterns, argument, TransferError):
        new = {name for place, name in plain.items() if pattern.covers(place)}
        if not new:
            raise TransferError(
                f"The pattern `{pattern}` of `{argument}` matches no tensor of the module.{pattern.near(plain)}"
            )
        found |= new
    return found
