"""Which weights are pruned: those of layers that multiply by a matrix, or those that patterns name.

By default these are

- the matrices of torch's own layers: linear, convolution, embedding, attention, recurrent;
- a matrix called `weight` of any other layer that is not a norm, such as `Conv1D` of transformers;
- parameters with three or more dimensions under any name: the stacked matrices of a mixture of experts. Biases,
  embeddings, positions and tokens are excluded by their names.

Weight norm, spectral norm and other parametrisations are seen through: see `layer_weights`. Adapters such as LoRA's
are left out, because they are small and are being trained; so are other matrices that are not called `weight`.

Patterns are those of `core.patterns`: globs over dotted names, or regular expressions as `re.compile(...)`.
`encoder.*.weight` names parameters. A pattern that names a module, such as `encoder` or `encoder.layers.*`, stands for
the weights that would be pruned by default if that module were the whole net. Biases, normalisation and adapters are
pruned only if a pattern names the parameter or the adapter itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.parameter import Parameter, UninitializedParameter

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.core.patterns import ModuleNames, NamePattern, Patterns, compile_patterns, plain_name
from lightning_autoarch.prune.layer_weights import (
    NORMS,
    LayerWeight,
    is_adapter,
    is_default_target,
    is_matrix,
    layer_weights,
)


@dataclass(frozen=True)
class Targets:
    """What is pruned, and what is not although it might be expected.

    Attributes:
        parameters: name -> parameter, each once.
        normed: name -> dimensions over which a norm is taken, of those that have one: no slice may become all zero.
        computed: names of those from which a layer computes its weight, such as the directions of a weight norm.
        left_dense: name of a weight on which a mask would not hold -> why.
        not_chosen: other trained matrices that are not targets by default.
    """

    parameters: dict[str, Parameter]
    normed: dict[str, tuple[int, ...]]
    computed: frozenset[str]
    left_dense: dict[str, str]
    not_chosen: tuple[str, ...]

    def without(self, names: Iterable[str]) -> Targets:
        """The same without some of the parameters."""
        left_out = set(names)
        left = {name: parameter for name, parameter in self.parameters.items() if name not in left_out}
        return replace(self, parameters=left)


def find_targets(
    module: nn.Module, targets: Patterns | None = None, exclude: Patterns = ()
) -> dict[str, Parameter]:  # name -> parameter, each once
    """The parameters to prune.

    Args:
        module: any module.
        targets: patterns of what is pruned. None: the weights that are pruned by default (see this module) and require
            a gradient.
        exclude: patterns of what is not pruned.

    Returns:
        The parameters by their first names. A tied parameter counts once, and any of its names may match.

    Raises:
        PruneTypeError: something that is not a pattern.
        PruneValueError: a pattern matches nothing, or nothing on which a mask would hold; nothing is left; a target is
            frozen or not initialised.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    >>> list(find_targets(net)), list(find_targets(net, exclude="2")), list(find_targets(net, ["1.weight", "0"]))
    (['0.weight', '2.weight'], ['0.weight'], ['0.weight', '1.weight'])
    """
    return examine_targets(module, targets, exclude).parameters


def examine_targets(module: nn.Module, targets: Patterns | None = None, exclude: Patterns = ()) -> Targets:
    """`find_targets`, with more about the targets and about what was left out."""
    names = WeightNames(module)
    within = None if targets is None else compile_patterns(targets, "targets", PruneTypeError)
    wanted = names.eligible if within is None else names.chosen(within, "targets")
    unwanted = names.chosen(compile_patterns(exclude, "exclude", PruneTypeError), "exclude")
    chosen = {name: names.parameters[name] for name in names.parameters if name in wanted and name not in unwanted}
    frozen = [name for name, parameter in chosen.items() if not parameter.requires_grad]
    if frozen and targets is not None:
        raise PruneValueError(
            f"Expected targets that are trained, got `{frozen[0]}`, which does not require a gradient."
        )
    found = {name: parameter for name, parameter in chosen.items() if parameter.requires_grad}
    obstacles = names.obstacles(within, without=unwanted)
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


class WeightNames(ModuleNames):
    """The names of a module's parameters, layers and computed weights, and which weights a pattern stands for.

    Attributes:
        weights: first name of a parameter -> the weight of the layer.
        readable: first name -> what the layer calls the weight, such as `0.weight`.
        eligible: first names of what is pruned by default.
        adapters: first names of what is left out as an adapter.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._module = module
        self.weights: dict[str, LayerWeight] = {}
        self.readable: dict[str, str] = {}
        self._of_layer: dict[int, list[LayerWeight]] = {}
        self._of_norms: set[str] = set()
        self._look_through(module)
        eligible = list(self._weights("", module))
        self.adapters = {self.first[name] for name in self.first if is_adapter(name)} - set(eligible)
        self.eligible = {name for name in eligible if not self.weights[name].obstacle}

    def chosen(self, patterns: Iterable[NamePattern], argument: str) -> set[str]:
        """First names of what patterns stand for; of `targets`, without what cannot be masked.

        Raises:
            PruneValueError: a pattern matches nothing, or as a target nothing that can be masked.
        """
        return {name for pattern in patterns for name in self._chosen(pattern, argument)}

    def obstacles(self, within: Sequence[NamePattern] | None, without: set[str]) -> dict[str, str]:
        """First name -> why a mask would not hold, for what would otherwise be a target."""
        if within is None:
            wanted = set(self._weights("", self._module))
        else:
            wanted = {name for pattern in within for name in self._in_modules(pattern)}
        trained = (name for name in self.parameters if self.parameters[name].requires_grad)
        return {
            name: self.weights[name].obstacle
            for name in trained
            if name in wanted and name not in without and self.weights[name].obstacle
        }

    def other_matrices(self, found: Iterable[str], unwanted: set[str], obstacles: Iterable[str]) -> Iterator[str]:
        """Trained matrices that were not chosen, except those of norms and computed weights."""
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
                readable = plain_name(f"{raw}.{weight.name}".lstrip("."))
                self.weights.setdefault(first, weight)
                self.readable.setdefault(first, readable)
                self.add(readable, first)  # a computed weight
                if isinstance(child, NORMS):
                    self._of_norms.add(first)

    def _own(self, layer: nn.Module) -> list[LayerWeight]:
        if id(layer) not in self._of_layer:
            self._of_layer[id(layer)] = list(layer_weights(layer))
        return self._of_layer[id(layer)]

    def _chosen(self, pattern: NamePattern, argument: str) -> Iterator[str]:
        found = self.find(pattern, self._weights)
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

    def _instead(self, pattern: NamePattern) -> str:
        """The end of an error: what has that name, or a name that is near."""
        if str(pattern) in self.modules:
            own = [name for name in self.parameters if name.startswith(f"{pattern}.")]
            named = f" Name a parameter, such as `{own[0]}`." if own else ""
            kind = type(self.modules[str(pattern)]).__name__
            return f": it names a {kind} that has no weight which is pruned by default.{named}"
        return f".{pattern.near([*self.modules, *self.first])}"

    def _in_modules(self, pattern: NamePattern) -> set[str]:
        """First names of the weights in modules that a pattern names."""
        named = [(path, child) for path, child in self.modules.items() if pattern.matches(path)]
        return {name for path, child in named for name in self._weights(path, child)}

    def _weights(self, path: str, module: nn.Module) -> Iterator[str]:
        """First names of what is pruned by default if `module` is the whole net."""
        for raw, child in module.named_modules(remove_duplicate=False):
            inside = raw.split(".")
            if "parametrizations" in inside or any(map(is_adapter, inside)):
                continue
            for weight in self._own(child):
                if is_default_target(child, weight.name, weight.parameter):
                    yield self.first[plain_name(".".join(part for part in (path, raw, weight.path) if part))]
