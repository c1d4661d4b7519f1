"""Call a constructor again, with the hyperparameters that a LightningModule or LightningDataModule has saved.

What Lightning saves, and how it is passed back:

    save_hyperparameters()            every argument of `__init__`, those in `**kwargs` by their own names, those in
                                      `*args` not; with those of the base classes that call it too: by name, as far
                                      as `__init__` takes it
    save_hyperparameters("a", "b")    the arguments named
    save_hyperparameters(ignore=...)  the others; the rest have their defaults
    save_hyperparameters(cfg)         the items of `cfg`: as one object (see `hyperparameter_container`)
    save_hyperparameters({...})       items of any dict: by name, as far as `__init__` takes them

If LightningCLI made the object, the saved values are the config as written: `{"class_path": ...}` where `__init__`
takes an instance. It is instantiated again, and saved again as written, so that a checkpoint stays free of objects.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_autoarch.core.errors import SearchError, SpaceError, did_you_mean
from lightning_autoarch.core.rng import seeded
from lightning_autoarch.seam.lightning import CLASS_PATH, INSTANTIATOR, saved_as
from lightning_autoarch.training.hyperparameter_container import (
    Container,
    container_of,
    named_parameters,
    own_parameters,
)
from lightning_autoarch.training.nested import (
    Keys,
    alike,
    check_keys,
    fields_of,
    is_dict_config,
    keys_of,
    listed,
    replaced,
    value_at,
)

_FACTORY = "`ArchitectureSearch(factory=lambda **architecture: ...)`"
_INTERNAL = (INSTANTIATOR, CLASS_PATH)
_NOT_TAKEN = re.compile(r"got (?:multiple values for|an unexpected keyword) (?:keyword )?argument '(\w+)'")


@dataclass(frozen=True)
class Constructor:
    """Builds objects like a given one.

    Attributes:
        cls: their class.
        saved: the hyperparameters, a dict or an OmegaConf DictConfig, without LightningCLI's internal ones.
        internal: those internal ones; they go back into the hyperparameters, never into `__init__`.
        container: the argument that the hyperparameters were saved from as one object, if so.
        from_config: values of `saved` stand for objects that `__init__` takes.
    """

    cls: type
    saved: Any
    internal: Mapping[str, Any]
    container: Container | None
    from_config: bool

    @classmethod
    def of(cls, instance: Any) -> Constructor:
        """The constructor of an instance, with a deep copy of its saved hyperparameters."""
        kind, hparams = type(instance), instance.hparams
        saved = copy.deepcopy(hparams if is_dict_config(hparams) else {**dict(hparams), **_cleaned_away(instance)})
        internal = {name: saved.pop(name) for name in _INTERNAL if name in saved}
        from_config = INSTANTIATOR in internal and _instantiated(kind, saved) != saved
        by_names = cls(kind, saved, internal, None, from_config)
        container = container_of(instance, saved)
        if container is None:
            return by_names
        in_one = cls(kind, saved, internal, container, from_config)
        if not by_names._is_possible():
            return in_one
        # Called by names, a true container stays at its default, of which nothing is saved, unless that is a dict.
        has_items = bool(fields_of(named_parameters(kind)[container.name].default))
        order = (in_one, by_names) if has_items else (by_names, in_one)
        return next((each for each in order if each._reproduces()), in_one)

    def arguments(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments: `saved` overridden by `changes`. Nothing in them is shared with either.

        Nor with the class: a module that is a default, `loss=MeanSquaredError()`, is one object for all calls.
        """
        modules = {name: p.default for name, p in self._named.items() if isinstance(p.default, nn.Module)}
        if self.container is None:
            saved = fields_of(self._changed(self.saved, changes)) or {}
            taken = {name: value for name, value in saved.items() if name in self._named or self._takes_any}
        else:
            beside = {name: value for name, value in changes.items() if self._is_beside(name)}
            inside = {name: value for name, value in changes.items() if name not in beside}
            taken = {self.container.name: self._changed(self.container.value, inside), **copy.deepcopy(beside)}
        return {**copy.deepcopy({name: value for name, value in modules.items() if name not in taken}), **taken}

    def make(self, changes: Mapping[str, Any]) -> Any:
        """Build a new object."""
        with self._saved_as_written(changes):
            return self._call(self.cls, changes)

    def initialise_(self, instance: Any, changes: Mapping[str, Any]) -> None:
        """Run `__init__` on an existing object whose `__dict__` is empty."""

        def initialise(**arguments: Any) -> None:
            kind: Any = type(instance)
            instance.__dict__.clear()
            if kind.__new__ is not object.__new__:  # it may set attributes that `__init__` relies on
                instance.__dict__.update(vars(kind.__new__(kind, **arguments)))
            kind.__init__(instance, **arguments)

        with self._saved_as_written(changes):
            self._call(initialise, changes)

    def check_names(self, names: Iterable[str], prefix: str = "", elsewhere: Iterable[str] = ()) -> None:
        """Check that every name reaches `__init__`.

        Args:
            names: of the space, without their prefix.
            prefix: in the space.
            elsewhere: names that a space may have beside those of this object, for a hint.

        Raises:
            SpaceError: a name does not; the message lists those that do, and suggests the nearest.
        """
        for name in names:
            keys, nested = self._keys(name), "." in name
            if nested:
                known = self.container is not None or (keys[0] in self.saved and self._reaches(keys[0]))
            else:
                known = self._reaches(name)
            if not known:
                raise self._unknown(name, prefix, elsewhere)
            if nested:
                check_keys(self._given, keys, prefix + name)

    def known_names(self) -> list[str]:
        """The names that reach `__init__`, without those that are only inside of others."""
        inside = [] if self.container is None else [str(name) for name in self.saved]
        own = [name for name in self._named if self.container is None or name != self.container.name]
        extras = [str(name) for name in self.saved if self._takes_any and self.container is None]
        return list(dict.fromkeys([*own, *inside, *extras]))

    def as_written(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes by the full names of what they change: `width` inside of the container `cfg` is `cfg.width`."""
        if self.container is None:
            return dict(changes)
        name = self.container.name
        return {
            key if self._is_beside(key) else ".".join((name, *self._keys(key))): value for key, value in changes.items()
        }

    def path(self, name: str) -> Keys:
        """The path to the value of a name of the space, inside of the saved hyperparameters."""
        return self._keys(name)

    def unsaved(self) -> list[str]:
        """Arguments whose values are not among the hyperparameters: they have their defaults in what is made."""
        held = {*self.saved, *([] if self.container is None else [self.container.name])}
        return [name for name in self._named if name not in held]

    def saved_by(self, instance: Any, name: str) -> Any:
        """The value that an instance has saved under a name of the space.

        Raises:
            KeyError: it has saved none.
        """
        return value_at(instance.hparams, self._keys(name))

    @property
    def _named(self) -> dict[str, inspect.Parameter]:
        return named_parameters(self.cls)

    @property
    def _takes_any(self) -> bool:
        return takes_any(own_parameters(self.cls).values())

    @property
    def _given(self) -> Any:
        """What changes are made to."""
        return self.saved if self.container is None else self.container.value

    def _keys(self, name: str) -> Keys:
        """Where a name leads, below the container if there is one."""
        keys = keys_of(name)
        inside = self.container is not None and len(keys) > 1 and keys[0] == self.container.name
        return keys[1:] if inside else keys

    def _is_beside(self, name: str) -> bool:
        """Whether a name is an argument of its own in addition to the container."""
        return self.container is not None and name in self._named and name not in self.saved

    def _reaches(self, name: str) -> bool:
        if self.container is not None:
            return name in self.saved or (self._is_beside(name) and name != self.container.name)
        return name in self._named or self._takes_any

    def _changed(self, values: Any, changes: Mapping[str, Any]) -> Any:
        changed = copy.deepcopy(values)
        for name, value in changes.items():
            changed = replaced(changed, self._keys(name), copy.deepcopy(value))
        return changed

    def _unknown(self, name: str, prefix: str, elsewhere: Iterable[str]) -> SpaceError:
        key = keys_of(name)[0]
        if key in self._named and key != name:
            otherwise = "" if prefix else f", or give {_FACTORY}"
            return SpaceError(
                f"`{prefix}{name}` of the space is inside of `{key}`, which {self.cls.__name__} does not save: let "
                f"`save_hyperparameters` save it{otherwise}."
            )
        known = [prefix + each for each in self.known_names()]
        near = did_you_mean(prefix + key, [*known, *elsewhere])
        return SpaceError(
            f"`{prefix}{name}` of the space is no argument of {self.cls.__name__}.__init__.{near} "
            f"Its arguments are {listed(known)}." + ("" if prefix else f" To search for others give {_FACTORY}.")
        )

    def _call(self, function: Callable[..., Any], changes: Mapping[str, Any]) -> Any:
        """With `**kwargs`, what a base class saved may be more than `__init__` passes on: that is left out.

        Such as `width` of `super().__init__(width=2 * size, **kwargs)`, which comes from `size`.
        """
        left_out: set[str] = set()
        while True:
            arguments = {name: value for name, value in self._objects(changes).items() if name not in left_out}
            try:
                return function(**arguments)
            except TypeError as error:
                name = self._not_passed_on(error, changes)
                if name not in arguments:
                    raise
                left_out.add(name)

    def _not_passed_on(self, error: TypeError, changes: Mapping[str, Any]) -> str:
        """Which of the arguments in `**kwargs` an error is about; empty where it is about something else.

        Raises:
            SpaceError: it is a name of the space.
        """
        found = _NOT_TAKEN.search(str(error))
        name = found.group(1) if found else ""
        if name in self._named or not self._takes_any:
            return ""
        if name in changes:
            raise SpaceError(
                f"`{name}` of the space is no argument that {self.cls.__name__}.__init__ passes on in its `**kwargs`: "
                f"{error}."
            ) from error
        return name

    def _objects(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        arguments = self.arguments(changes)
        return _instantiated(self.cls, arguments) if self.from_config else arguments

    def _saved_as_written(self, changes: Mapping[str, Any]) -> AbstractContextManager[None]:
        if INSTANTIATOR not in self.internal:
            return nullcontext()
        others = {name: value for name, value in self.internal.items() if name != INSTANTIATOR}
        written = {**others, **self._changed(dict(self.saved), changes)}
        return saved_as(written, self.internal[INSTANTIATOR])

    def _is_possible(self) -> bool:
        """Whether every hyperparameter has an argument and the signature accepts the call."""
        arguments = self.arguments({})
        try:
            inspect.signature(self.cls).bind(**arguments)
        except TypeError:
            return False
        return bool(self.saved) and all(name in arguments for name in self.saved)

    def _reproduces(self) -> bool:
        """Whether a new object saves the same hyperparameters. Random states of the caller are restored."""
        try:
            with seeded(0):
                made = self.make({})
            saved = {name: value for name, value in made.hparams.items() if name not in _INTERNAL}
            return alike(saved, dict(self.saved))
        except Exception:  # whatever an `__init__` raises that was called wrongly
            return False


def check_names(
    function: Callable[..., Any],
    what: str,  # how to call the function in a message
    names: Iterable[str],
) -> None:
    """Check that every name of the space is an argument.

    Raises:
        SpaceError: a name is not; the message suggests the nearest argument.
    """
    parameters = inspect.signature(function).parameters
    if takes_any(parameters.values()):
        return
    for name in names:
        if name not in parameters:
            raise SpaceError(
                f"`{name}` of the space is no argument of {what}.{did_you_mean(name, parameters)} "
                f"Its arguments are {listed(parameters)}."
            )


def check_keywords(function: Callable[..., Any], what: str, remedy: str) -> None:
    """Check that every argument can be passed by keyword, as saved hyperparameters are.

    Raises:
        SearchError: an argument is positional-only; the message says what to do.
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
    """Check that the signature of a function accepts `function(**arguments)`.

    Raises:
        SearchError: it does not; the message says what to do.
    """
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise SearchError(f"{what} cannot be called again with what is known: {error}. {remedy}") from None


def takes_any(parameters: Iterable[inspect.Parameter]) -> bool:
    """Whether `**kwargs` is among the parameters of a signature."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _cleaned_away(instance: Any) -> dict[str, Any]:
    """Arguments of `__init__` that `fit` has removed from the hyperparameters since they cannot be pickled."""
    from lightning.pytorch.utilities.parsing import is_picklable

    now, initial = instance.hparams, instance.hparams_initial
    return {name: value for name, value in dict(initial).items() if name not in now and not is_picklable(value)}


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
