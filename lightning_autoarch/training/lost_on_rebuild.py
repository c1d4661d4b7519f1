"""What a rebuild loses: everything in a module that its saved hyperparameters do not restore.

Candidates and the winner are made by `__init__` from the saved hyperparameters. An argument that was not saved
returns to its default, and what was done after `__init__` is lost. So the module is compared, part by part, with one
that is freshly built from its own hyperparameters:

    attributes and parts         missing, another class or configuration (`Dropout(p=0.5)`), other plain values
    parameters and buffers       shape, dtype, `requires_grad`; values that were written since
    state of parts               train or eval mode, hooks, `torch.compile`

Such a loss is not an error, since the search may be useful in spite of it: a warning is issued before it begins.
Differences that two fresh builds have too, such as a random identifier, are not mentioned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from lightning_autoarch.seam.lightning import is_compiled

Described = Mapping[tuple[str, str], str]  # (part, what of it) -> as text

STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")  # set by `torch.compile(module)`
_MOST = 3  # names of one kind in a message
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
_MODE, _KIND, _HOOKED, _COMPILED = "train/eval mode", "", "hooks", "torch.compile"


def lost_names(module: LightningModule, fresh: LightningModule) -> list[str]:
    """Names that `module` holds and `fresh` does not; empty if the layers are only made for the fit."""
    if _is_completed_later(module):
        return []
    held = [*module.__dict__, *module._modules, *module._buffers, *module._parameters]
    fresh_names = {*fresh.__dict__, *fresh._modules, *fresh._buffers, *fresh._parameters}
    compiled = STEPS if is_compiled(module) else ()
    return [name for name in held if name not in (*fresh_names, *compiled) and not name.startswith("_")]


def lost_on_rebuild(
    module: LightningModule,
    fresh: LightningModule,  # built of the same hyperparameters
    build: Callable[[], LightningModule],  # makes another one
) -> list[str]:
    """Descriptions of what a rebuild loses, the most important first; empty if nothing is lost."""
    lost = lost_names(module, fresh)
    shapes = [] if _is_completed_later(module) else _other_shapes(module, fresh)
    lost += [name for name in shapes if name.partition(".")[0] not in lost]
    now, then = described(module), described(fresh)
    other = [key for key in now if key in then and now[key] != then[key]]
    if other:
        again = described(build())
        other = [key for key in other if again.get(key) == then[key]]
    replaced = [part for part, what in other if what == _KIND]
    other = [(part, what) for part, what in other if what == _KIND or not _is_below(part, replaced)]
    return [*_shortened(lost), *_in_words(other, now, then)]


def changed_weights(module: LightningModule, fresh: LightningModule) -> list[str]:
    """Names of weights and buffers that were written to more often than those of `fresh`, and differ from them.

    PyTorch counts the writes: `__init__` makes the same number each time, `load_state_dict` and training add some.
    What the count does not show (a module that was copied or assigned later) is not mentioned.
    """
    then = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
    held = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, now in held if name in then and _written_since(now, then[name])]


def described(module: nn.Module) -> Described:
    """Everything that is compared, as text."""
    texts: dict[tuple[str, str], str] = {}
    for name, part in module.named_modules():
        texts |= {(name, what): text for what, text in _of_part(part, is_root=not name).items()}
    for name, parameter in module.named_parameters():
        texts[name, "requires_grad"] = str(parameter.requires_grad)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        texts[name, "dtype"] = str(tensor.dtype)
    return texts


def _of_part(part: nn.Module, is_root: bool) -> dict[str, str]:
    configuration = "" if is_root else f"({part.extra_repr()})"
    texts = {_KIND: type(part).__name__ + re.sub(r"0x[0-9a-f]+", "0x", configuration)}
    texts |= {_MODE: "train" if part.training else "eval", _COMPILED: str(part._compiled_call_impl is not None)}
    texts[_HOOKED] = str([len(getattr(part, hooks, None) or ()) for hooks in _HOOKS])
    public = {name: value for name, value in vars(part).items() if not name.startswith("_") and name != "training"}
    return {**texts, **{name: as_text(value) for name, value in public.items()}}


def as_text(value: Any) -> str:
    """The `repr` of a plain value; the name or the class of any other."""
    if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype):
        return repr(value)
    if isinstance(value, list | tuple) and len(value) <= 20:
        return f"{type(value).__name__}({', '.join(as_text(item) for item in value)})"
    if isinstance(value, torch.Tensor):
        return f"Tensor{tuple(value.shape)}"
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else type(value).__name__


def _in_words(keys: list[tuple[str, str]], now: Described, then: Described) -> list[str]:
    said: list[str] = []
    for what in dict.fromkeys(what for _, what in keys):
        parts = [part for part, other in keys if other == what]
        if what in (_MODE, _HOOKED, _COMPILED, "requires_grad", "dtype"):
            said.append(f"{what} of {', '.join(_shortened([part or 'the whole' for part in parts]))}")
            continue
        for part in _shortened(parts):
            name = ".".join(filter(None, (part, what)))
            is_there = (part, what) in now
            said.append(f"{name} ({now[part, what]}, rebuilt as {then[part, what]})" if is_there else name)
    return said


def _shortened(names: list[str]) -> list[str]:
    return names if len(names) <= _MOST else [*names[:_MOST], f"{len(names) - _MOST} others"]


def _is_below(part: str, replaced: list[str]) -> bool:
    """Whether the difference is inside of a part that is reported as a whole, since its class differs."""
    return any(part == other or part.startswith(f"{other}.") for other in replaced)


def _is_completed_later(module: LightningModule) -> bool:
    return is_overridden("configure_model", module) or is_overridden("setup", module)


def _other_shapes(module: LightningModule, fresh: LightningModule) -> list[str]:
    now, then = _shapes(module), _shapes(fresh)
    return [name for name in {**now, **then} if now.get(name) != then.get(name)] if now and then else []


def _shapes(module: LightningModule) -> dict[str, torch.Size]:
    """Shapes of the parameters, tied ones once; empty for a module whose first batch decides them."""
    parameters = dict(module.named_parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters.values()):
        return {}
    return {name: parameter.shape for name, parameter in parameters.items()}


def _written_since(now: torch.Tensor, then: torch.Tensor) -> bool:
    if any(nn.parameter.is_lazy(t) or t.is_meta or t.is_inference() for t in (now, then)) or now.shape != then.shape:
        return False
    return now._version > then._version and not torch.equal(now.detach().cpu(), then.detach().cpu())
