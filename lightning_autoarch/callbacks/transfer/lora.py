"""Low-rank adapters by `peft`: W stays, and what is trained is its change B A of rank r.

    y = W x + (alpha / r) B A x         Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3

The layers of the module get another name inside (`base_layer`) until `merge_lora` adds B A to W and takes the adapters
out. Its state_dict is the plain module's all the time, see merged.py.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from lightning_autoarch.callbacks.transfer.merged import add_hooks, remove_hooks
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.patterns import Names

MISSING = '`strategy="lora"` needs peft: `pip install "lightning-autoarch[lora]"`'
RANK = 8  # of peft, where `lora` has none
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # read their layers' weights, past any adapter


def check_lora(module: nn.Module, head: Collection[str], options: Mapping[str, Any]) -> None:
    """Raise what `add_lora` would, with nothing changed."""
    if not _is_adapted(module):
        _config(module, head, options)


def add_lora(module: nn.Module, head: Collection[str], options: Mapping[str, Any]) -> bool:
    """Put adapters into a module, whose own parameters then are frozen but for the head; not twice.

    Args:
        module: changed in place.
        head: names of the parameters of the output layer.
        options: of `peft.LoraConfig`; without `target_modules` every linear layer outside of the head is adapted, those
            that transformers call `Conv1D` (as in GPT-2) among them.

    Returns:
        Whether there were none before.

    Raises:
        TransferError: `peft` is missing, wrong options, or there is nothing to adapt.
    """
    if _is_adapted(module):
        return False
    config, names, peft = _config(module, head, options), Names(module), _peft()
    trained = [names.parameters[name] for name in head if names.parameters[name].requires_grad]
    with warnings.catch_warnings():  # peft finds out by itself which way round a weight lies, and says so
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
    """Add the adapters to the weights and take them out: the module computes the same, under its plain names."""
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
    """The `LoraConfig` of options that are right for a module."""
    peft, rank = _peft(), options.get("r", RANK)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise TransferError(f"Expected `r` of `lora` to be a whole number from 1 on, got {rank!r}.")
    named = {} if "target_modules" in options else {"target_modules": _linear_layers(module, Names(module), head)}
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


def _linear_layers(module: nn.Module, names: Names, head: Collection[str]) -> str:
    """A pattern for the paths of linear layers."""
    from transformers.pytorch_utils import Conv1D  # peft needs it too

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
