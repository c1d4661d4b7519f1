"""Run a module without leaving a trace: in place, or as a copy.

    left_unchanged    attributes, modes, buffers and random number generators are restored, whatever the block does
    at_rest           the same, in eval mode, without gradients, without a Trainer and from a fixed seed
    detached_copy     a deep copy without the Trainer
    meta_copy         a copy without memory

Parameters are not restored: a forward is not expected to write into them. Everything else that it may change is: what
it sets as an attribute (a hidden state, a cache, a metric, a counter), what it writes into buffers and plain tensors,
and what it draws from the global generators.
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.rng import generators_kept, seeded

ModuleT = TypeVar("ModuleT", bound=nn.Module)

CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)  # whose contents are restored too
COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


@contextlib.contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, no Trainer and fixed random numbers inside of the block; afterwards all is as before.

    A LightningModule in it has no Trainer, so `self.log` and the like do nothing or raise as they do outside of a fit.
    """
    with seeded(0), left_unchanged(module), torch.no_grad():
        module.eval()
        for child in module.modules():
            if _has_trainer(child):
                child.trainer = None  # type: ignore[assignment]  # the property of a LightningModule
        yield


@contextlib.contextmanager
def left_unchanged(module: nn.Module) -> Iterator[None]:
    """Modes, attributes, buffers and the global generators are afterwards what they are now."""
    devices = {tensor.device for tensor in [*module.parameters(), *module.buffers()]}
    with generators_kept(devices), attributes_kept(module), _values_kept(module):
        yield


@contextlib.contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """Attributes of all submodules, and what is in those that are containers, are afterwards what they are now."""
    before = [(m, dict(m.__dict__)) for m in module.modules()]
    contents = [(v, v.copy()) for _, attributes in before for v in attributes.values() if type(v) in CONTAINERS]
    try:
        yield
    finally:
        for m, attributes in before:
            m.__dict__.clear()
            m.__dict__.update(attributes)
        for container, content in contents:
            _refill(container, content)


def detached_copy(module: ModuleT, memo: Mapping[int, Any] | None = None) -> ModuleT:
    """A deep copy without the Trainer of a LightningModule.

    Tensors that a graph of autograd has computed, or that torch cannot copy (compressed sparse ones), are cloned.

    Args:
        module: any.
        memo: id of an object -> what the copy has in its place.
    """
    trainer = _trainer_of(module)
    computed = [tensor for tensor in _attributes(module) if tensor.grad_fn is not None]
    without_storage = [tensor for tensor in (*module.buffers(), *_attributes(module)) if tensor.layout in COMPRESSED]
    not_copied_by_torch = (*computed, *without_storage)
    known = {id(tensor): tensor.detach().clone() for tensor in not_copied_by_torch} | dict(memo or {})
    return copy.deepcopy(module, known if trainer is None else {**known, id(trainer): None})


def meta_copy(module: ModuleT) -> ModuleT:
    """A copy whose tensors have no memory. Tied ones stay tied, which `Module.to("meta")` would undo."""
    tensors = [*module.parameters(), *module.buffers(), *_attributes(module)]
    return detached_copy(module, {id(tensor): _on_meta(tensor) for tensor in tensors if not is_lazy(tensor)})


def _has_trainer(module: nn.Module) -> bool:
    """Whether this is a LightningModule: `trainer` is a property, which raises where there is none."""
    return isinstance(getattr(type(module), "trainer", None), property)


def _trainer_of(module: nn.Module) -> object:
    if not _has_trainer(module):
        return None
    try:
        return module.trainer
    except RuntimeError:  # it has none
        return None


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(container, (list, deque)) else container.update(content)


@contextlib.contextmanager
def _values_kept(module: nn.Module) -> Iterator[None]:
    """Values of buffers, and of plain tensors that are attributes."""
    held = {id(x): x for m in module.modules() for x in [*m._buffers.values(), *m.__dict__.values()] if _is_strided(x)}
    before = [(tensor, tensor.detach().clone()) for tensor in held.values()]
    try:
        yield
    finally:
        for tensor, value in before:
            if not tensor.is_meta and _differ(tensor, value):  # autograd would count any write
                tensor.detach().copy_(value)


def _is_strided(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not isinstance(value, nn.Parameter)


def _differ(tensor: Tensor, value: Tensor) -> bool:
    return type(tensor) is not Tensor or not torch.equal(_bytes(tensor), _bytes(value))


def _bytes(tensor: Tensor) -> Tensor:
    """The values as bytes, so that NaN equals itself and 0.0 does not equal -0.0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _attributes(module: nn.Module) -> list[Tensor]:
    """Tensors that are neither parameters nor buffers."""
    return [value for child in module.modules() for value in vars(child).values() if isinstance(value, Tensor)]


def _on_meta(tensor: Tensor) -> Tensor:
    meta = tensor.detach().to("meta")
    return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
