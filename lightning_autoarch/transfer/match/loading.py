"""A module's own ways to read an older state_dict, as `load_state_dict` would use them, with nothing loaded.

    register_load_state_dict_pre_hook       called with the names of the source
    an override of _load_from_state_dict    called on a copy of the module without memory, whose tensors take nothing

Both rewrite the names, and sometimes the numbers, before torch copies them: `weight_g` into
`parametrizations.weight.original0`, or a layer that was renamed between two releases of a library. Modules are visited
from the outermost inwards, each with the version that the source says it was saved by.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.errors import shown
from lightning_autoarch.transfer.match.names import INNER, Rule
from lightning_autoarch.transfer.match.view import SourceView, Within

Hook = Callable[..., Any]
Versions: TypeAlias = Mapping[str, Mapping[str, Any]]


def run_loading_hooks(module: nn.Module, view: SourceView, versions: Versions, prefix: Rule) -> set[str]:
    """Let the modules rewrite a view of the source.

    A hook that fails is skipped with a warning, and what it had not changed by then stays as it was: a source that
    holds only a part of the weights is taken over here, where `load_state_dict` would refuse it.

    Args:
        module: none of its tensors is written.
        view: of the source; changed in place.
        versions: path of a module in the source -> its `local_metadata`, with its version.
        prefix: leading path in the source, and what stands for it in the module.

    Returns:
        Names of the source that are in no place any more.
    """
    before = set(view.origins.values())
    for raw, owner in list(module.named_modules(remove_duplicate=False)):
        path = INNER.sub("", f"{raw}.") if raw else ""
        load = _loader(owner)
        if load is not None:
            _run(load, owner, Within(view, path), path, _metadata(path, versions, prefix))
    return before - set(view.origins.values())


def _loader(owner: nn.Module) -> Hook | None:
    """What to call for a module that reads a state_dict in a way of its own."""
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
    except Exception as error:  # code of the user's module, which may raise anything
        warnings.warn(
            f"The state_dict hooks of `{path.rstrip('.') or type(owner).__name__}` ({type(owner).__name__}) failed on "
            f"this source and were skipped; {type(error).__name__}: {shown(str(error), 300)}",
            stacklevel=2,
        )


def _metadata(path: str, versions: Versions, prefix: Rule) -> dict[str, Any]:
    """What torch passes as `local_metadata`: the version that the module had, where the source says it."""
    old, new = prefix
    there = old + path.removeprefix(new) if path.startswith(new) else path
    for known in (there, path):
        if known.rstrip(".") in versions:
            return dict(versions[known.rstrip(".")])
    return {}


def _is_lazy_hook(hook: Hook) -> bool:
    """Whether it gives memory to lazy parameters, which a transfer refuses."""
    inner = getattr(hook, "hook", hook)
    return getattr(inner, "__name__", "") == "_lazy_load_hook"


def _without_memory(module: nn.Module) -> nn.Module:
    """A copy with its tensors on the meta device; what is neither module, tensor nor container is shared."""
    memo: dict[int, Any] = {}
    for each in module.modules():
        memo |= {id(value): value for value in vars(each).values() if not _is_copied(value)}
        for name, tensor in [*each._parameters.items(), *each._buffers.items()]:
            if tensor is not None and not is_lazy(tensor):
                memo[id(tensor)] = _like(tensor, is_parameter=name in each._parameters)
    return copy.deepcopy(module, memo)


def _like(tensor: Tensor, *, is_parameter: bool) -> Tensor:
    meta = torch.empty_like(tensor, device="meta")
    return nn.Parameter(meta, requires_grad=False) if is_parameter else meta


def _is_copied(value: Any) -> bool:
    return isinstance(value, nn.Module | Tensor | dict | list | tuple | set)
