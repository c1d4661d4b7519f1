"""The names of a module's parameters, layers and computed weights, and what a pattern over them stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn import Parameter

from lightning_autoarch.core.errors import PruneValueError, did_you_mean
from lightning_autoarch.prune.layers import NORMS, is_adapter, is_default_target, is_matrix
from lightning_autoarch.prune.reparametrised import LayerWeight, layer_weights


def plain_name(name: str) -> str:
    """Without what `torch.compile` adds.

    >>> plain_name("net._orig_mod.0.weight")
    'net.0.weight'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class Names:
    """Every name of every parameter and module, and which parameters a pattern stands for."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.parameters: dict[str, Parameter] = {}
        self.first: dict[str, str] = {}  # any name of a parameter -> its first
        self.weights: dict[str, LayerWeight] = {}  # by the first name
        self.readable: dict[str, str] = {}  # first name -> what the layer calls it, `0.weight`
        self._of_layer: dict[int, list[LayerWeight]] = {}
        self._of_norms: set[str] = set()
        known: dict[int, str] = {}
        for raw, parameter in module.named_parameters(remove_duplicate=False):
            name = plain_name(raw)
            self.first[name] = known.setdefault(id(parameter), name)
            self.parameters.setdefault(self.first[name], parameter)
        self.modules = {plain_name(name): child for name, child in module.named_modules(remove_duplicate=False) if name}
        self._look_through(module)
        eligible = list(self._weights("", module))
        self.adapters = {self.first[name] for name in self.first if is_adapter(name)} - set(eligible)
        self.eligible = {name for name in eligible if not self.weights[name].obstacle}

    def matching(self, patterns: Sequence[str], argument: str) -> set[str]:
        return {name for pattern in patterns for name in self._matching(pattern, argument)}

    def obstacles(self, within: Sequence[str] | None, without: set[str]) -> dict[str, str]:
        """First name -> why a mask would not hold, of what would otherwise be a target."""
        if within is None:
            wanted = set(self._weights("", self._module))
        else:
            wanted = {name for pattern in within for name in self._under(pattern)}
        trained = (name for name in self.parameters if self.parameters[name].requires_grad)
        return {
            name: self.weights[name].obstacle
            for name in trained
            if name in wanted and name not in without and self.weights[name].obstacle
        }

    def other_matrices(self, found: Iterable[str], unwanted: set[str], obstacles: Iterable[str]) -> Iterator[str]:
        """Those that are trained and were not chosen; of norms and computed weights none."""
        left = set(self.weights) - set(found) - unwanted - set(obstacles) - self._of_norms
        for name in self.parameters:
            if name in left and self.parameters[name].requires_grad and is_matrix(self.parameters[name]):
                yield name

    def _look_through(self, module: nn.Module) -> None:
        for raw, child in module.named_modules(remove_duplicate=False):
            if "parametrizations" in raw.split("."):
                continue
            for weight in self._own(child):
                first = self.first[plain_name(f"{raw}.{weight.path}".lstrip("."))]
                self.weights.setdefault(first, weight)
                self.readable.setdefault(first, plain_name(f"{raw}.{weight.name}".lstrip(".")))
                self.first.setdefault(plain_name(f"{raw}.{weight.name}".lstrip(".")), first)  # of a computed weight
                if isinstance(child, NORMS):
                    self._of_norms.add(first)

    def _own(self, layer: nn.Module) -> list[LayerWeight]:
        if id(layer) not in self._of_layer:
            self._of_layer[id(layer)] = list(layer_weights(layer))
        return self._of_layer[id(layer)]

    def _matching(self, pattern: str, argument: str) -> Iterator[str]:
        found = {self.first[name] for name in self.first if fnmatchcase(name, pattern)} | self._under(pattern)
        refused = {name: self.weights[name].obstacle for name in found if self._is_refused(name)}
        if not found:
            raise PruneValueError(
                f"The pattern `{pattern}` of `{argument}` matches no weight of the module{self._instead(pattern)}"
            )
        if argument == "targets" and len(refused) == len(found):
            name, why = next(iter(refused.items()))
            raise PruneValueError(
                f"The pattern `{pattern}` of `targets` names `{self.readable[name]}`, on which a mask would not hold: "
                f"{why}."
            )
        yield from found - set(refused) if argument == "targets" else found

    def _is_refused(self, name: str) -> bool:
        return name in self.weights and bool(self.weights[name].obstacle)

    def _instead(self, pattern: str) -> str:
        """The rest of an error: what is there under that name, or what has nearly that name."""
        if pattern in self.modules:
            own = [name for name in self.parameters if name.startswith(f"{pattern}.")]
            named = f" Name a parameter, such as `{own[0]}`." if own else ""
            kind = type(self.modules[pattern]).__name__
            return f": it names a {kind} that has no weight which is pruned by default.{named}"
        return f".{did_you_mean(pattern, [*self.modules, *self.first])}"

    def _under(self, pattern: str) -> set[str]:
        """First names of the weights in modules that a pattern names."""
        found: set[str] = set()
        for name, child in self.modules.items():
            if fnmatchcase(name, pattern):
                found |= set(self._weights(name, child))
        return found

    def _weights(self, path: str, module: nn.Module) -> Iterator[str]:
        """First names of what is pruned by default where `module` is the whole net."""
        for raw, child in module.named_modules(remove_duplicate=False):
            inside = raw.split(".")
            if "parametrizations" in inside or any(map(is_adapter, inside)):
                continue
            for weight in self._own(child):
                if is_default_target(child, weight.name, weight.parameter):
                    yield self.first[plain_name(".".join(part for part in (path, raw, weight.path) if part))]
