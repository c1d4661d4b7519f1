"""Nets inside of a module that follow another one: an averaged copy, a target network.

They have the shapes of a net that learns, and the training copies weights into them, which fails if only the other net
loses channels. So they lose the same channels.

Shapes alone are not enough: a frozen teacher may have the shapes of its student, and is not pruned. A net that follows
is recognised by its weights: no optimizer can change them, and yet they approached those of the other net:

    | S - M |  <  | S_0 - M |         S: weights of the follower, S_0: before the first step, M: of the other net
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError, StructureError
from lightning_autoarch.core.patterns import compile_patterns
from lightning_autoarch.core.rest import detached_copy, left_unchanged
from lightning_autoarch.prune.channels import EVERYTHING, UTMOST, Reduction, Removed, Selection, prune_by_
from lightning_autoarch.structure.calls import Calls, ModuleCall, run_on
from lightning_autoarch.structure.recipe import apply_recipe_

MOST = 1024  # elements of a parameter that are compared
Pairs = dict[str, str]  # path of a follower -> path of the net that it follows


class Followers:
    """The followers in one fit.

    Attributes:
        alike: path of a net that does not learn -> paths of nets of its shapes that do.
    """

    def __init__(self) -> None:
        self.alike: dict[str, tuple[str, ...]] = {}
        self._start: dict[str, dict[str, Tensor]] | None = None

    def begin(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Record the weights before the first step; later calls do nothing."""
        if self._start is None:
            self.alike = dict(_alike(module, _learning(module, optimizers)))
            self._start = {path: _sample(module.get_submodule(path)) for path in self.alike}

    def forget(self) -> None:
        """Release everything of the fit."""
        self.alike, self._start = {}, None

    def found(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> Pairs:
        """The followers so far, each with the net that it approached most."""
        learning, pairs = _learning(module, optimizers), Pairs()
        for path, others in self.alike.items():
            before, now = (self._start or {})[path], _sample(module.get_submodule(path))
            if any(id(p) in learning for p in module.get_submodule(path).parameters()):
                continue
            if all(torch.equal(before[name], now[name]) for name in now):
                continue
            targets = {other: _sample(module.get_submodule(other)) for other in others}
            nearness = {other: _ratio(_distance(now, m), _distance(before, m)) for other, m in targets.items()}
            nearest = min(nearness, key=nearness.__getitem__)
            if nearness[nearest] < 1:
                pairs[path] = nearest
        return pairs


def prune_with_followers_(
    module: nn.Module,
    example_inputs: Any,
    reduction: Reduction,
    pairs: Pairs,
    selection: Selection = EVERYTHING,
    optimizers: Sequence[Optimizer] = (),
) -> Removed:
    """`prune_by_`, with followers losing the same channels as the nets that they follow.

    The inputs and outputs of both keep their channels, since the training compares the outputs. The recipe is for both.

    Args:
        module, example_inputs, reduction, selection, optimizers: as in `prune_by_`.
        pairs: from `Followers.found`.

    Raises:
        StructureError, PruneValueError: as in `prune_channels_`.
    """
    if not pairs:
        return prune_by_(module, example_inputs, reduction, selection, optimizers)
    inputs, ran = _with_own_calls(module, example_inputs, pairs)
    exclude = [pattern.given for pattern in compile_patterns(selection.exclude, "exclude", PruneTypeError)]
    removed = prune_by_(module, inputs, reduction, replace(selection, exclude=(*exclude, *ran)), optimizers)
    more = _followed(removed.recipe, pairs)
    apply_recipe_(module, more)
    both = {part: {**removed.recipe[part], **more[part]} for part in ("tensors", "attributes")}
    after = replace(removed.after, parameters=sum(p.numel() for p in module.parameters()))
    return replace(removed, recipe={**removed.recipe, **both}, after=after)


def why_not(
    module: nn.Module, example_inputs: Any, reduction: Reduction, pairs: Pairs, selection: Selection = EVERYTHING
) -> str | None:
    """Why `prune_with_followers_` would fail, tried on a copy; None if it would not. A latency is not measured."""
    tried = reduction if reduction.is_countable else UTMOST
    try:
        prune_with_followers_(detached_copy(module), example_inputs, tried, pairs, selection)
    except (PruneValueError, StructureError) as error:
        return str(error)
    return None


def _followed(recipe: Mapping[str, Any], pairs: Pairs) -> dict[str, Any]:
    """The recipe by which followers lose what the nets that they follow lose by `recipe`."""
    found = dict(recipe)
    for part in ("tensors", "attributes"):
        entries = recipe[part].items()
        found[part] = {
            path + name[len(other) :]: entry
            for path, other in pairs.items()
            for name, entry in entries
            if _is_in(name, other)
        }
    return found


def _with_own_calls(module: nn.Module, example_inputs: Any, pairs: Pairs) -> tuple[Calls, list[str]]:
    """Example inputs that also call each followed net by itself, so that its outputs keep their channels.

    Returns:
        The inputs, and the paths of the followers that run in the example.
    """
    if isinstance(example_inputs, Calls):
        given = example_inputs
    elif isinstance(example_inputs, dict):
        given = Calls((ModuleCall("", (), example_inputs),))
    else:
        args = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
        given = Calls((ModuleCall("", args, {}),))
    ran: dict[str, ModuleCall] = {}
    handles = [
        module.get_submodule(path).register_forward_pre_hook(
            lambda _, args, kwargs, path=path: ran.update({path: ModuleCall(path, args, kwargs)}), with_kwargs=True
        )
        for path in {*pairs, *pairs.values()}
    ]
    try:
        with left_unchanged(module), torch.no_grad():
            run_on(module, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    own = {call.path for call in given.calls}
    followed = dict.fromkeys(path for path in pairs.values() if path in ran and path not in own)
    return Calls((*given.calls, *(ran[path] for path in followed))), [path for path in pairs if path in ran]


def _learning(module: nn.Module, optimizers: Sequence[Optimizer]) -> set[int]:
    """Identities of the parameters that an optimizer can change."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return {id(p) for p in module.parameters() if p.requires_grad and id(p) in held}


def _alike(module: nn.Module, learning: set[int]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The largest submodules that do not learn, with the disjoint ones of the same shapes that do."""
    taken: list[str] = []
    candidates = [
        (path, each) for path, each in module.named_modules() if path and any(True for _ in each.parameters())
    ]
    learns = {path: each for path, each in candidates if any(id(p) in learning for p in each.parameters())}
    kin: dict[object, list[str]] = {}
    for path, each in learns.items():
        kin.setdefault((type(each), _shapes(each)), []).append(path)
    for path, still in candidates:
        if path in learns or any(_is_in(path, other) for other in taken):
            continue
        own = {id(p) for p in still.parameters()}
        same = kin.get((type(still), _shapes(still)), [])
        others = tuple(other for other in same if not own & {id(p) for p in learns[other].parameters()})
        if others:
            taken.append(path)
            yield path, others


def _shapes(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(p.shape)) for name, p in [*module.named_parameters(), *module.named_buffers()])


def _sample(module: nn.Module) -> dict[str, Tensor]:
    """Some elements of each parameter. Buffers are left out: those of a batch norm follow the data."""
    return {
        name: p.detach().reshape(-1)[:: math.ceil(p.numel() / MOST) or 1].to("cpu", torch.float64)
        for name, p in module.named_parameters()
    }


def _distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((a[name] - b[name]).square().sum()) for name in a))


def _ratio(now: float, before: float) -> float:
    return now / before if before > 0 else math.inf


def _is_in(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")
