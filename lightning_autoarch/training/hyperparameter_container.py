"""The argument that holds all hyperparameters, if `__init__` takes them in a single object.

    def __init__(self, cfg):                                 # a dict, a Namespace, an OmegaConf DictConfig, a dataclass
        self.save_hyperparameters(cfg)                       # or vars(cfg), or dataclasses.asdict(cfg)

Lightning notes the argument's name in `_hparams_name`, but finds it by `argument == hyperparameters`. A torchmetrics
Metric makes a metric of every comparison, which is true, so a loss among the arguments is taken for the container; and
`vars(cfg)` equals no argument. So the name counts only where it is consistent with the signature; where the call by
names is possible as well, `Constructor` tries both. The name "kwargs" stands for hyperparameters that were saved by
their own names; those of `**kwargs` are among them, each by its name, and those of `*args` are not.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from lightning_autoarch.seam.lightning import hyperparameters_name
from lightning_autoarch.training.nested import fields_of, is_dict_config


@dataclass(frozen=True)
class Container:
    """One argument that holds all saved hyperparameters.

    Attributes:
        name: of the argument.
        value: an object like the one that was passed; candidates get changed copies of it.
    """

    name: str
    value: Any


def own_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class's `__init__` without `self`, whatever that is called."""
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])  # type: ignore[misc]


def named_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Those parameters that can be passed by keyword."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in own_parameters(cls).items() if p.kind not in variadic}


def container_of(
    instance: Any,
    saved: Any,  # its hyperparameters, a dict or a DictConfig
) -> Container | None:
    """The container that the signature allows; None if hyperparameters are passed by their own names."""
    parameters = named_parameters(type(instance))
    name = hyperparameters_name(instance)
    if name not in parameters or name in saved or not _may_hold(parameters[name].default):
        name = _only_unknown(parameters, saved)
        found = None if name is None else _as_given(instance, name, saved)
        return None if name is None or found is None else Container(name, found)
    found = _as_given(instance, name, saved)
    return Container(name, _attribute_dict(saved) if found is None else found)


def _may_hold(default: Any) -> bool:
    return default in (inspect.Parameter.empty, None) if _is_plain(default) else fields_of(default) is not None


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, type | str | int | float)


def _only_unknown(parameters: Mapping[str, inspect.Parameter], saved: Any) -> str | None:
    """The only required argument that was not saved, if nothing that was saved is an argument."""
    required = [name for name, p in parameters.items() if p.default is p.empty and name not in saved]
    return required[0] if len(required) == 1 and not any(name in parameters for name in saved) else None


def _as_given(instance: Any, name: str, saved: Any) -> Any:
    """An object of the kind that was given: one that the instance still holds, or one of the kind that is annotated."""
    if is_dict_config(saved):
        return saved
    values = dict(saved)
    for held in vars(instance).values():
        if _is_object(held) and _plain(held) == values:
            return copy.deepcopy(held)
    return _of_kind(_annotation(type(instance), name), values)


def _is_object(value: Any) -> bool:
    """Whether it is a container, but not a mapping, so that a dict cannot replace it."""
    return fields_of(value) is not None and not isinstance(value, Mapping)


def _plain(value: Any) -> Any:
    """Its fields, with nested dataclasses as dicts, as `dataclasses.asdict` returns them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(field) for name, field in (fields_of(value) or {}).items()}
    if is_dict_config(value):
        from omegaconf import OmegaConf

        return OmegaConf.to_container(value, resolve=True)
    return fields_of(value) if _is_object(value) else value


def _annotation(cls: type, name: str) -> Any:
    try:
        return typing.get_type_hints(cls.__init__).get(name)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
        return None


def _of_kind(kind: Any, values: dict[str, Any]) -> Any:
    """An object of the annotated type; None if the annotation names no type that can be built."""
    if not isinstance(kind, type):
        return None
    if issubclass(kind, Namespace | SimpleNamespace):
        return kind(**values)
    if kind.__module__.startswith("omegaconf.") and kind.__name__ == "DictConfig":
        from omegaconf import OmegaConf

        return OmegaConf.create(values)
    if not dataclasses.is_dataclass(kind) or {f.name for f in dataclasses.fields(kind) if f.init} != values.keys():
        return None
    flat = not any(isinstance(value, Mapping) for value in values.values())  # a dict may stand for a dataclass within
    return kind(**values) if flat else None


def _attribute_dict(values: Any) -> Any:
    from lightning.fabric.utilities.data import AttributeDict

    return AttributeDict(dict(values))
