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

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from lightning_autoarch.errors import SearchError
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.arguments import Constructor, check_binds, check_keywords, check_names
from lightning_autoarch.training.optimizers import LateOptimizers, carried_optimizers

Factory = Callable[..., LightningModule]

_FACTORY = "ArchitectureSearch(factory=lambda **architecture: ...)"
_REMEDY = f"Call `self.save_hyperparameters()` at the top of `__init__`, or give {_FACTORY}."


@dataclass(frozen=True)
class ModuleBuilder:
    """How to make candidates of one module.

    Attributes:
        constructor: the module's class and saved hyperparameters.
        factory: makes a module from an architecture, instead of `constructor`.
        optimizers: what LightningCLI bound to the instance as `configure_optimizers`, if anything.
    """

    constructor: Constructor
    factory: Factory | None
    optimizers: LateOptimizers | None = None

    @classmethod
    def of(cls, module: LightningModule, factory: Factory | None = None) -> ModuleBuilder:
        """A builder of modules like `module`."""
        return cls(Constructor.of(module), factory, carried_optimizers(module))

    def check(self, names: Mapping[str, Any], architecture: Architecture) -> None:
        """Before the first trial: every name of the space is an argument, and `architecture` can be built.

        Raises:
            SpaceError: a name that is no argument.
            SearchError: a required argument that is not known, or one that cannot be given by its name.
        """
        if self.factory is not None:
            what = f"`factory` {self.factory!r}"
            check_names(self.factory, what, names)
            check_binds(self.factory, what, architecture, "")
            return
        made = self.constructor
        what = f"{made.cls.__name__}.__init__"
        check_keywords(made.cls, what, f"Give {_FACTORY}.")
        check_names(made.cls, what, names, made.saved if made.container_name else ())
        check_binds(made.cls, what, made.arguments(architecture), _REMEDY)

    def build(self, architecture: Architecture) -> LightningModule:
        """A fresh module of this architecture."""
        if self.factory is not None:
            module = self.factory(**copy.deepcopy(architecture))
            if not isinstance(module, LightningModule):
                raise SearchError(f"Expected `factory` to return a LightningModule, got {type(module).__name__}.")
        else:
            module = self.constructor.make(architecture)
        if self.optimizers is not None:
            self.optimizers.bind(module)
        return module

    def rebuild_(self, module: LightningModule, architecture: Architecture) -> None:
        """Make `module` itself one of this architecture, freshly initialised; on any error it is as before."""
        old = dict(module.__dict__)
        try:
            module.__dict__.clear()
            if self.factory is not None:
                _adopt(module, self.factory(**copy.deepcopy(architecture)))
            else:
                self.constructor.initialise_(module, architecture)
            if self.optimizers is not None:
                self.optimizers.bind(module)
        except BaseException:
            module.__dict__.clear()
            module.__dict__.update(old)
            raise
        module.trainer = old["_trainer"]  # the setter reaches the LightningModules inside it too

    def lost_attributes(self, module: LightningModule, fresh: LightningModule) -> list[str]:
        """Names that `module` holds but a freshly built one does not, or in another shape: a rebuild loses them.

        Shapes tell only without a factory: then `fresh` is of the module's own architecture.
        """
        if is_overridden("configure_model", module) or is_overridden("setup", module):
            return []
        held = [*module.__dict__, *module._modules, *module._buffers, *module._parameters]
        fresh_names = {*fresh.__dict__, *fresh._modules, *fresh._buffers, *fresh._parameters}
        lost = [name for name in held if name not in fresh_names and not name.startswith("_")]
        if self.factory is None:
            now, then = _shapes(module), _shapes(fresh)
            if now and then:
                changed = [n for n in {**now, **then} if now.get(n) != then.get(n)]
                lost += [n for n in changed if n.partition(".")[0] not in lost]
        return lost

    def changed_weights(self, module: LightningModule, fresh: LightningModule) -> list[str]:
        """Names of weights that were written to more often than those of a freshly built module, and differ from them.

        PyTorch counts the writes: `__init__` makes the same number each time, `load_state_dict` and training add some.
        What the count does not show (a module copied or assigned after that) is not told.
        """
        if self.factory is not None:  # `fresh` is of another architecture
            return []
        then = dict(fresh.named_parameters())
        return [name for name, now in module.named_parameters() if name in then and _written_since(now, then[name])]


def _written_since(now: torch.Tensor, then: torch.Tensor) -> bool:
    if any(nn.parameter.is_lazy(p) or p.is_meta or p.is_inference() for p in (now, then)) or now.shape != then.shape:
        return False
    return now._version > then._version and not torch.equal(now.detach().cpu(), then.detach().cpu())


def _shapes(module: LightningModule) -> dict[str, torch.Size]:
    """Of the parameters; nothing of a module that a first batch will shape."""
    parameters = dict(module.named_parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters.values()):
        return {}
    return {name: parameter.shape for name, parameter in parameters.items()}


def _adopt(module: LightningModule, made: Any) -> None:
    """Give `module` the content of another of its class."""
    if type(made) is not type(module):
        raise SearchError(
            f"Expected `factory` to return a {type(module).__name__} like the module given to `fit`, "
            f"got {type(made).__name__}."
        )
    module.__dict__.update(made.__dict__)
