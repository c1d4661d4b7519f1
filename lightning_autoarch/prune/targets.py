"""Which weights are pruned: those of layers that multiply by a matrix, or what patterns name.

Beside torch's own layers that is any with a matrix called `weight` that is no norm: such as `Conv1D` of transformers,
of which GPT-2 is made.

A pattern is a shell-style glob (`fnmatch`) over dotted names. `encoder.*.weight` names parameters; a pattern that names
a module, `encoder` or `encoder.layers.*`, stands for the weights of the layers in it. Biases and normalisation are
pruned only where a pattern names the parameter itself. What `torch.compile` puts into a name, `_orig_mod`, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import Parameter, UninitializedParameter

from lightning_autoarch.errors import did_you_mean
from lightning_autoarch.prune.errors import PruneTypeError, PruneValueError

Patterns = str | Sequence[str]

LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
PREFIXES = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def find_targets(
    module: nn.Module, targets: Patterns | None = None, exclude: Patterns = ()
) -> dict[str, Parameter]:  # name -> parameter, each once
    """The parameters to prune.

    Args:
        module: any module.
        targets: patterns of what is pruned; None: the weights of every Linear, convolution, embedding,
            MultiheadAttention and recurrent layer, and of others alike, that require a gradient.
        exclude: patterns of what is not.

    Returns:
        Under the first name of each; a tied parameter counts once, and any of its names may match.

    Raises:
        PruneValueError: a pattern matches nothing, nothing is left, or a target is frozen or not initialised.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    >>> list(find_targets(net)), list(find_targets(net, exclude="2")), list(find_targets(net, ["1.weight", "0"]))
    (['0.weight', '2.weight'], ['0.weight'], ['0.weight', '1.weight'])
    """
    names = _Names(module)
    wanted = names.eligible if targets is None else names.matching(_listed(targets, "targets"), "targets")
    unwanted = names.matching(_listed(exclude, "exclude"), "exclude")
    chosen = {name: names.parameters[name] for name in names.parameters if name in wanted and name not in unwanted}
    frozen = [name for name, parameter in chosen.items() if not parameter.requires_grad]
    if frozen and targets is not None:
        raise PruneValueError(
            f"Expected targets that are trained, got `{frozen[0]}`, which does not require a gradient."
        )
    found = {name: parameter for name, parameter in chosen.items() if parameter.requires_grad}
    if not found:
        reason = f"{len(frozen)} of its weights are frozen" if frozen else "it has no layer with a weight to prune"
        raise PruneValueError(f"Nothing to prune in {type(module).__name__}: {reason}. Name parameters by `targets`.")
    for name, parameter in found.items():
        if isinstance(parameter, UninitializedParameter):
            raise PruneValueError(f"Expected `{name}` to be initialised: run a batch through the module first.")
    return found


def plain_name(name: str) -> str:
    """Without what `torch.compile` adds.

    >>> plain_name("net._orig_mod.0.weight")
    'net.0.weight'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class _Names:
    """Every name of every parameter and module, and which parameters a pattern stands for."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters: dict[str, Parameter] = {}
        self.first: dict[str, str] = {}  # any name of a parameter -> its first
        known: dict[int, str] = {}
        for raw, parameter in module.named_parameters(remove_duplicate=False):
            name = plain_name(raw)
            self.first[name] = known.setdefault(id(parameter), name)
            self.parameters.setdefault(self.first[name], parameter)
        self.modules = {plain_name(name): child for name, child in module.named_modules(remove_duplicate=False) if name}
        self.eligible = {self.first[name] for name in self._weights("", module)}

    def matching(self, patterns: Sequence[str], argument: str) -> set[str]:
        return {name for pattern in patterns for name in self._matching(pattern, argument)}

    def _matching(self, pattern: str, argument: str) -> Iterator[str]:
        found = {self.first[name] for name in self.first if fnmatchcase(name, pattern)}
        for name, child in self.modules.items():
            if fnmatchcase(name, pattern):
                found |= {self.first[own] for own in self._weights(name, child)}
        if not found:
            hint = did_you_mean(pattern, [*self.modules, *self.first])
            raise PruneValueError(f"The pattern `{pattern}` of `{argument}` matches no weight of the module.{hint}")
        yield from found

    def _weights(self, path: str, module: nn.Module) -> Iterator[str]:
        for raw, child in module.named_modules(prefix=path, remove_duplicate=False):
            if isinstance(child, LAYERS):
                for name, _ in child.named_parameters(recurse=False):
                    if name.startswith(PREFIXES):
                        yield plain_name(f"{raw}.{name}".lstrip("."))
            elif _has_matrix(child):
                yield plain_name(f"{raw}.weight".lstrip("."))


def _has_matrix(layer: nn.Module) -> bool:
    weight = layer._parameters.get("weight")
    if weight is None or isinstance(weight, UninitializedParameter) or isinstance(layer, NORMS):
        return False
    return sum(size > 1 for size in weight.shape) > 1  # (1, C, 1, 1) is a scale


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
    """Whether the pattern names the parameter or a module that it lies in."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:i]), pattern) for i in range(1, len(parts) + 1))
