"""One fit with an `ArchitectureSearch`: what is known from its `setup` on, and forgotten when it ends.

setup           checks of the outer Trainer ─► winner (of a checkpoint, else `SearchRun`) ─► module rebuilt in place
on_fit_start    the weights of the winner's trial, where `after` keeps them
teardown        the Trainer has its own settings again
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_autoarch.callbacks.joint.joint import JointSearch
from lightning_autoarch.callbacks.outer_trainer import (
    Minima,
    check_no_spawning,
    check_one_process,
    check_results_are_writable,
    come_first,
    end_before_training,
    links_of_cli,
    reattach,
    restore_minima,
    save_cli_config,
    set_up_again,
)
from lightning_autoarch.callbacks.search_config import Settings
from lightning_autoarch.callbacks.search_run import Found, SearchRun
from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.core.rng import seeded
from lightning_autoarch.core.schema import data, mapping
from lightning_autoarch.reading.plain_tensors import plain_tensor
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.search.study import quiet_optuna
from lightning_autoarch.training.data import TrialData, split_architecture
from lightning_autoarch.training.isolation import trial_seed
from lightning_autoarch.training.links import Links
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.plain_checkpoints import OMITTED
from lightning_autoarch.training.trainer_settings import set_on_, trainer_part
from lightning_autoarch.training.trial_files import read_lightning

WEIGHTS = mapping(data())  # extra state need not be tensors


@dataclass(frozen=True)
class Winner:
    """What the module is rebuilt as.

    Attributes:
        architecture: with its choices as the module takes them.
        trial: its number, from which the seed of the rebuilt module follows.
        weights: the checkpoint of its trial, where the outer fit starts from that.
    """

    architecture: Architecture
    trial: int
    weights: Path | None = None


@dataclass
class SearchFit:
    """See the module's docstring.

    Attributes:
        search: the settings.
        trainer: of the outer fit.
        module: of the outer fit.
        builder: builds candidates of it.
        data: that candidates are trained on.
        links: arguments that follow from others.
        joint: parameters of callbacks in the space.
        earlier: callbacks whose `setup` ran before the module was rebuilt.
        interrupt_handler: what handled SIGINT before the search.
    """

    search: Settings
    trainer: Trainer
    module: LightningModule
    builder: ModuleBuilder
    data: TrialData
    links: Links
    joint: JointSearch
    earlier: list[Callback]
    interrupt_handler: Any = field(default_factory=lambda: signal.getsignal(signal.SIGINT))
    _weights: Path | None = None
    _minima: Minima | None = None

    @classmethod
    def of(
        cls, search: Settings, callback: Callback, trainer: Trainer, module: LightningModule, links: Links | None
    ) -> SearchFit:
        """For a running `setup` of `callback`, which moves before all callbacks that may hold on to the module.

        Raises:
            SearchError: Lightning would train a copy of the module, or a callback of the space is missing.
            SpaceError: a name of the space is no argument of its callback.
        """
        check_no_spawning(trainer)
        earlier = come_first(callback, trainer)
        return cls(
            search,
            trainer,
            module,
            ModuleBuilder.of(module, search.factory),
            TrialData.of(trainer),
            links or links_of_cli(trainer),
            JointSearch.of(search.space, search.trial.callbacks, trainer, module),
            earlier,
        )

    def find(self) -> Found:
        """Run the search.

        Raises:
            SearchError: several processes train the module, the results of the outer fit could not be written, the
                search cannot start, or no trial has a score.
            SpaceError: a name of the space is no argument of anything.
        """
        check_one_process(self.trainer)
        save_cli_config(self.trainer, self.module)
        check_results_are_writable(self.trainer)
        with quiet_optuna(), seeded(self.search.seed):
            run = SearchRun(self.search, self.trainer, self.module, self.builder, self.data, self.links, self.joint)
            return run.run()

    def rebuild_(self, winner: Winner) -> None:
        """Make the module, the datamodule, the Trainer and its callbacks those of the winner, in place."""
        architecture, parameters = split_architecture(self.links.completed(winner.architecture, self.data.datamodule))
        with seeded(trial_seed(self.search.seed, winner.trial)):
            self.builder.rebuild_(self.module, architecture)
        self.data.rebuild_(parameters)
        set_on_(self.trainer, trainer_part(winner.architecture))
        self.joint.parametrise_outer_(winner.architecture)
        if winner.weights is not None:
            self.joint.start_outer_from(read_lightning(winner.weights))
        self._weights = winner.weights
        reattach(self.trainer, self.module)

    def set_up_again(self, callback: Callback) -> None:
        """Run `setup` of the callbacks that had seen the module before."""
        set_up_again(callback, self.trainer, self.module, self.earlier)

    def load_weights_(self) -> None:
        """Copy the weights of the winner's trial into the module, where the fit starts from them.

        Raises:
            CheckpointError: they are not of this module.
        """
        if self._weights is None:
            return
        _load_weights(self.module, self._weights)
        self._weights = None
        if self.search.after == "stop":
            self._minima = end_before_training(self.trainer)

    def restore_trainer_(self) -> None:
        """Undo what ended the fit before training."""
        if self._minima is not None:
            restore_minima(self.trainer, self._minima)
            self._minima = None

    def restore_interrupt_handler(self) -> None:
        """Lightning leaves SIGINT ignored after a Ctrl-C."""
        if self.interrupt_handler is not None:
            signal.signal(signal.SIGINT, self.interrupt_handler)


def _load_weights(module: LightningModule, path: Path) -> None:
    checkpoint = read_lightning(path)
    weights = checkpoint.get("state_dict", {})
    try:
        WEIGHTS(_without_sparse(weights, path), "state_dict")
        if OMITTED not in checkpoint:
            module.on_load_checkpoint(checkpoint)
        module.load_state_dict(weights, strict=module.strict_loading)
    except Exception as error:  # hooks and `_load_from_state_dict` of the user's module may raise anything
        raise CheckpointError(
            f"The weights of {path} are not those of {type(module).__name__}: {type(error).__name__}: "
            f"{shown(str(error), 1000)}"
        ) from error


def _without_sparse(weights: object, path: Path) -> object:
    """Weights without their sparse tensors, which are checked here: no other state holds any."""
    if not isinstance(weights, Mapping):
        return weights
    sparse = {n: w for n, w in weights.items() if isinstance(w, Tensor) and w.layout is not torch.strided}
    for name, tensor in sparse.items():
        plain_tensor(str(name), tensor, str(path), from_file=True)
    return {name: weight for name, weight in weights.items() if name not in sparse}
