"""Give a trial the data of the outer fit without letting the trial change them.

A trial gets a facade of the datamodule that the outer fit has prepared: it shares all attributes, but does not prepare,
set up or tear down anything. Parameters of the space named `data.*` are hyperparameters of the datamodule: a trial
then gets a new datamodule, and for the winner the given one is rebuilt in place. After a trial the data and their
generators are as they were before (`generators`, `data_snapshot`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.core.prefixes import prefix_of
from lightning_autoarch.seam.lightning import datamodule_of, given_loaders
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.argument_check import check_taken
from lightning_autoarch.training.arguments import Constructor, check_binds
from lightning_autoarch.training.data_snapshot import state_kept
from lightning_autoarch.training.generators import kept
from lightning_autoarch.training.lost_on_rebuild import as_text

PREFIX = "data."

_REMEDY = "Call `self.save_hyperparameters()` in the datamodule's `__init__`."


def split_architecture(architecture: Architecture) -> tuple[Architecture, Architecture]:
    """The module's part, and the datamodule's part without its prefix; parameters of callbacks are left out.

    >>> split_architecture({"width": 8, "data.batch_size": 32, "trainer.accumulate_grad_batches": 2})
    ({'width': 8}, {'batch_size': 32})
    """
    module = {name: value for name, value in architecture.items() if prefix_of(name) is None}
    data = {name.removeprefix(PREFIX): value for name, value in architecture.items() if name.startswith(PREFIX)}
    return module, data


@dataclass(frozen=True)
class TrialData:
    """Where a trial's batches come from: a datamodule, loaders given to `fit`, or (neither) the module's own hooks.

    With both, the loaders stand in for the datamodule's, whose transfer hooks stay.
    """

    datamodule: LightningDataModule | None = None
    train: Any = None
    val: Any = None

    @classmethod
    def of(cls, trainer: Trainer) -> TrialData:
        """The data of a running `fit`."""
        datamodule = datamodule_of(trainer)
        if datamodule is not None:
            return cls(datamodule=datamodule)
        train, val = given_loaders(trainer)
        return cls(
            train=None if isinstance(train, LightningModule) else train,
            val=None if isinstance(val, LightningModule) else val,
        )

    def check(self, names: Mapping[str, Any], example: Architecture) -> None:
        """Check before the first trial that the `data.*` names (given without prefix) can be set.

        Raises:
            SearchError: there is no datamodule, or it cannot be built again.
            SpaceError: a name is not an argument of its `__init__`.
        """
        if not names:
            return
        if self.datamodule is None:
            raise SearchError(
                f"`{PREFIX}{next(iter(names))}` of the space needs a datamodule: fit(model, datamodule=...)."
            )
        constructor = Constructor.of(self.datamodule)
        what = f"{constructor.cls.__name__}.__init__"
        constructor.check_names(names, PREFIX)
        check_binds(constructor.cls, what, constructor.arguments(example), _REMEDY)

    def check_taken(self, draws: Iterable[Architecture]) -> None:
        """Check that a new datamodule uses the values of the space; see `argument_check.check_taken`.

        Raises:
            SearchError: it does not.
        """
        named = [draw for draw in draws if draw]
        if self.datamodule is None or not named:
            return
        constructor = Constructor.of(self.datamodule)
        check_taken(constructor, constructor.make, self.datamodule, named, PREFIX)
        lost = _unsaved_and_other(constructor, self.datamodule)
        if lost:
            rank_zero_warn(
                f"{', '.join(lost)} of {constructor.cls.__name__}.__init__ are not among its hyperparameters: the "
                "datamodules of candidates and of the winner have the defaults. Let `save_hyperparameters` save them."
            )

    def names(self) -> list[str]:
        """The `data.*` names that a space may have."""
        if self.datamodule is None:
            return []
        return [PREFIX + name for name in Constructor.of(self.datamodule).known_names()]

    @contextlib.contextmanager
    def for_trial(self, parameters: Architecture) -> Iterator[dict[str, Any]]:
        """The keyword arguments for the trial's `fit`. After the block the data are as they were before."""
        with self.untouched():
            if self.datamodule is None:
                yield {"train_dataloaders": self.train, "val_dataloaders": self.val}
            elif parameters:
                yield {"datamodule": Constructor.of(self.datamodule).make(parameters)}
            else:
                yield {"datamodule": self._facade()}

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore the data and their generators after the block, whatever it does to them."""
        roots = {"train": self.train, "val": self.val, "datamodule": self.datamodule}
        with kept(roots), state_kept(roots):
            yield

    def with_parameters(self, parameters: Architecture) -> TrialData:
        """The same data with `data.*` parameters set: another datamodule, prepared and set up."""
        if not parameters or self.datamodule is None:
            return self
        datamodule: LightningDataModule = Constructor.of(self.datamodule).make(parameters)
        datamodule.trainer = self.datamodule.trainer
        datamodule.prepare_data()
        datamodule.setup("fit")
        return TrialData(datamodule)

    def train_loader(self, module: LightningModule | None = None) -> Any:
        """The training loaders, whether they were given or a hook makes them."""
        if self.train is not None:
            return self.train
        holder = self.datamodule or module
        return None if holder is None else holder.train_dataloader()

    def rebuild_(self, parameters: Architecture) -> None:
        """Set `data.*` parameters on the datamodule itself, which is prepared and set up again; atomic."""
        datamodule = self.datamodule
        if datamodule is None or not parameters:
            return
        old = dict(datamodule.__dict__)
        try:
            constructor = Constructor.of(datamodule)
            datamodule.__dict__.clear()
            constructor.initialise_(datamodule, parameters)
            datamodule.trainer = old["trainer"]
            datamodule.prepare_data()
            datamodule.setup("fit")
        except BaseException:
            datamodule.__dict__.clear()
            datamodule.__dict__.update(old)
            raise

    def _facade(self) -> LightningDataModule:
        front = facade(self.datamodule)  # type: ignore[arg-type]
        if self.train is not None:
            front.train_dataloader = lambda: self.train  # type: ignore[method-assign]
            front.val_dataloader = lambda: self.val  # type: ignore[method-assign]
        return front


def _unsaved_and_other(constructor: Constructor, datamodule: LightningDataModule) -> list[str]:
    """Arguments that are not saved, and whose value differs between the datamodule and a new one."""
    try:
        fresh = constructor.make({})
    except Exception:  # trials say what is wrong with it
        return []
    held = [name for name in constructor.unsaved() if name in vars(datamodule) and name in vars(fresh)]
    return [name for name in held if as_text(vars(datamodule)[name]) != as_text(vars(fresh)[name])]


def facade(datamodule: LightningDataModule) -> LightningDataModule:
    """A datamodule of the same class that shares all attributes of a prepared one, and prepares nothing again."""
    front = copy.copy(datamodule)
    hooks = dict.fromkeys(("prepare_data", "setup", "teardown"), _do_nothing)
    front.__class__ = type(type(datamodule).__name__, (type(datamodule),), hooks)
    return front


def _do_nothing(self: LightningDataModule, *args: Any, **kwargs: Any) -> None: ...
