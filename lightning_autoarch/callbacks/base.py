"""`AutoArchCallback`: the contract between this package and a callback, for ours and for those of third parties.

A callback that derives from it gets four things, and overrides only what it needs:

life        `bind` and `is_bound_to` say which module a fit belongs to. Copies and pickles leave behind what
            `fit_attributes` lists: hooks, modules and other things of this process.
state       `save_state` and `restore_state` exchange plain data, whose form is a `Schema` with a version. A damaged,
            foreign or newer state is one clear error before anything is changed.
tunables    `tunables` declares what a search may vary. Joint search, `choose`, the command line and reports read this
            declaration; none of them knows a callback by its name.
a trial     `settled`, `shares_of_net`, `forget` and `start_from` say what a trial of a search has to know.

Example::

    class Smoothing(AutoArchCallback):
        prefix = "smooth"                                    # `smooth.alpha` in a space
        schema = Schema("Smoothing", 1, {"steps": whole()})

        def __init__(self, alpha: float = 0.1, rate: float | dict[str, float] = 0.0) -> None:
            self.alpha, self.rate = alpha, rate
            self.steps = 0

        def tunables(self) -> list[Tunable]:
            return [Tunable("alpha", float), Tunable("rate", float), Tunable("rate", float, by_pattern=True)]

        def save_state(self) -> dict[str, Any]:
            return {"steps": self.steps}

        def restore_state(self, state: dict[str, Any]) -> None:
            self.steps = state["steps"]
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_autoarch.callbacks.flavour import check_flavour
from lightning_autoarch.callbacks.unique import check_unique
from lightning_autoarch.core.errors import AutoArchError, SearchError
from lightning_autoarch.core.prefixes import declare_prefix
from lightning_autoarch.core.schema import VERSION, Schema, is_empty

_OF_MODULE = ("log", "log_dict")  # methods of the module that Lightning puts on a callback


@dataclass(frozen=True)
class Tunable:
    """A value of a callback that a search may vary, under the name `<prefix>.<name>` in a space.

    Attributes:
        name: follows the callback's prefix: "alpha" for `smooth.alpha`.
        kind: the class of its values, or several. A float also takes ints; None takes whatever the constructor takes.
        argument: the argument of the constructor that is set. None: the one called `name`.
        field: the field of a dataclass that is set, where the argument holds one and the rest of it stays as it is.
        by_pattern: whether the name continues with a key, `<prefix>.<name>.<pattern>`, and sets that entry of an
            argument that is a mapping. A plain value of the argument is kept for every other key, as the pattern `*`.
        overruled_by: an argument that leaves this value without effect as soon as it is a mapping.
        sets_weights: whether the value says from which weights training starts. Such a value has no effect in a trial
            that inherits the weights of another one.
    """

    name: str
    kind: type | tuple[type, ...] | None = None
    argument: str | None = None
    field: str | None = None
    by_pattern: bool = False
    overruled_by: str | None = None
    sets_weights: bool = False

    @property
    def sets(self) -> str:
        """The argument of the constructor that is set."""
        return self.argument or self.name

    @property
    def label(self) -> str:
        """The name as messages show it."""
        return f"{self.name}.<pattern>" if self.by_pattern else self.name

    def accepts(self, value: object) -> bool:
        """Whether a value is of the declared kind; a bool is no number."""
        if self.kind is None or value is None:
            return True
        kinds = self.kind if isinstance(self.kind, tuple) else (self.kind,)
        if isinstance(value, bool):
            return bool in kinds
        return isinstance(value, (*kinds, int) if float in kinds else kinds)


class AutoArchCallback(Callback):
    """Base class of callbacks that work with a search; see the module's docstring for an example.

    Every argument of the constructor is kept as an attribute of the same name, as in scikit-learn's estimators, so that
    a search can make the callback again with other values; a class that keeps them otherwise overrides `arguments`.

    Attributes:
        prefix: what the names of its tunables begin with in a space; None: a search varies nothing of it.
        section: the section of a config, `smooth: {alpha: 0.3}`, by which `AutoArchCLI` makes it; the class has to be
            imported before, with a default for every argument. None: configs list it in `trainer.callbacks`.
        schema: the form of its state in a checkpoint; None: it has no state.
        name: distinguishes two callbacks of one class in a Trainer; part of the key of the state.
        error: the class of errors that the base raises about this callback.
        remedy: what to do about two callbacks of the same key, one sentence.
    """

    prefix: ClassVar[str | None] = None
    schema: ClassVar[Schema | None] = None
    error: ClassVar[type[AutoArchError]] = AutoArchError
    remedy: ClassVar[str] = "Give one of them another `name`."
    section: ClassVar[str | None] = None
    name: str | None = None
    _bound: weakref.ref[LightningModule] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "prefix" in cls.__dict__ and cls.prefix is not None:
            declare_prefix(cls.prefix)

    # Life of a fit

    def bind(self, module: LightningModule) -> None:
        """Remember, without keeping it alive, that this fit is of `module`."""
        self._bound = weakref.ref(module)

    def is_bound_to(self, module: LightningModule) -> bool:
        """Whether `module` is the one that was bound last."""
        return self._bound is not None and self._bound() is module

    def unbind(self) -> None:
        """Forget the module that was bound last."""
        self._bound = None

    def bound_module(self) -> LightningModule | None:
        """The module that was bound last; None before, and after it is gone."""
        return None if self._bound is None else self._bound()

    def fit_attributes(self) -> dict[str, object]:
        """Attributes that copies and pickles must not have, and what they have instead.

        These are whatever belongs to this process or to the fit that is running: modules, optimizers, hooks, handlers.
        """
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that Trainer and module are of `lightning.pytorch`; overrides call it first."""
        if stage == "fit":
            check_flavour(self, trainer, pl_module, self.error)

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name not in (*_OF_MODULE, "_bound")}
        return {**own, **self.fit_attributes()}

    # State in a checkpoint

    @property
    def state_key(self) -> str:
        """What a checkpoint finds the state by: the package, the class, and the `name` if there is one.

        Lightning refuses two callbacks of one key in a Trainer. A callback without a state has a key of its own.
        """
        key = f"{type(self).__module__.partition('.')[0]}.{type(self).__name__}"
        if self.schema is None:
            return f"{key}.{id(self)}"
        key += f".{self.name}" if self.name else ""
        check_unique(self, key, self.remedy, self.error)
        return key

    def save_state(self) -> dict[str, Any] | None:
        """The state as `schema` describes it: tensors and plain Python values. None: there is nothing to save."""
        return None

    def restore_state(self, state: dict[str, Any]) -> None:
        """Take over a state of `save_state` that is known to be well formed."""

    def state_dict(self) -> dict[str, Any]:
        state = self.save_state()
        if state is None or self.schema is None:
            return {}
        return {VERSION: self.schema.version, **state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            CheckpointError: the state is damaged, of another program, or of a newer version. Nothing has changed then.
        """
        if self.schema is not None and not is_empty(state_dict):
            self.restore_state(self.schema.read(state_dict))

    # What a search varies

    def tunables(self) -> Sequence[Tunable]:
        """What a search may vary of this callback, with the arguments that it has now."""
        return ()

    def arguments(self) -> dict[str, Any]:
        """What the constructor was called with.

        Raises:
            SearchError: an argument is not kept as an attribute of its name.
        """
        found: dict[str, Any] = {}
        for parameter in list(inspect.signature(type(self).__init__).parameters.values())[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(self, parameter.name):
                raise SearchError(
                    f"{type(self).__name__} cannot be made again with other parameters: its `__init__` must name every "
                    f"argument and keep it as an attribute of that name, but `{parameter.name}` is none."
                )
            found[parameter.name] = getattr(self, parameter.name)
        return found

    def obstacles(self) -> Mapping[str, str]:
        """Arguments with which no trial can end well, each with the reason; checked before any training."""
        return {}

    # What a trial has to know

    @property
    def settled(self) -> bool:
        """Whether the net is of the kind that will come out. Scores of earlier epochs do not count."""
        return True

    @property
    def reshapes(self) -> bool:
        """Whether weights of a module that is trained with it do not fit into the same module without it."""
        return False

    @property
    def reshapes_before_training(self) -> bool:
        """Whether it changes the shapes before training starts, so that it takes no weights of the original module."""
        return False

    def shares_of_net(self) -> Mapping[str, tuple[float, float]]:
        """What it changed of the net as (part, whole), by name: {"sparsity": (weights that are 0, weights)}."""
        return {}

    def forget(self) -> None:
        """Forget every earlier fit: a copy for a trial starts with nothing of one."""

    def start_from(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next fit begin with what another callback of this class was, whose state this is."""

    def make_plain_(self, module: LightningModule) -> None:
        """Turn a module that was trained with this callback into a plain one with the same function, in place."""


def declared_callbacks() -> Iterator[type[AutoArchCallback]]:
    """All classes below `AutoArchCallback` that are imported."""
    waiting = AutoArchCallback.__subclasses__()
    while waiting:
        cls = waiting.pop()
        yield cls
        waiting += cls.__subclasses__()
