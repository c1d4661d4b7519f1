"""Making the user's module again with another architecture: a fresh one for a trial, or the same object in place.

An architecture is a set of `__init__` arguments over the module's saved hyperparameters, which are copied once and then
again for every candidate (a module among them would otherwise be shared by all candidates and changed by each).
Rebuilding in place runs `__init__` on an emptied `__dict__`: references to the module stay valid, and on any error the
old content returns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_autoarch.errors import SearchError
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.arguments import (
    INTERNAL,
    check_binds,
    check_names,
    constructor_arguments,
    saved_arguments,
)
from lightning_autoarch.training.optimizers import carried_optimizers, carry_optimizers

Factory = Callable[..., LightningModule]

_REMEDY = (
    "Call `self.save_hyperparameters()` at the top of `__init__`, or give "
    "ArchitectureSearch(factory=lambda **architecture: ...)."
)


@dataclass(frozen=True)
class ModuleBuilder:
    """How to make candidates of one module.

    Attributes:
        cls: the module's class.
        saved: its hyperparameters, without LightningCLI's internal ones.
        internal: those internal ones; they go back into the hyperparameters, never into `__init__`.
        container_name: the argument that the hyperparameters were saved from as one object, if so.
        factory: makes a module from an architecture, instead of `cls`.
        optimizers: what LightningCLI bound to the instance as `configure_optimizers`, if anything.
    """

    cls: type[LightningModule]
    saved: Mapping[str, Any]
    internal: Mapping[str, Any]
    container_name: str | None
    factory: Factory | None
    optimizers: Any = None

    @classmethod
    def of(cls, module: LightningModule, factory: Factory | None = None) -> ModuleBuilder:
        """A builder of modules like `module`."""
        hparams = dict(module.hparams)
        return cls(
            cls=type(module),
            saved=saved_arguments(module) if factory is None else {},
            internal={name: hparams[name] for name in INTERNAL if name in hparams},
            container_name=getattr(module, "_hparams_name", None),
            factory=factory,
            optimizers=carried_optimizers(module),
        )

    def check(self, names: Mapping[str, Any], architecture: Architecture) -> None:
        """Before the first trial: every name of the space is an argument, and `architecture` can be built.

        Raises:
            SpaceError: a name that is no argument.
            SearchError: a required argument that is not known.
        """
        target: Callable[..., Any] = self.factory or self.cls
        what = f"`factory` {target!r}" if self.factory else f"{self.cls.__name__}.__init__"
        also_known = self.saved if self.container_name else {}
        check_names(target, what, names, also_known)
        check_binds(target, what, self._arguments(architecture), "" if self.factory else _REMEDY)

    def build(self, architecture: Architecture) -> LightningModule:
        """A fresh module of this architecture."""
        if self.factory is not None:
            module = self.factory(**self._arguments(architecture))
            if not isinstance(module, LightningModule):
                raise SearchError(f"Expected `factory` to return a LightningModule, got {type(module).__name__}.")
        else:
            module = self.cls(**self._arguments(architecture))
        self._finish(module)
        return module

    def rebuild_(self, module: LightningModule, architecture: Architecture) -> None:
        """Make `module` itself one of this architecture, freshly initialised; on any error it is as before."""
        old = dict(module.__dict__)
        try:
            module.__dict__.clear()
            if self.factory is not None:
                self._adopt(module, self.factory(**self._arguments(architecture)))
            else:
                type(module).__init__(module, **self._arguments(architecture))
            self._finish(module)
        except BaseException:
            module.__dict__.clear()
            module.__dict__.update(old)
            raise
        module._trainer = old["_trainer"]

    def lost_attributes(self, module: LightningModule, fresh: LightningModule) -> list[str]:
        """Names that `module` holds but a freshly built one does not: set after `__init__`, so a rebuild loses them."""
        if is_overridden("configure_model", module) or is_overridden("setup", module):
            return []
        held = [*module.__dict__, *module._modules, *module._buffers, *module._parameters]
        fresh_names = {*fresh.__dict__, *fresh._modules, *fresh._buffers, *fresh._parameters}
        return [name for name in held if name not in fresh_names and not name.startswith("_")]

    def _arguments(self, architecture: Architecture) -> dict[str, Any]:
        if self.factory is not None:
            return copy.deepcopy(architecture)
        return constructor_arguments(self.cls, self.saved, self.container_name, architecture)

    def _adopt(self, module: LightningModule, made: Any) -> None:
        if type(made) is not type(module):
            raise SearchError(
                f"Expected `factory` to return a {type(module).__name__} like the module given to `fit`, "
                f"got {type(made).__name__}."
            )
        module.__dict__.update(made.__dict__)

    def _finish(self, module: LightningModule) -> None:
        if self.internal:
            module._hparams.update(self.internal)
            module.__dict__["_hparams_initial"] = copy.deepcopy(module._hparams)
        if self.optimizers is not None:
            carry_optimizers(self.optimizers, module)
