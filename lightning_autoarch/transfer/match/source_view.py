"""A source under the names of a module, and what the module's own loading hooks make of it.

A `SourceView` can be rewritten without changing the source. The loading hooks of a module and the rules of `spellings`
take tensors out of a view and put others in. A tensor that is put back unchanged keeps its name in the source, so that
it is still read from there only when it is needed.

The loading hooks are run as `load_state_dict` would run them, without loading anything:

    register_load_state_dict_pre_hook       called with the names of the source
    an override of _load_from_state_dict    called on a copy of the module on the meta device, so that nothing is copied

Both rewrite names, and sometimes values, before torch copies them: `weight_g` becomes
`parametrizations.weight.original0`, or a layer was renamed between two releases of a library. Modules are visited from
the outermost inwards, each with the version that the source was saved with.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.errors import shown
from lightning_autoarch.core.patterns import plain_name
from lightning_autoarch.transfer.match.module_tensors import shared_values
from lightning_autoarch.transfer.match.name_matching import Prefix
from lightning_autoarch.transfer.read.state_dicts import StateDict

Hook = Callable[..., Any]
Versions: TypeAlias = Mapping[str, Mapping[str, Any]]


class SourceView(MutableMapping[str, Tensor]):
    """The tensors of a source under the names of a module, without wrappers such as `_orig_mod`.

    Args:
        state: The source, which is never changed.
        places: Name in the module -> name in the source.

    Attributes:
        origins: Name in the module -> name in the source, of the tensors that the source has.
        made: Name in the module -> tensor, of those that it does not have.
    """

    def __init__(self, state: StateDict, places: Mapping[str, str]) -> None:
        self.origins = dict(places)
        self.made: dict[str, Tensor] = {}
        self._state = state
        self._read: dict[int, tuple[Tensor, str]] = {}  # id of a tensor that was read -> the tensor, its name

    def __getitem__(self, name: str) -> Tensor:
        name = _plain(name)
        if name in self.made:
            return self.made[name]
        source = self.origins[name]
        tensor = self._state[source]
        self._read.setdefault(id(tensor), (tensor, source))
        return tensor

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        name = _plain(name)
        known = self._read.get(id(tensor))
        self.made.pop(name, None)
        self.origins.pop(name, None)
        if known is not None:
            self.origins[name] = known[1]
        elif isinstance(tensor, Tensor):  # a hook may also store other objects, which are not weights
            self.made[name] = tensor.detach()

    def __delitem__(self, name: str) -> None:
        name = _plain(name)
        if name in self.made:
            del self.made[name]
        else:
            del self.origins[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (_plain(name) in self.made or _plain(name) in self.origins)

    def __iter__(self) -> Iterator[str]:
        yield from [*self.origins, *self.made]

    def __len__(self) -> int:
        return len(self.origins) + len(self.made)

    def rename(self, old: str, new: str) -> None:
        """Rename a tensor without reading it."""
        if old in self.made:
            self.made[new] = self.made.pop(old)
        else:
            self.origins[new] = self.origins.pop(old)

    def copy(self) -> dict[str, Tensor]:
        """Everything, as `dict.copy`."""
        return dict(self)


class Within(MutableMapping[str, Tensor]):
    """The part of a view that belongs to one module, which is all that torch shows to the module's loading hooks.

    Args:
        view: The view of the source.
        prefix: Path of the module with a trailing dot; "" for the outermost one, which sees everything.
    """

    def __init__(self, view: SourceView, prefix: str) -> None:
        self._view, self._prefix = view, prefix

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        return self._view[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self._view[name] = tensor

    def __delitem__(self, name: str) -> None:
        del self._view[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _plain(name).startswith(self._prefix) and name in self._view

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._view if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def copy(self) -> dict[str, Tensor]:
        """Everything, as `dict.copy`."""
        return dict(self)


def _plain(name: str) -> str:
    return plain_name(name)


def run_loading_hooks(module: nn.Module, view: SourceView, versions: Versions, prefix: Prefix) -> set[str]:
    """Let the loading hooks of all modules rewrite a view of the source.

    A hook that fails is skipped with a warning, because a source may hold only a part of the weights, which
    `load_state_dict` would refuse.

    Args:
        module: None of its tensors is written.
        view: The view of the source, changed in place.
        versions: Path of a module in the source -> its `local_metadata`, with its version.
        prefix: The leading path in the source, and its replacement in the module.

    Returns:
        Names of the source that are no longer in the view.
    """
    before = set(view.origins.values())
    for raw, owner in list(module.named_modules(remove_duplicate=False)):
        path = f"{plain_name(raw)}." if plain_name(raw) else ""
        load = _loader(owner)
        if load is not None:
            _run(load, owner, Within(view, path), path, _metadata(path, versions, prefix))
    return before - set(view.origins.values())


def _loader(owner: nn.Module) -> Hook | None:
    """The function to call for a module that customises how it reads a state_dict; None for any other."""
    method = type(owner)._load_from_state_dict
    if method is not nn.Module._load_from_state_dict and not method.__module__.startswith("torch."):
        return lambda *args: _without_memory(owner)._load_from_state_dict(*args)
    hooks = [hook for hook in owner._load_state_dict_pre_hooks.values() if not _is_lazy_hook(hook)]
    return (lambda *args: [hook(*args) for hook in hooks]) if hooks else None


def _run(load: Hook, owner: nn.Module, state: Within, path: str, metadata: dict[str, Any]) -> None:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            load(state, path, metadata, True, [], [], [])
    except Exception as error:  # the user's code may raise anything
        warnings.warn(
            f"The state_dict hooks of `{path.rstrip('.') or type(owner).__name__}` ({type(owner).__name__}) failed on "
            f"this source and were skipped; {type(error).__name__}: {shown(str(error), 300)}",
            stacklevel=2,
        )


def _metadata(path: str, versions: Versions, prefix: Prefix) -> dict[str, Any]:
    """What torch passes as `local_metadata`: the version that the source was saved with, if it is known."""
    old, new = prefix
    there = old + path.removeprefix(new) if path.startswith(new) else path
    for known in (there, path):
        if known.rstrip(".") in versions:
            return dict(versions[known.rstrip(".")])
    return {}


def _is_lazy_hook(hook: Hook) -> bool:
    """Whether it is the hook that allocates lazy parameters, which a transfer refuses."""
    inner = getattr(hook, "hook", hook)
    return getattr(inner, "__name__", "") == "_lazy_load_hook"


def _without_memory(module: nn.Module) -> nn.Module:
    """A copy with its tensors on the meta device."""
    memo = shared_values(module)
    for each in module.modules():
        for name, tensor in [*each._parameters.items(), *each._buffers.items()]:
            if tensor is not None and not is_lazy(tensor):
                memo[id(tensor)] = _like(tensor, is_parameter=name in each._parameters)
    return copy.deepcopy(module, memo)


def _like(tensor: Tensor, *, is_parameter: bool) -> Tensor:
    meta = torch.empty_like(tensor, device="meta")
    return nn.Parameter(meta, requires_grad=False) if is_parameter else meta
