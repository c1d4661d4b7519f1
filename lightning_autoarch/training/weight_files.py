"""Export the weights only: a state_dict that the plain module loads, without anything about its training.

    .pt .pth               torch.save of a dict, loads with weights_only=True
    .safetensors           complete: a tied weight is stored under each name, as `load_state_dict` expects it
    .sparse.safetensors    values and 1 bit a weight (`training.sparse_file`)

Tensors are saved from the CPU, contiguous and each without the memory around it. Names are those of the module that
`torch.compile` wraps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import ExportError
from lightning_autoarch.core.optional import needed
from lightning_autoarch.core.patterns import plain_name
from lightning_autoarch.training.plain_state import as_bytes, plain_state
from lightning_autoarch.training.sparse_file import load_sparse, save_sparse

State = dict[str, Any]  # tensors, and in a .pt what a module's `get_extra_state` gives


def write_weights(form: str, module: nn.Module, path: Path) -> State:
    """Write the module's weights, and return them as the file gives them back: the same bits, or an error.

    Raises:
        PruneTypeError, PruneValueError: a tensor cannot be stored.
        ExportError: the file does not load, or gives back something else.
        MissingPackageError: safetensors is not installed.
    """
    state = {plain_name(name): value for name, value in module.state_dict().items()}
    extra = {name: value for name, value in state.items() if form == "state_dict" and not isinstance(value, Tensor)}
    plain = plain_state({name: value for name, value in state.items() if name not in extra})
    written = {name: extra[name] if name in extra else plain[name] for name in state}
    _WRITE[form](written, path)
    loaded = _READ[form](path)
    _check_same(plain, loaded)
    return loaded


def run_with(module: nn.Module, state: State, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The output of the module with these weights instead of its own, which are not changed."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    swapped = {name: state[plain_name(name)].to(own[name].device) for name in own if plain_name(name) in state}
    return torch.func.functional_call(module, swapped, args, kwargs)


def _check_same(written: Mapping[str, Tensor], loaded: State) -> None:
    for name, tensor in written.items():
        got = loaded.get(name)
        same = isinstance(got, Tensor) and got.dtype == tensor.dtype and got.shape == tensor.shape
        if not same or not torch.equal(as_bytes(loaded[name].contiguous()), as_bytes(tensor)):
            raise ExportError(f"The file gives back another `{name}` than was written.")


def _save_pt(state: State, path: Path) -> None:
    torch.save(state, path)


def _load_pt(path: Path) -> State:
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling has no error of its own
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"The state_dict does not load with weights_only=True: {reason}") from error
    return state


def _save_safetensors(state: State, path: Path) -> None:
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        shared = tensor.numel() > 0 and tensor.data_ptr() in seen
        tensors[name] = tensor.clone() if shared else tensor
        seen.add(tensor.data_ptr())
    _safetensors().save_file(tensors, path, metadata={"format": "pt"})


def _load_safetensors(path: Path) -> State:
    state: State = _safetensors().load_file(path)
    return state


def _safetensors() -> Any:
    return needed("safetensors.torch", "A .safetensors file", "safetensors")


_WRITE = {"sparse": save_sparse, "safetensors": _save_safetensors, "state_dict": _save_pt}
_READ = {"sparse": load_sparse, "safetensors": _load_safetensors, "state_dict": _load_pt}
