"""How to call a constructor again: from the hyperparameters that a LightningModule or LightningDataModule has saved.

The same rules as `load_from_checkpoint` follows: hyperparameters saved under one name (`save_hyperparameters(args)`)
go back under that name, and those that `__init__` does not take are left out. Where LightningCLI made the object, what
is saved is the config as written: `{"class_path": ...}` where `__init__` takes an instance. It is instantiated again,
and saved again as written, so that a checkpoint stays free of objects.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from lightning_autoarch.errors import SearchError, SpaceError, did_you_mean

_INTERNAL = ("_instantiator", "_class_path")  # what LightningCLI adds to hyperparameters


@dataclass(frozen=True)
class Constructor:
    """How to make objects like one.

    Attributes:
        cls: their class.
        saved: the hyperparameters, without LightningCLI's internal ones.
        internal: those internal ones; they go back into the hyperparameters, never into `__init__`.
        container_name: the argument that the hyperparameters were saved from as one object, if so.
        from_config: values of `saved` stand for objects that `__init__` takes.
    """

    cls: type
    saved: Mapping[str, Any]
    internal: Mapping[str, Any]
    container_name: str | None
    from_config: bool

    @classmethod
    def of(cls, instance: Any) -> Constructor:
        """From an instance; what is saved is copied deeply."""
        hparams = copy.deepcopy(dict(instance.hparams))
        internal = {name: hparams.pop(name) for name in _INTERNAL if name in hparams}
        kind = type(instance)
        from_config = "_instantiator" in internal and _instantiated(kind, hparams) != hparams
        return cls(kind, hparams, internal, getattr(instance, "_hparams_name", None), from_config)

    def arguments(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments: `saved` overridden by `changes`. Nothing in them is shared with either."""
        parameters = inspect.signature(self.cls.__init__).parameters  # type: ignore[misc]
        merged = copy.deepcopy({**self.saved, **changes})
        if self.container_name and self.container_name in parameters and self.container_name not in self.saved:
            return {self.container_name: _like_namespace(merged)}
        if takes_any(parameters.values()):
            return merged
        return {name: value for name, value in merged.items() if name in parameters}

    def make(self, changes: Mapping[str, Any]) -> Any:
        """A new object."""
        with self._saved_as_written(changes):
            return self.cls(**self._objects(changes))

    def initialise_(self, instance: Any, changes: Mapping[str, Any]) -> None:
        """Run `__init__` on an existing one."""
        with self._saved_as_written(changes):
            type(instance).__init__(instance, **self._objects(changes))

    def _objects(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        arguments = self.arguments(changes)
        return _instantiated(self.cls, arguments) if self.from_config else arguments

    def _saved_as_written(self, changes: Mapping[str, Any]) -> AbstractContextManager[None]:
        if "_instantiator" not in self.internal:
            return nullcontext()
        from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context

        others = {name: value for name, value in self.internal.items() if name != "_instantiator"}
        written = {**others, **copy.deepcopy(dict(self.saved)), **changes}
        return _given_hyperparameters_context(written, self.internal["_instantiator"])


def check_names(
    function: Callable[..., Any],
    what: str,  # how to call the function in a message
    names: Iterable[str],
    also_known: Iterable[str] = (),
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


def check_keywords(function: Callable[..., Any], what: str, remedy: str) -> None:
    """Every argument can be given by its name, as saved hyperparameters are.

    Raises:
        SearchError: one is positional-only; the message holds the remedy.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise SearchError(f"`{name}` of {what} is positional-only, but arguments are given by name. {remedy}")


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


def takes_any(parameters: Iterable[inspect.Parameter]) -> bool:
    """Whether `**kwargs` is among the parameters of a signature."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _instantiated(cls: type, written: Mapping[str, Any]) -> dict[str, Any]:
    """The objects that a config's values stand for: a class path becomes an instance, a name a member of an Enum."""
    parser, names = _parser(cls)
    parsed = parser.parse_object({"of": {name: value for name, value in written.items() if name in names}})
    return {**written, **parser.instantiate(parsed)["of"]}


@functools.lru_cache(maxsize=8)
def _parser(cls: type) -> tuple[Any, frozenset[str]]:
    """A jsonargparse parser of a class's arguments, and their names; reading the signature takes most of the time."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    added = parser.add_class_arguments(cls, "of", fail_untyped=False, instantiate=False)
    return parser, frozenset(name.removeprefix("of.") for name in added)


def _like_namespace(values: dict[str, Any]) -> Any:
    from lightning.fabric.utilities.data import AttributeDict

    return AttributeDict(values)
