"""A module with adapters is saved as the plain module that it computes, and takes a plain one back.

    state_dict()         layer.base_layer.weight, layer.lora_A..., layer.lora_B...   ─►   layer.weight, adapters added
    load_state_dict()    layer.weight   ─►   layer.base_layer.weight, and adapters that add nothing

So a checkpoint of a fit with adapters loads where neither this package nor peft is. To go on training bit for bit, the
callback's state has what the adapted layers are made of, of an averaged copy of the module too.

Hooks on the outermost module do this for as long as it has adapters: functions of this file, which copies of the module
have too, and which `merge_lora` takes off with the adapters.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.seam.lightning import average_of, callbacks_of, trainer_of

BASE = "base_layer."
INITIALLY_ZERO = ("lora_B.", "lora_embedding_A.")  # of an adapter that has not been trained
AVERAGE = "average:"  # before the names of an averaged copy


def add_hooks(module: nn.Module) -> None:
    """Let a module with adapters be saved and loaded as a plain one."""
    module.register_state_dict_post_hook(_save_plain)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(_load_plain)  # type: ignore[no-untyped-call]


def remove_hooks(module: nn.Module) -> None:
    """Let it be saved as it is again."""
    for key, hook in list(module._state_dict_hooks.items()):
        if hook is _save_plain:
            del module._state_dict_hooks[key]
    for key, wrapped in list(module._load_state_dict_pre_hooks.items()):
        if getattr(wrapped, "hook", wrapped) is _load_plain:
            del module._load_state_dict_pre_hooks[key]


def saved_adapters(module: LightningModule) -> dict[str, Tensor]:
    """Copies of what the adapted layers are made of, those of an average behind `average:`."""
    found = {name: tensor.detach().clone() for name, tensor in _tensors(module)}
    for average in _averages(module):
        found |= {f"{AVERAGE}{name}": tensor.detach().clone() for name, tensor in _tensors(average)}
    return found


def restore_adapters(module: LightningModule, saved: Mapping[str, Tensor]) -> None:
    """Put back what `saved_adapters` has kept; nothing of a checkpoint that has none, whose adapters start anew.

    Raises:
        TransferError: it is of other adapters.
    """
    if not saved:
        return
    _restore(module, {name: t for name, t in saved.items() if not name.startswith(AVERAGE)})
    averages = {name.removeprefix(AVERAGE): t for name, t in saved.items() if name.startswith(AVERAGE)}
    for average in _averages(module):
        if averages:
            _restore(average, averages)


def check_averages(callback: Callback, trainer: Trainer) -> None:
    """Raises TransferError where an average was made of the module before it had adapters."""
    callbacks = callbacks_of(trainer)
    here = callbacks.index(callback) if callback in callbacks else len(callbacks)
    early = [other for other in callbacks[:here] if isinstance(other, WeightAveraging | StochasticWeightAveraging)]
    if early:
        raise TransferError(
            f'Expected TransferLearning with `strategy="lora"` before {type(early[0]).__name__} among the callbacks, '
            "which copies the module and has to find the adapters in it. Put TransferLearning first."
        )


def _restore(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    own = dict(_tensors(module))
    other = next((n for n, t in own.items() if n not in saved or saved[n].shape != t.shape), None)
    other = other or next((name for name in saved if name not in own), None)
    if other is not None:
        raise TransferError(
            f"Expected the adapters of the checkpoint that is resumed, got others: `{other}` differs. Give the options "
            "of `lora` that it was trained with, and name its `head`, which is not adapted."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _adapted(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Path with a dot behind it, and layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield f"{path}.", layer


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, layer in _adapted(module):
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            yield f"{path}{name}", tensor


def _averages(module: LightningModule) -> Iterator[nn.Module]:
    """The copies of the module that Lightning averages in."""
    trainer = trainer_of(module)
    for callback in [] if trainer is None else callbacks_of(trainer):
        average = average_of(callback) if isinstance(callback, WeightAveraging) else None
        if average is not None:
            yield average


def _save_plain(module: nn.Module, state: MutableMapping[str, Any], prefix: str, metadata: Any) -> None:
    plain = dict(state)
    for path, layer in _adapted(module):
        merged = copy.deepcopy(layer)
        merged.merge()
        own = merged.get_base_layer().state_dict()
        plain = _replaced(plain, f"{prefix}{path}", own)
    for name in list(state):
        del state[name]
    state.update(plain)


def _replaced(state: Mapping[str, Any], path: str, plain: Mapping[str, Tensor]) -> dict[str, Any]:
    """With the tensors of a plain layer where those of an adapted one were."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if not name.startswith(path):
            found[name] = value
        elif name.startswith(f"{path}{BASE}"):
            leaf = name.removeprefix(f"{path}{BASE}")
            found[f"{path}{leaf}"] = plain[leaf]
    return found


def _load_plain(module: nn.Module, state: MutableMapping[str, Any], prefix: str, metadata: Any, *rest: Any) -> None:
    for path, layer in _adapted(module):
        full = f"{prefix}{path}"
        for leaf in list(layer.get_base_layer().state_dict()):
            if f"{full}{leaf}" in state and f"{full}{BASE}{leaf}" not in state:
                state[f"{full}{BASE}{leaf}"] = state.pop(f"{full}{leaf}")
        for name, tensor in layer.state_dict().items():
            if not name.startswith(BASE) and f"{full}{name}" not in state:
                state[f"{full}{name}"] = torch.zeros_like(tensor) if name.startswith(INITIALLY_ZERO) else tensor
