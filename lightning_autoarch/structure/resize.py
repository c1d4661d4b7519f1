"""`remove_channels_`: channels really go. The module is smaller afterwards, in place, or exactly as it was.

Parameters keep their identity: only their data changes. Autograd allows it (`Module.to` does the same), an optimizer's
param_groups, ties, and whoever else holds the parameter see the smaller one, and of an optimizer only the state has to
be cut. A graph that was recorded before is stale; see `set_data`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_autoarch.errors import StructureError
from lightning_autoarch.structure.attributes import candidates, fit_classes_, standard_attributes
from lightning_autoarch.structure.check import Failure, check
from lightning_autoarch.structure.groups import ChannelGroup, groups_of
from lightning_autoarch.structure.optimizer import carry_optimizer_state, indexed
from lightning_autoarch.structure.plan import Change, Plan, changes, find_group, plan
from lightning_autoarch.structure.rehearsal import rehearse
from lightning_autoarch.structure.scene import attributes_kept
from lightning_autoarch.structure.trace import Trace, trace
from lightning_autoarch.structure.transaction import Transaction, set_data


@dataclass(frozen=True)
class Resized:
    """What was done to a module.

    Attributes:
        changes: of each parameter and buffer that changed.
        attributes: path of a module -> attribute -> its value now.
    """

    changes: tuple[Change, ...]
    attributes: Mapping[str, Mapping[str, Any]]


def remove_channels_(
    module: nn.Module,
    example_inputs: Any,
    keep: Mapping[str, Sequence[int]],
    optimizers: Iterable[Optimizer] = (),
) -> Resized:
    """Remove all units of some groups but those given.

    Args:
        module: any; it becomes smaller in place. Its parameters stay the same objects, with `grad` cut.
        example_inputs: as for `trace`.
        keep: name of a group of `channel_groups` -> its units that stay, in any order; at least one.
        optimizers: whose state is cut along.

    Raises:
        StructureError: no such group or unit, a fixed group, nothing to remove, or a forward that does not follow (a
            size written into the code). Everything is as before then.
    """
    seen = trace(module, example_inputs)
    groups = groups_of(seen)
    counts = {name: _kept(find_group(groups, name), units) for name, units in keep.items()}
    if all(all(count) for count in counts.values()):
        raise StructureError("Expected units to remove, but every unit of the groups given in `keep` is kept.")
    return resize_(module, example_inputs, seen, plan(seen, groups, counts), optimizers)


def _kept(group: ChannelGroup, units: Sequence[int]) -> list[int]:
    chosen = {int(unit) for unit in units}
    if not chosen or len(chosen) != len(units) or not chosen <= set(range(group.width)):
        raise StructureError(
            f"Expected `keep` of `{group.name}` to be distinct units in [0, {group.width}), at least one, "
            f"got {units!r:.80}."
        )
    return [int(unit in chosen) for unit in range(group.width)]


def resize_(
    module: nn.Module,
    example_inputs: Any,
    seen: Trace,
    planned: Plan,
    optimizers: Iterable[Optimizer] = (),
    scales: Mapping[str, Tensor] | None = None,  # what a tensor is multiplied by afterwards
) -> Resized:
    """Carry out a plan and prove it, or put everything back."""
    changed, labels = changes(seen, planned)
    tensors = {name: (tensor, labels[name]) for name, (tensor, _) in seen.tensors.items()}
    with Transaction(module, [tensors[c.name][0] for c in changed], list(optimizers)) as transaction:
        apply_changes_({name: tensor for name, (tensor, _) in tensors.items()}, changed, scales or {})
        attributes = _fit_standard(module)
        _fit_others(module, attributes, lambda: check(module, example_inputs, seen, planned, tensors))
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()  # cuDNN wants them in one piece of memory
        rehearse(module, example_inputs)
        carried = {tensors[c.name][0]: c for c in changed}
        for optimizer in transaction.optimizers:
            carry_optimizer_state(optimizer, carried)
    return Resized(tuple(changed), attributes)


def apply_changes_(tensors: Mapping[str, Tensor], changed: Sequence[Change], scales: Mapping[str, Tensor]) -> None:
    """Index every tensor that changes, and its gradient, which means nothing where channels are copied.

    A sparse gradient is dropped too: it is of the last step and cannot be cut.
    """
    with torch.no_grad():
        for change in changed:
            tensor = tensors[change.name]
            data = indexed(tensor, change.index)
            if change.name in scales:
                data = data * scales[change.name]
            grad = tensor.grad
            if grad is not None:
                dropped = change.grows or grad.layout != torch.strided
                grad = None if dropped else indexed(grad, change.index)
            set_data(tensor, data, grad)


def _fit_standard(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Put the attributes of all layers of torch.nn right; those that changed."""
    fitted: dict[str, dict[str, Any]] = {}
    for path, layer in module.named_modules():
        with attributes_kept(layer):
            layer.eval()  # a weight that is parametrized is computed when it is read: then without side effects
            sizes = standard_attributes(layer)
        values = {k: v for k, v in sizes.items() if getattr(layer, k) != v}
        for name, value in values.items():
            setattr(layer, name, value)
        if values:
            fitted[path] = values
    fit_classes_(module)
    return fitted


def _fit_others(
    module: nn.Module,
    attributes: dict[str, dict[str, Any]],
    verify: Callable[[], Failure | None],
) -> None:
    """Change attributes of other modules one by one as long as the forward gets further.

    Raises:
        StructureError: no attribute helps.
    """
    failure = verify()
    while failure is not None:
        failure = _one_further(module, attributes, failure, verify)


def _one_further(
    module: nn.Module,
    attributes: dict[str, dict[str, Any]],
    failure: Failure,
    verify: Callable[[], Failure | None],
) -> Failure | None:
    for path, name, value in candidates(module, failure):
        layer = module.get_submodule(path)
        before = getattr(layer, name)
        setattr(layer, name, value)
        after = verify()
        if after is None or after.position > failure.position:
            attributes.setdefault(path, {})[name] = value
            return after
        setattr(layer, name, before)
    raise StructureError(
        f"The resized module does not compute what was planned; nothing was changed. {failure.message}"
    )
