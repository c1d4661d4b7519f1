"""Which weights are pruned: those of layers that multiply by a matrix, or what patterns name.

By default these are

- the matrices of torch's own layers: linear, convolution, embedding, attention, recurrent;
- a matrix called `weight` of any other layer that is no norm, such as `Conv1D` of transformers;
- parameters with three or more dimensions under any name: the stacked matrices of a mixture of experts. Biases,
  embeddings, positions and tokens, as told by their names, are not among them.

Weight norm, spectral norm and other parametrisations are seen through: see `reparametrised`. Adapters such as LoRA's
are left out, because they are small and are what is being trained. So are other matrices not called `weight`.

A pattern is a shell-style glob (`fnmatch`) over dotted names. `encoder.*.weight` names parameters; a pattern that names
a module, `encoder` or `encoder.layers.*`, stands for the weights that would be pruned by default if that module were
the whole net. Biases, normalisation and adapters are pruned only where a pattern names the parameter or the adapter
itself. What `torch.compile` puts into a name, `_orig_mod`, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import Parameter, UninitializedParameter

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError, did_you_mean
from lightning_autoarch.prune.layer_weights import (
    NORMS,
    LayerWeight,
    is_adapter,
    is_default_target,
    is_matrix,
    layer_weights,
)

# The names of a module's parameters, layers and computed weights, and what a pattern over them stands for.


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


Patterns = str | Sequence[str]

COMPUTED = re.compile(r"parametrizations\.(\w+)\.original\d*$|(?<=weight)_(?:v|orig)$")


@dataclass(frozen=True)
class Targets:
    """What is pruned, and what is not although one might think so.

    Attributes:
        parameters: name -> parameter, each once.
        normed: of some of them, the dimensions over which a norm is taken: no slice may become all zero.
        computed: those from which a layer computes its weight: directions of a weight norm, for example.
        left_dense: name of a weight on which masks would not hold -> why.
        not_chosen: other matrices that are trained, and are no targets by default.
    """

    parameters: dict[str, Parameter]
    normed: dict[str, tuple[int, ...]]
    computed: frozenset[str]
    left_dense: dict[str, str]
    not_chosen: tuple[str, ...]

    def without(self, names: Iterable[str]) -> Targets:
        """The same, without some of the parameters."""
        left_out = set(names)
        left = {name: parameter for name, parameter in self.parameters.items() if name not in left_out}
        return replace(self, parameters=left)


def find_targets(
    module: nn.Module, targets: Patterns | None = None, exclude: Patterns = ()
) -> dict[str, Parameter]:  # name -> parameter, each once
    """The parameters to prune.

    Args:
        module: any module.
        targets: patterns of what is pruned; None: the weights of every layer that multiplies by a matrix and requires
            a gradient (see the head of this module).
        exclude: patterns of what is not.

    Returns:
        Under the first name of each; a tied parameter counts once, and any of its names may match.

    Raises:
        PruneValueError: a pattern matches nothing, or nothing on which a mask would hold; nothing is left; a target is
            frozen or not initialised.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    >>> list(find_targets(net)), list(find_targets(net, exclude="2")), list(find_targets(net, ["1.weight", "0"]))
    (['0.weight', '2.weight'], ['0.weight'], ['0.weight', '1.weight'])
    """
    return examine_targets(module, targets, exclude).parameters


def examine_targets(module: nn.Module, targets: Patterns | None = None, exclude: Patterns = ()) -> Targets:
    """`find_targets`, with what else there is to know about them and what was left out."""
    names = Names(module)
    wanted = names.eligible if targets is None else names.matching(_listed(targets, "targets"), "targets")
    unwanted = names.matching(_listed(exclude, "exclude"), "exclude")
    chosen = {name: names.parameters[name] for name in names.parameters if name in wanted and name not in unwanted}
    frozen = [name for name, parameter in chosen.items() if not parameter.requires_grad]
    if frozen and targets is not None:
        raise PruneValueError(
            f"Expected targets that are trained, got `{frozen[0]}`, which does not require a gradient."
        )
    found = {name: parameter for name, parameter in chosen.items() if parameter.requires_grad}
    obstacles = names.obstacles(within=None if targets is None else _listed(targets, "targets"), without=unwanted)
    left_dense = {names.readable[name]: reason for name, reason in obstacles.items()}
    if not found:
        raise PruneValueError(_nothing(module, frozen, left_dense, names.adapters))
    for name, parameter in found.items():
        if isinstance(parameter, UninitializedParameter):
            raise PruneValueError(f"Expected `{name}` to be initialised: run a batch through the module first.")
    others = () if targets is not None else tuple(names.other_matrices(found, unwanted, obstacles))
    return Targets(
        found,
        {name: names.weights[name].normed for name in found if name in names.weights and names.weights[name].normed},
        frozenset(name for name in found if name in names.weights and names.weights[name].is_computed),
        left_dense,
        others,
    )


def _nothing(module: nn.Module, frozen: list[str], left_dense: dict[str, str], adapters: set[str]) -> str:
    reason = f"{len(frozen)} of its weights are frozen" if frozen else "it has no layer with a weight to prune"
    if left_dense:
        name, why = next(iter(left_dense.items()))
        reason += f", and `{name}` cannot be pruned by a mask: {why}"
    elif adapters:
        reason += f", and {len(adapters)} adapter weights such as `{min(adapters)}` are left out by default"
    return f"Nothing to prune in {type(module).__name__}: {reason}. Name parameters by `targets`."


def _listed(patterns: Patterns, argument: str) -> list[str]:
    given: Iterable[object] = [patterns] if isinstance(patterns, str) else patterns
    listed = list(given)
    if not all(isinstance(pattern, str) for pattern in listed):
        raise PruneTypeError(f"Expected `{argument}` to be patterns of names, got {patterns!r:.80}.")
    return [str(pattern) for pattern in listed]


def match_values(
    values: float | dict[str, float], names: Sequence[str], argument: str
) -> dict[str, float]:  # name -> value, of those that a pattern matches
    """A value for each name: one for all, or the first pattern's that matches it or a module around it.

    Raises:
        PruneValueError: a pattern matches no name.

    >>> match_values({"0": 0.5, "*": 0.9}, ["0.weight", "2.weight"], "scope")
    {'0.weight': 0.5, '2.weight': 0.9}
    """
    if not isinstance(values, dict):
        return dict.fromkeys(names, float(values))
    found: dict[str, float] = {}
    for pattern, value in values.items():
        matching = [name for name in names if _matches(name, pattern)]
        if not matching:
            raise PruneValueError(
                f"The pattern `{pattern}` of `{argument}` matches none of the targets.{did_you_mean(pattern, names)}"
            )
        for name in matching:
            found.setdefault(name, float(value))
    return {name: found[name] for name in names if name in found}


def _matches(name: str, pattern: str) -> bool:
    """Whether the pattern names the parameter, the weight computed from it, or a module that it lies in."""
    parts = name.split(".")
    if fnmatchcase(COMPUTED.sub(r"\1", name), pattern):
        return True
    return any(fnmatchcase(".".join(parts[:i]), pattern) for i in range(1, len(parts) + 1))
