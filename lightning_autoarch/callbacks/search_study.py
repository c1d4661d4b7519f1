"""The study of a search in a fit: where it is, what it must agree with, and how it is opened or continued."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from lightning_autoarch.callbacks.joint.joint import JointSearch
from lightning_autoarch.callbacks.search_config import Settings
from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.core.files import writable_directory
from lightning_autoarch.seam.lightning import datamodule_of, fast_dev_run
from lightning_autoarch.search.conditions import Conditions
from lightning_autoarch.search.opening import StudyDefinition, open_study
from lightning_autoarch.search.samplers import named_sampler
from lightning_autoarch.search.storage import open_storage, storage_errors_translated
from lightning_autoarch.search.study import Ledger, turn
from lightning_autoarch.training.limits import Limits
from lightning_autoarch.training.module_facts import ModuleFacts
from lightning_autoarch.training.score_conditions import conditions_of
from lightning_autoarch.training.trial import RETRIED, TrialSpec
from lightning_autoarch.training.trial_files import inside


@dataclass(frozen=True)
class SearchStudy:
    """See the module's docstring.

    Attributes:
        search: the settings.
        trainer: of the outer fit.
        module: of the outer fit.
        directory: for the study and the checkpoints; None: nothing is written.
    """

    search: Settings
    trainer: Trainer
    module: LightningModule
    directory: Path | None

    @classmethod
    def of(cls, search: Settings, trainer: Trainer, module: LightningModule) -> SearchStudy:
        """With its directory, which is made; a `fast_dev_run` has none.

        Raises:
            SearchError: the directory is not writable.
        """
        if fast_dev_run(trainer):
            return cls(search, trainer, module, None)
        given = search.study.directory
        directory = writable_directory(
            f"{trainer.default_root_dir}/autoarch/{_name(search, module)}" if given is None else given,
            "Give ArchitectureSearch a `study.directory` for its study and checkpoints.",
        )
        return cls(search, trainer, module, directory)

    def open(self, spec: TrialSpec, facts: ModuleFacts, limits: Limits, joint: JointSearch) -> Ledger:
        """Create the study or continue the stored one, and enqueue what is to be tried first.

        Args:
            spec: of which all trials are variations; scores depend on it.
            facts: of candidates, for the sampler.
            limits: for the sampler, and for what is enqueued.
            joint: parameters of callbacks in the space.

        Raises:
            SearchError: the stored study is of another search, or cannot be read or written.
        """
        definition = StudyDefinition(
            name=_name(self.search, self.module),
            space=self.search.space,
            monitor=self.search.monitor,
            mode=self.search.mode,
            known=self._known(),
            conditions=None if self.directory is None else self._conditions(spec, joint),
            accept_changes=self.search.study.accept_changes,
        )
        sampler = self._sampler(facts, limits)
        pruner = self.search.pruner or optuna.pruners.NopPruner()
        with storage_errors_translated(), turn(self.directory):  # two processes must not create tables at once
            study = open_study(open_storage(self._storage()), definition, sampler, pruner)
        self.search.optuna_study = study
        ledger = Ledger(study, self.search.space, self.directory)
        self._check_imported(ledger)
        if again := ledger.retry(RETRIED):
            rank_zero_info(f"{again} trials of the study that an exception ended are run again.")
        self._enqueue(ledger, limits)
        return ledger

    def _storage(self) -> str | os.PathLike[str] | BaseStorage:
        if self.directory is None:
            return optuna.storages.InMemoryStorage()
        given = self.search.study.storage
        if given is not None:
            return given
        path = inside(self.directory, "study.db")
        if path is None:
            raise SearchError(
                f"Expected the study {self.directory / 'study.db'} inside of its directory, got a symbolic link that "
                "leads out of it. Name the intended file by `study.storage`."
            )
        return path

    def _sampler(self, facts: ModuleFacts, limits: Limits) -> BaseSampler:
        if isinstance(self.search.sampler, BaseSampler):
            return self.search.sampler
        return named_sampler(self.search.sampler, self.search.space, facts.features, limits.allows, self.search.seed)

    def _known(self) -> dict[str, Any]:
        """The values of the space's parameters that a search without them has trained with."""
        datamodule = datamodule_of(self.trainer)
        of_data = {} if datamodule is None else {f"data.{name}": value for name, value in datamodule.hparams.items()}
        values = {**({} if self.search.factory is not None else self.module.hparams), **of_data}
        return {name: copy.deepcopy(values[name]) for name in self.search.space.parameters if name in values}

    def _conditions(self, spec: TrialSpec, joint: JointSearch) -> Conditions:
        """What the scores depend on; of callbacks that the space varies, only which they are."""
        varied = [each.trial for each in joint.tuned if each.names]
        callbacks = [cb for cb in self.search.trial.callbacks if not any(cb is other for other in varied)]
        others: Mapping[str, Any] = {
            "folds": self.search.folds and dataclasses.replace(self.search.folds, seed=0),
            "inherit": self.search.trial.inherit,
            "on_nan": self.search.trial.on_nan,
            "varied callbacks": [type(callback) for callback in varied],
        }
        return conditions_of(spec.builder, spec.data, spec.trainer, callbacks, self.search.space.parameters, others)

    def _check_imported(self, ledger: Ledger) -> None:
        """Warn of trials that are ignored, and refuse a leader without weights where these are needed."""
        if ignored := ledger.ignored():
            rank_zero_warn(
                f"Trials of the study `{ledger.study.study_name}` that are no architectures of this space are ignored, "
                f"{ignored}."
            )
        leader = ledger.imported_leader()
        if leader is not None and self.search.after != "train":
            raise SearchError(
                f"`after={self.search.after!r}` needs the weights of the best trial, but #{leader.number} of the study "
                f'`{ledger.study.study_name}` was made elsewhere and has none. Take `after="train"`, or another '
                "`study.name`."
            )

    def _enqueue(self, ledger: Ledger, limits: Limits) -> None:
        for architecture in map(dict, self.search.enqueue):
            flat = self.search.space.flatten(architecture, partial=True)
            reason = limits.violation(architecture) if self.search.space.is_whole(flat) else None
            if reason is not None:
                rank_zero_warn(f"The enqueued {architecture} is not tried: {reason}.")
            else:
                ledger.enqueue([architecture])


def _name(search: Settings, module: LightningModule) -> str:
    return search.study.name or type(module).__name__
