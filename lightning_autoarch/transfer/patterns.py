"""Which parameters of a module a pattern means: shell-style globs (`fnmatch`) over dotted names.

`encoder.*.weight` names parameters; a pattern that names a module, `encoder` or `encoder.layers.*`, stands for every
parameter in it. A normalisation without parameters that keeps running statistics counts like one, under its own name.
What `torch.compile` puts into a name, `_orig_mod`, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn
from torch.nn import Parameter

from lightning_autoarch.core.errors import TransferError, did_you_mean
from lightning_autoarch.transfer.match.names import INNER
from lightning_autoarch.transfer.tune.norms import keeps_statistics

Patterns: TypeAlias = str | Sequence[str]


class Names:
    """Every name of what a module can train: parameters, each once, and norms that have none but keep statistics.

    Attributes:
        parameters: first name -> parameter, in the order of registration.
        norms: path of each norm with running statistics -> the norm, and the names that it depends on: of its
            parameters, or its own.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters: dict[str, Parameter] = {}
        self.norms: dict[str, tuple[nn.Module, list[str]]] = {}
        self._first: dict[str, str] = {}  # any name -> the first of the same parameter
        self._raw: dict[str, list[str]] = {}  # first name -> all of them, as the module has them
        self._modules: list[str] = []
        known: dict[int, str] = {}
        for raw, owner in module.named_modules(remove_duplicate=False):
            path = INNER.sub("", f"{raw}.").rstrip(".")
            self._modules.append(path)
            for leaf, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
                name = f"{path}.{leaf}" if path else leaf
                first = known.setdefault(id(parameter), name)
                self._add(name, first, f"{raw}.{leaf}" if raw else leaf)
                self.parameters.setdefault(first, parameter)
            if keeps_statistics(owner):
                self._add_norm(path, raw, owner)

    @property
    def order(self) -> list[str]:
        """Names of parameters and of norms without any, as they are registered."""
        return list(self._raw)

    def matching(self, patterns: Patterns, argument: str) -> set[str]:
        """First names of what the patterns stand for.

        Raises:
            TransferError: not patterns, or one matches nothing.
        """
        found: set[str] = set()
        for pattern in listed(patterns, argument):
            new = {first for name, first in self._first.items() if matches(name, pattern)}
            if not new:
                near = did_you_mean(pattern, [*filter(None, self._modules), *self._first])
                raise TransferError(
                    f"The pattern `{pattern}` of `{argument}` matches no parameter of the module.{near}"
                )
            found |= new
        return found

    def raw(self, names: Iterable[str]) -> list[str]:
        """All names of these, as the module's state_dict has them."""
        return [raw for name in names for raw in self._raw[name]]

    def _add(self, name: str, first: str, raw: str) -> None:
        self._first.setdefault(name, first)
        self._raw.setdefault(first, []).append(raw)

    def _add_norm(self, path: str, raw: str, norm: nn.Module) -> None:
        leaves = [leaf for leaf, _ in norm.named_parameters(recurse=False)]
        if not leaves:
            self._add(path, path, raw)
        units = [self._first[f"{path}.{leaf}" if path else leaf] for leaf in leaves] or [path]
        self.norms[path] = norm, units


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names this, or a module that it lies in.

    >>> matches("encoder.0.weight", "encoder"), matches("encoder.0.weight", "*.weight"), matches("encoder2", "encoder")
    (True, True, False)
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:i]), pattern) for i in range(1, len(parts) + 1))


def listed(patterns: Patterns, argument: str) -> list[str]:
    """Patterns as a list.

    Raises:
        TransferError: something else.
    """
    several = isinstance(patterns, Iterable) and not isinstance(patterns, str)
    given: list[object] = list(patterns) if several else [patterns]
    if not all(isinstance(pattern, str) and pattern for pattern in given):
        raise TransferError(f"Expected `{argument}` as patterns of names, got {patterns!r:.80}.")
    return [str(pattern) for pattern in given]
