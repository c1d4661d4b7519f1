"""Carry out a plan in place: afterwards the module is smaller or larger, or exactly as it was.

A `Transaction` restores tensors, gradients, attributes and optimizer states if anything raises.

Parameters keep their identity: only their data changes. Autograd allows it (`Module.to` does the same), an optimizer's
param_groups, tied parameters and all other references see the new data, and only the state of an optimizer has to be
adapted. A graph that was recorded before is stale; see `set_data`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_autoarch.core.errors import ResizeError, StructureError
from lightning_autoarch.core.rest import attributes_kept
from lightning_autoarch.structure.attributes import candidates, fit_classes_, standard_attributes
from lightning_autoarch.structure.calls import rehearse
from lightning_autoarch.structure.check import Failure, check, group_norm_sizes
from lightning_autoarch.structure.normed import weight_normed
from lightning_autoarch.structure.optimizer import carry_optimizer_state, indexed
from lightning_autoarch.structure.resize_plan import Change, ResizePlan, changes
from lightning_autoarch.structure.trace import Trace


class Transaction:
    """Remember everything that resizing may change, and restore it on an exception.

    Args:
        module: whose attributes are restored.
        tensors: whose data and gradients may be replaced. Data is never modified in place, so a reference suffices.
        optimizers: whose state may be replaced.
    """

    def __init__(self, module: nn.Module, tensors: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers
        self._mode = torch.inference_mode(False)  # in which new data would be useless for training
        self._data = [(x, x.data, x.grad) for x in tensors]
        self._modules = [(m, type(m), dict(m.__dict__)) for m in module.modules()]
        self._states = [(o, {p: dict(state) for p, state in o.state.items()}) for o in optimizers]

    def __enter__(self) -> Transaction:
        self._mode.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._mode.__exit__(None, None, None)
        if kind is None:
            return
        for tensor, data, grad in self._data:
            set_data(tensor, data, grad)
        for module, its_class, attributes in self._modules:
            module.__class__ = its_class
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for optimizer, states in self._states:
            for parameter, state in states.items():
                _restore(optimizer.state[parameter], state)


def _restore(state: dict[str, Any], before: Mapping[str, Any]) -> None:
    state.clear()
    state.update(before)


def set_data(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    """Replace the data of a parameter or buffer, possibly by data of another shape, and its gradient.

    A graph that is still alive keeps the gradient accumulator of the parameter, which expects the old shape and would
    be used by a later backward. Torch creates a new accumulator when the dtype changes, so the dtype changes twice.
    """
    tensor.grad = None
    if tensor.requires_grad and tensor.is_leaf:
        other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data
    tensor.grad = grad


@dataclass(frozen=True)
class Resized:
    """The changes made to a module.

    Attributes:
        changes: one for each parameter and buffer that changed.
        attributes: path of a module -> attribute -> its new value.
    """

    changes: tuple[Change, ...]
    attributes: Mapping[str, Mapping[str, Any]]


def resize_(
    module: nn.Module,
    example_inputs: object,
    seen: Trace,
    planned: ResizePlan,
    optimizers: Iterable[Optimizer] = (),
    scales: Mapping[str, Tensor] | None = None,  # what a tensor is multiplied by afterwards
) -> Resized:
    """Carry out a plan and verify it with a forward, or restore everything.

    Raises:
        ResizeError: the forward is not the planned one.
        StructureError: the state of an optimizer cannot be adapted.
    """
    changed, labels = changes(seen, planned)
    tensors = {name: (tensor, labels[name]) for name, (tensor, _) in seen.tensors.items()}
    with Transaction(module, [tensors[c.name][0] for c in changed], list(optimizers)) as transaction:
        apply_changes_(module, {name: tensor for name, (tensor, _) in tensors.items()}, changed, scales or {})
        attributes = _fit_standard(module, group_norm_sizes(seen, planned))
        _fit_others(module, attributes, lambda: check(module, example_inputs, seen, planned, tensors))
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()  # cuDNN wants them in one piece of memory
        try:
            rehearse(module, example_inputs)
        except StructureError as error:
            raise ResizeError(str(error)) from error
        carried = {tensors[c.name][0]: c for c in changed}
        for optimizer in transaction.optimizers:
            carry_optimizer_state(optimizer, carried)
    return Resized(tuple(changed), attributes)


def apply_changes_(
    module: nn.Module, tensors: Mapping[str, Tensor], changed: Sequence[Change], scales: Mapping[str, Tensor]
) -> None:
    """Index every tensor that changes, and its gradient, which means nothing where channels are copied.

    A sparse gradient is dropped too: it is of the last step and cannot be cut.
    """
    change_of = {id(tensors[change.name]): change for change in changed}
    with torch.no_grad(), weight_norms_kept(module, change_of):
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


@contextlib.contextmanager
def weight_norms_kept(module: nn.Module, change_of: Mapping[int, Change]) -> Iterator[None]:
    """What stays of a weight in weight norm is what it was: its g makes up for what its norm loses or gains."""
    before = [(each, each.norm()) for each in weight_normed(module) if id(each.v) in change_of]
    yield
    for each, norm in before:
        if set(change_of[id(each.v)].index) <= {each.dim}:
            continue  # whole rows went: the norms of those that stayed are what they were
        own = change_of.get(id(each.g))
        ratio = each.norm() / (norm if own is None else indexed(norm, own.index))
        set_data(each.g, (each.g.data * ratio.nan_to_num(1.0)).to(each.g.dtype), each.g.grad)


def _fit_standard(module: nn.Module, group_norms: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    """Put the attributes of all layers of torch.nn right; those that changed."""
    fitted: dict[str, dict[str, Any]] = {}
    for path, layer in module.named_modules():
        with attributes_kept(layer):
            layer.eval()  # a weight that is parametrized is computed when it is read: then without side effects
            sizes = standard_attributes(layer)
        if isinstance(layer, nn.GroupNorm) and path in group_norms:
            sizes = dict(zip(("num_channels", "num_groups"), group_norms[path], strict=True))
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
    raise ResizeError(
        f"The resized module does not compute what was planned; nothing was changed. {failure.message}",
        failure.position,
    )
