"""Build the user's module with another architecture: a new one for a trial, or the same object in place.

An architecture is a set of `__init__` arguments over the module's saved hyperparameters, which are copied once and then
again for every candidate (a module among them would otherwise be shared by all candidates and changed by each).
Rebuilding in place runs `__init__` on an emptied `__dict__`: references to the module stay valid, and on any error the
old content is restored.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.parsing import clean_namespace
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.seam.lightning import is_compiled, trainer_of
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.argument_check import check_taken
from lightning_autoarch.training.arguments import Constructor, check_binds, check_keywords, check_names
from lightning_autoarch.training.lost_on_rebuild import changed_weights, lost_names, lost_on_rebuild
from lightning_autoarch.training.nested import listed
from lightning_autoarch.training.optimizers import LateOptimizers, carried_optimizers

Factory = Callable[..., LightningModule]

_FACTORY = "ArchitectureSearch(factory=lambda **architecture: ...)"
_REMEDY = f"Call `self.save_hyperparameters()` at the top of `__init__`, or give {_FACTORY}."


@dataclass(frozen=True)
class ModuleBuilder:
    """Builds candidates from one module.

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

    def check(self, names: Mapping[str, Any], architecture: Architecture, elsewhere: Iterable[str] = ()) -> None:
        """Check that every name of the space is an argument and `architecture` can be built, before the first trial.

        `elsewhere` are names that a space may have beside those of the module, for a hint.

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
        made.check_names(names, elsewhere=elsewhere)
        check_binds(made.cls, what, made.arguments(architecture), _REMEDY)

    def check_taken(self, module: LightningModule, draws: Iterable[Architecture]) -> None:
        """Check that the module uses every value of the space; see `argument_check.check_taken`."""
        if self.factory is None:
            check_taken(self.constructor, self.build, module, draws)

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
        """Rebuild `module` in place with this architecture, freshly initialised. On any error it is as before."""
        old, trainer = dict(module.__dict__), trainer_of(module)
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
        clean_namespace(module.hparams)  # as `fit` has done: what cannot be pickled would not go into a checkpoint
        module.trainer = trainer  # the setter reaches the LightningModules inside it too

    def warn_of_lost(self, module: LightningModule, example: Architecture) -> None:
        """Warn about everything in `module` that candidates and the winner will lack; see `lost_on_rebuild.py`.

        With a factory only the names of attributes are compared, since what it builds from `example` has another
        architecture.
        """
        try:
            fresh = self.build(example if self.factory is not None else {})
        except Exception:  # one impossible architecture is a failed trial, not the end
            return
        changed = [] if self.factory is not None else changed_weights(module, fresh)
        if changed:
            rank_zero_warn(
                f"{', '.join(changed[:3])}{' and others' if len(changed) > 3 else ''} of the module were changed after "
                "`__init__` (trained, or loaded): candidates and the winner start from fresh weights. Load them in "
                "`__init__`, or in `factory=`."
            )
        lost = (
            lost_names(module, fresh)
            if self.factory is not None
            else lost_on_rebuild(module, fresh, lambda: self.build({}))
        )
        if is_compiled(module):  # `fit` has been given what `torch.compile` returned
            rank_zero_warn(
                "The module was compiled with `torch.compile` before `fit`: candidates and the winner are new modules, "
                "which train uncompiled. Compile their layers in `__init__` or in `configure_model` instead."
            )
        if lost:
            unsaved = [] if self.factory is not None else self.constructor.unsaved()
            not_saved = f" ({listed(unsaved)})" if unsaved else ""
            rank_zero_warn(
                f"{', '.join(lost)} of the module were set after `__init__`, or come from an argument that is not "
                f"saved{not_saved}: candidates and the winner are without. Set them in `__init__`, of arguments that "
                "`save_hyperparameters` saves, or give `factory=`."
            )


def _adopt(module: LightningModule, made: Any) -> None:
    """Give `module` the content of another of its class."""
    if type(made) is not type(module):
        raise SearchError(
            f"Expected `factory` to return a {type(module).__name__} like the module given to `fit`, "
            f"got {type(made).__name__}."
        )
    module.__dict__.update(made.__dict__)
