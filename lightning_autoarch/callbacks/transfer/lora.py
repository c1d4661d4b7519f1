"""Low-rank adapters by `peft`: W stays, and what is trained is its change B A of rank r.

    y = W x + (alpha / r) B A x         Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3

The layers of the module have another name inside (`base_layer`) until `merge_lora` adds B A to W and removes the
adapters. Nevertheless the module is saved as the plain module that it computes, and loads a plain one:

    state_dict()         layer.base_layer.weight, layer.lora_A..., layer.lora_B...   ─►   layer.weight, adapters merged
    load_state_dict()    layer.weight   ─►   layer.base_layer.weight, and adapters that add nothing

So a checkpoint of a fit with adapters loads without this package and without peft. To resume bit for bit, the state of
the callback holds the tensors of the adapted layers, also those of an averaged copy of the module.

This is done by hooks on the outermost module for as long as it has adapters. They are functions of this file, which
copies of the module have too, and `merge_lora` removes them.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.seam.lightning import average_of, callbacks_of, trainer_of
from lightning_autoarch.transfer.tune.trainable import TrainableNames

BASE = "base_layer."
INITIALLY_ZERO = ("lora_B.", "lora_embedding_A.")  # of an adapter that has not been trained
AVERAGE = "average:"  # before the names of an averaged copy


def add_hooks(module: nn.Module) -> None:
    """Save and load a module with adapters as a plain one from now on."""
    module.register_state_dict_post_hook(_save_plain)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(_load_plain)  # type: ignore[no-untyped-call]


def remove_hooks(module: nn.Module) -> None:
    """Save and load the module unchanged again."""
    for key, hook in list(module._state_dict_hooks.items()):
        if hook is _save_plain:
            del module._state_dict_hooks[key]
    for key, wrapped in list(module._load_state_dict_pre_hooks.items()):
        if getattr(wrapped, "hook", wrapped) is _load_plain:
            del module._load_state_dict_pre_hooks[key]


def saved_adapters(module: LightningModule) -> dict[str, Tensor]:
    """Copies of the tensors of the adapted layers; the names of those of an average begin with `average:`."""
    found = {name: tensor.detach().clone() for name, tensor in _tensors(module)}
    for average in _averages(module):
        found |= {f"{AVERAGE}{name}": tensor.detach().clone() for name, tensor in _tensors(average)}
    return found


def restore_adapters(module: LightningModule, saved: Mapping[str, Tensor]) -> None:
    """Restore the result of `saved_adapters`. If it is empty, the adapters keep their initial values.

    Raises:
        TransferError: The tensors are of other adapters.
    """
    if not saved:
        return
    _restore(module, {name: t for name, t in saved.items() if not name.startswith(AVERAGE)})
    averages = {name.removeprefix(AVERAGE): t for name, t in saved.items() if name.startswith(AVERAGE)}
    for average in _averages(module):
        if averages:
            _restore(average, averages)


def check_averages(callback: Callback, trainer: Trainer) -> None:
    """Raise TransferError if an average copies the module before it has adapters."""
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
            f"Expected the adapters of the checkpoint that is resumed, got others: `{other}` differs. Pass the options "
            "of `lora` that it was trained with, and its `head`, which is not adapted."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _adapted(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The path of each adapted layer with a trailing dot, and the layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield f"{path}.", layer


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, layer in _adapted(module):
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            yield f"{path}{name}", tensor


def _averages(module: LightningModule) -> Iterator[nn.Module]:
    """The averaged copies of the module that Lightning keeps."""
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
    """A state_dict with the tensors of a plain layer instead of those of an adapted one."""
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


MISSING = '`strategy="lora"` needs peft: `pip install "lightning-autoarch[lora]"`'
RANK = 8  # the default of peft
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # they read the weights of their layers, bypassing adapters


def check_lora(module: nn.Module, head: Collection[str], options: Mapping[str, Any]) -> None:
    """Raise what `add_lora` would raise, without changing anything."""
    if not _is_adapted(module):
        _config(module, head, options)


def add_lora(module: nn.Module, head: Collection[str], options: Mapping[str, Any]) -> bool:
    """Insert adapters into a module that has none, and freeze its own parameters except for the head.

    Args:
        module: The module, changed in place.
        head: Names of the output layer's parameters.
        options: Options of `peft.LoraConfig`. Without `target_modules` every linear layer outside of the head is
            adapted, including the `Conv1D` of transformers (as in GPT-2).

    Returns:
        Whether adapters were inserted.

    Raises:
        TransferError: `peft` is not installed, options are wrong, or there is nothing to adapt.
    """
    if _is_adapted(module):
        return False
    config, names, peft = _config(module, head, options), TrainableNames(module), _peft()
    trained = [names.parameters[name] for name in head if names.parameters[name].requires_grad]
    with warnings.catch_warnings():  # peft warns that it finds out the layout of a weight by itself
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to ")
        try:
            peft.inject_adapter_in_model(config, module)
        except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise TransferError(f"peft could not put adapters into {type(module).__name__}: {error}") from error
    for parameter in trained:
        parameter.requires_grad_(True)
    add_hooks(module)
    return True


def merge_lora(module: nn.Module) -> None:
    """Merge the adapters into the weights and remove them: the module computes the same, under its plain names."""
    layer_type = _peft().tuners.tuners_utils.BaseTunerLayer
    for path, layer in list(module.named_modules()):
        if isinstance(layer, layer_type):
            layer.merge()
            parent, _, leaf = path.rpartition(".")
            setattr(module.get_submodule(parent), leaf, layer.get_base_layer())
            layer.get_base_layer().requires_grad_(True)
    remove_hooks(module)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise TransferError(f"{MISSING}.") from error
    return peft


def _is_adapted(module: nn.Module) -> bool:
    layer_type = _peft().tuners.tuners_utils.BaseTunerLayer
    return any(isinstance(layer, layer_type) for layer in module.modules())


def _config(module: nn.Module, head: Collection[str], options: Mapping[str, Any]) -> Any:
    """The `LoraConfig` of options, checked against a module."""
    peft, rank = _peft(), options.get("r", RANK)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise TransferError(f"Expected `r` of `lora` to be an int >= 1, got {rank!r}.")
    named = (
        {} if "target_modules" in options else {"target_modules": _linear_layers(module, TrainableNames(module), head)}
    )
    try:
        config = peft.LoraConfig(**named, **options)
    except (TypeError, ValueError) as error:
        raise TransferError(f"Expected `lora` as options of `peft.LoraConfig`, got {options!r:.80}: {error}") from error
    target = config.target_modules
    if not isinstance(target, str | Collection):
        raise TransferError(f"Expected `target_modules` of `lora` as names of layers, got {target!r:.80}.")
    found = peft.tuners.tuners_utils.check_target_module_exists
    if target != "all-linear" and not any(found(config, path) for path, _ in module.named_modules()):
        raise TransferError(f"Expected `target_modules` of `lora` to name layers of the module, got {target!r:.80}.")
    return config


def _linear_layers(module: nn.Module, names: TrainableNames, head: Collection[str]) -> str:
    """A regular expression for the paths of linear layers."""
    from transformers.pytorch_utils import Conv1D  # a dependency of peft

    top = {id(names.parameters[name]) for name in head}
    fused = {id(layer) for outer in module.modules() if isinstance(outer, FUSED) for layer in outer.modules()}
    paths = [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and id(layer) not in fused and id(layer.weight) not in top
    ]
    if not paths:
        raise TransferError(
            'Expected a linear layer outside of the head for `strategy="lora"`, got none (those of MultiheadAttention '
            'and TransformerEncoderLayer cannot be adapted). Name layers by `lora={"target_modules": [...]}`.'
        )
    return "|".join(map(re.escape, paths))
