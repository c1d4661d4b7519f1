"""All that a call could leave on a module or in the process, as values that compare."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

HOOKS = tuple(name for name in vars(nn.Module()) if "hooks" in name)
GLOBAL_HOOKS = tuple(name for name in vars(torch_module) if name.startswith("_global_") and name.endswith("_hooks"))
TENSORS = ("_parameters", "_buffers")


def of_process() -> dict[str, object]:
    """Random number generators, modes and switches of torch, hooks of all modules, filters of warnings."""
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": str(np.random.get_state()),
        "python's generator": random.getstate(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fused kernels": (
            torch.backends.mha.get_fastpath_enabled(),
            torch._C._get_mkldnn_enabled(),
            torch._C._get_cudnn_enabled(),
            torch._C._get_math_sdp_enabled(),
            torch._C._get_flash_sdp_enabled(),
            torch._C._get_mem_efficient_sdp_enabled(),
        ),
        "hooks": {name: list(getattr(torch_module, name)) for name in GLOBAL_HOOKS},
        "warnings": list(warnings.filters),
    }


def of_module(module: nn.Module, *, shapes: bool = True, values: bool = True) -> dict[str, dict[str, object]]:
    """Of each submodule: its class, mode, hooks, attributes, and each tensor.

    Args:
        module: at rest.
        shapes: whether shapes of tensors, and numbers that say how large a layer is, count.
        values: whether values of tensors and gradients count.
    """
    return {path: _of_one(each, shapes, values) for path, each in module.named_modules(remove_duplicate=False)}


def _of_one(module: nn.Module, shapes: bool, values: bool) -> dict[str, object]:
    found: dict[str, object] = {"class": type(module)}
    for name, value in vars(module).items():
        if name in HOOKS:
            found[name] = [(key, id(hook)) for key, hook in (value or {}).items()]
        elif name in TENSORS:
            found[name] = {key: None if x is None else _tensor(x, shapes, values) for key, x in value.items()}
        elif name == "_modules":
            found[name] = {key: id(child) for key, child in value.items()}
        elif shapes or not _is_size(value):
            found[name] = _plain(value, shapes, values)
        else:
            found[name] = type(value)
    return found


def _tensor(tensor: Tensor, shapes: bool, values: bool) -> dict[str, object]:
    found: dict[str, object] = {
        "identity": id(tensor),
        "trains": tensor.requires_grad,
        "leaf": tensor.is_leaf,
        "gradient": tensor.grad is not None,
        "dtype": tensor.dtype,
        "attributes": sorted(vars(tensor)),
        "hooks": list(tensor._backward_hooks or ()),
    }
    if shapes:
        found["shape"] = tuple(tensor.shape)
    if values:
        found["values"] = tensor.detach().tolist()
        found["values of the gradient"] = None if tensor.grad is None else tensor.grad.tolist()
    return found


def _is_size(value: object) -> bool:
    return type(value) is int or (type(value) in (tuple, list) and all(type(x) is int for x in value))  # type: ignore[attr-defined]


def _plain(value: Any, shapes: bool, values: bool) -> object:
    """Containers by what is in them, numbers and words by themselves, anything else by its identity."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each, shapes, values) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [type(value), *(_plain(each, shapes, values) for each in value)]
    if isinstance(value, Tensor):
        return _tensor(value, shapes, values)
    return value if isinstance(value, int | float | str | None) else id(value)


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Where two of these differ, in words."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        missing = object()
        return [
            line
            for key in keys
            for line in differences(before.get(key, missing), after.get(key, missing), f"{path}/{key}")
        ]
    return [] if before == after else [f"{path}: {before!r:.80} became {after!r:.80}"]
