"""Low-rank adapters by `peft`: W stays, and what is trained is its change B A of rank r.

    y = W x + (alpha / r) B A x         Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3

The layers of the module get another name inside (`base_layer`), so its state_dict is no longer the plain module's until
`merge_lora` adds B A to W and takes the adapters out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from lightning_autoarch.errors import TransferError
from lightning_autoarch.transfer.patterns import Names

FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # read their layers' weights, past any adapter


def add_lora(module: nn.Module, head: Collection[str], options: Mapping[str, Any]) -> bool:
    """Put adapters into a module, whose own parameters then are frozen but for the head; not twice.

    Args:
        module: changed in place.
        head: names of the parameters of the output layer.
        options: of `peft.LoraConfig`; without `target_modules` every linear layer outside of the head is adapted.

    Returns:
        Whether there were none before.

    Raises:
        TransferError: `peft` is missing, or there is nothing to adapt.
    """
    peft = _peft()
    if any(isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer) for layer in module.modules()):
        return False
    names = Names(module)
    trained = [names.parameters[name] for name in head if names.parameters[name].requires_grad]
    chosen = {} if "target_modules" in options else {"target_modules": _linear_layers(module, names, head)}
    config = peft.LoraConfig(**chosen, **options)
    peft.inject_adapter_in_model(config, module)
    for parameter in trained:
        parameter.requires_grad_(True)
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


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise TransferError('`strategy="lora"` needs peft: `pip install "lightning-autoarch[lora]"`.') from error
    return peft


def _linear_layers(module: nn.Module, names: Names, head: Collection[str]) -> str:
    """A pattern for the paths of linear layers."""
    top = {id(names.parameters[name]) for name in head}
    fused = {id(layer) for outer in module.modules() if isinstance(outer, FUSED) for layer in outer.modules()}
    paths = [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and id(layer) not in fused and id(layer.weight) not in top
    ]
    if not paths:
        raise TransferError(
            'Expected a linear layer outside of the head for `strategy="lora"`, got none (those of MultiheadAttention '
            'and TransformerEncoderLayer cannot be adapted). Name layers by `lora={"target_modules": [...]}`.'
        )
    return "|".join(map(re.escape, paths))
