"""Which arguments make an object again: the saved hyperparameters of a LightningModule or LightningDataModule.

The same rules as `load_from_checkpoint` follows: hyperparameters saved under one name (`save_hyperparameters(args)`)
go back under that name, and those that `__init__` does not take are left out.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lightning_autoarch.errors import SearchError, SpaceError, did_you_mean

INTERNAL = ("_instantiator", "_class_path")  # what LightningCLI adds to hyperparameters


def saved_arguments(instance: Any) -> dict[str, Any]:
    """The hyperparameters that `instance` saved, deeply copied, without LightningCLI's internal ones."""
    hparams = copy.deepcopy(dict(instance.hparams))
    return {name: value for name, value in hparams.items() if name not in INTERNAL}


def constructor_arguments(
    cls: type,
    saved: Mapping[str, Any],
    container_name: str | None,  # the one argument that all of them were saved from, if so
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Keyword arguments for `cls.__init__`: `saved` overridden by `changes`; nothing is shared with `saved`."""
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    merged = copy.deepcopy({**saved, **changes})
    if container_name and container_name in parameters and container_name not in saved:
        return {container_name: _like_namespace(merged)}
    if takes_any(parameters.values()):
        return merged
    return {name: value for name, value in merged.items() if name in parameters}


def check_names(
    function: Callable[..., Any],
    what: str,  # how to call the function in a message
    names: Mapping[str, Any],
    also_known: Mapping[str, Any],
) -> None:
    """Every name of the space must be an argument.

    Raises:
        SpaceError: naming the first that is not, and the nearest that is.
    """
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n != "self"}
    if takes_any(parameters.values()):
        return
    for name in names:
        if name not in parameters and name not in also_known:
            raise SpaceError(f"`{name}` of the space is no argument of {what}.{did_you_mean(name, parameters)}")


def check_binds(
    function: Callable[..., Any],
    what: str,
    arguments: Mapping[str, Any],
    remedy: str,
) -> None:
    """`function(**arguments)` must be a possible call.

    Raises:
        SearchError: it is not; the message holds the remedy.
    """
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise SearchError(f"{what} cannot be called again with what is known: {error}. {remedy}") from None


def takes_any(parameters: Any) -> bool:
    """Whether `**kwargs` is among the parameters of a signature."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _like_namespace(values: dict[str, Any]) -> Any:
    from lightning.fabric.utilities.data import AttributeDict

    return AttributeDict(values)
