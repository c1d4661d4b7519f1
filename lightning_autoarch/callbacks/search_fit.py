"""One search in one fit: what `ArchitectureSearch` does between `setup` of its fit and the winner.

checks     before anything is trained: names of the space, buildable modules, limits that can be met
study      opened or continued, with failed trials of code that was mended run again
trials     until the budget is spent
winner     `Found`: what the callback rebuilds its module as
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import optuna
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from lightning_autoarch.callbacks.joint.joint import JointSearch
from lightning_autoarch.callbacks.progress import SearchProgress
from lightning_autoarch.callbacks.search_config import StudyConfig, TrialConfig
from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.search.board import leaderboard
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.conditions import Conditions
from lightning_autoarch.search.opening import open_study
from lightning_autoarch.search.samplers import named_sampler
from lightning_autoarch.search.space import Architecture, SearchSpace
from lightning_autoarch.search.storage import open_storage
from lightning_autoarch.search.storage_errors import storage_errors_translated
from lightning_autoarch.search.study import Ledger, turn
from lightning_autoarch.training.callbacks import fresh
from lightning_autoarch.training.conditions import conditions_of
from lightning_autoarch.training.data import TrialData, split_architecture
from lightning_autoarch.training.destination import writable_directory
from lightning_autoarch.training.facts import Facts
from lightning_autoarch.training.folds import Folds, run_folds
from lightning_autoarch.training.inherit import check_ends, inherited_arguments
from lightning_autoarch.training.isolation import seeded, trial_seed
from lightning_autoarch.training.limits import Constraint, Limits, check_sizes_can_be_met
from lightning_autoarch.training.links import Links
from lightning_autoarch.execution.loop import Budget, RunTrial, SearchLoop, winner_of
from lightning_autoarch.training.module import Factory, ModuleBuilder
from lightning_autoarch.training.parents import Parents
from lightning_autoarch.training.recorder import Report
from lightning_autoarch.training.searched_trainer import (
    SEARCHABLE,
    check_trainer_names,
    check_trainer_values,
    trainer_part,
)
from lightning_autoarch.training.trial import RETRIED, TrialResult, TrialSpec, run_trial
from lightning_autoarch.training.trial_files import inside, own_directory, weights_of

_DRAWS = 20  # architectures among which some are built before the first trial, to see that names of the space are taken


class Settings(Protocol):
    """What a search is asked to do: the arguments of `ArchitectureSearch`, and the Optuna study once it is open."""

    space: SearchSpace
    monitor: str
    mode: Literal["min", "max"]
    after: Literal["train", "keep", "stop"]
    seed: int
    n_trials: int
    timeout: float | None
    sampler: str | BaseSampler
    pruner: BasePruner | None
    folds: Folds | None
    limits: dict[str, float]
    constraints: list[Constraint]
    enqueue: list[Mapping[str, Any]]
    trial: TrialConfig
    factory: Factory | None
    study: StudyConfig
    optuna_study: optuna.Study | None


@dataclass(frozen=True)
class Found:
    """The winner of a search.

    Attributes:
        architecture: as it is stored: plain data.
        score: of its trial; None where it has none.
        trial: its number.
        directory: of the search; None: nothing was kept.
        checkpoint: where the study says that its weights are.
    """

    architecture: Any
    score: float | None
    trial: int
    directory: Path | None
    checkpoint: object

    def weights(self) -> Path | None:
        """The checkpoint of its best epoch; None where nothing was kept.

        Raises:
            SearchError: it is not in the search's directory.
        """
        return None if self.directory is None else weights_of(self.directory, self.trial, self.checkpoint)


@dataclass(frozen=True)
class SearchFit:
    """A search with all that it needs of the fit that it runs in.

    Attributes:
        search: the settings; its `optuna_study` is set once it is open.
        trainer: of the outer fit.
        module: of the outer fit, untouched here.
        builder: makes candidates of it.
        data: that candidates are trained on.
        links: arguments that follow from others.
        joint: parameters of callbacks in the space.
    """

    search: Settings
    trainer: Trainer
    module: LightningModule
    builder: ModuleBuilder
    data: TrialData
    links: Links
    joint: JointSearch

    @property
    def name(self) -> str:
        """Of the study."""
        return self.search.study.name or type(self.module).__name__

    def run(self) -> Found:
        """Run the trials that the study still lacks, print the leaderboard, and return the winner.

        A `fast_dev_run` runs one trial and keeps nothing.

        Raises:
            SpaceError: a name of the space is no argument of anything.
            SearchError: the search cannot start, or no trial has a score.
        """
        self._check_trainer()
        self._check_buildable()
        spec = self._spec()
        facts = Facts(
            self.builder,
            self.data,
            flops=True if "flops" in self.search.limits else None,
            trainer=spec.trainer,
            completed=partial(self.links.completed, datamodule=self.data.datamodule),
        )
        search = self.search
        limits = Limits(facts, search.limits, search.constraints, [self.joint.why_not])
        directory = self._directory()
        conditions = None if directory is None else self._conditions(spec)
        sampler, known = self._sampler(facts, limits), self._known()
        ledger = self._open(directory, sampler, known, conditions)
        self._check_imported(ledger)
        if again := ledger.retry(RETRIED):
            rank_zero_info(f"{again} trials of the study that an exception ended are run again.")
        self._enqueue(ledger, limits)
        if not ledger.trials():
            check_sizes_can_be_met(limits, self.search.space)
        budget = Budget(1 if directory is None else search.n_trials, search.timeout)
        progress = self._progress(ledger, budget)
        run_trial = self._trial_runner(spec, ledger, directory)
        loop = SearchLoop(
            ledger, run_trial, limits, facts, budget, progress, directory=directory, keep_top_k=search.study.keep_top_k
        )
        try:
            loop.run()
        except KeyboardInterrupt:
            progress.close()
            done = len(ledger.finished())
            rank_zero_info(
                f"The search was stopped after {done} of {budget.n_trials} trials. What is done is kept: start the "
                f"same script again to continue the study `{ledger.study.study_name}` in {directory}."
            )
            raise
        finally:
            progress.close()
        return self._conclude(ledger, directory, limits)

    def _trial_runner(self, spec: TrialSpec, ledger: Ledger, directory: Path | None) -> RunTrial:
        """What trains the candidate of a trial, from the weights of a parent where the search inherits."""
        parents = None
        if self.search.trial.inherit is not None and directory is not None:
            parents = Parents(self.search.trial.inherit, ledger, directory, self.search.study.keep_top_k)

        def run(number: int, architecture: Architecture, report: Report) -> TrialResult:
            of_trial = spec if parents is None else parents.added(spec, number, architecture)
            return self._run(of_trial, directory, number, architecture, report)

        return run

    def _directory(self) -> Path | None:
        """For the study and the checkpoints."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        given = self.search.study.directory
        return writable_directory(
            f"{self.trainer.default_root_dir}/autoarch/{self.name}" if given is None else given,
            "Give ArchitectureSearch a `study.directory` for its study and checkpoints.",
        )

    def _check_trainer(self) -> None:
        check_trainer_names(trainer_part(self.search.space.parameters), self.search.trial.trainer, self.trainer)
        rng = np.random.default_rng(0)
        check_trainer_values(self.search.space.architecture(self.search.space.random(rng)) for _ in range(_DRAWS))

    def _check_buildable(self) -> None:
        names, data_names = split_architecture(dict.fromkeys(self.search.space.parameters))
        rng = np.random.default_rng(0)
        self.links.check(self.search.space.parameters)
        random = [self.search.space.architecture(self.search.space.random(rng)) for _ in range(_DRAWS)]
        draws = [split_architecture(self.links.completed(each, self.data.datamodule)) for each in random]
        example, data_example = draws[0]
        self.builder.check(names, example, [*self.data.names(), *(f"trainer.{name}" for name in SEARCHABLE)])
        self.data.check(data_names, data_example)
        self.joint.check(self.search.after)
        with seeded(self.search.seed):
            self.builder.check_taken(self.module, [draw for draw, _ in draws])
            self.data.check_taken([draw for _, draw in draws])
            self.builder.tell_losses(self.module, example)

    def _enqueue(self, ledger: Ledger, limits: Limits) -> None:
        for architecture in map(dict, self.search.enqueue):
            flat = self.search.space.flatten(architecture, partial=True)
            reason = limits.violation(architecture) if self.search.space.is_whole(flat) else None
            if reason is not None:
                rank_zero_warn(f"The enqueued {architecture} is not tried: {reason}.")
            else:
                ledger.enqueue([architecture])

    def _known(self) -> dict[str, Any]:
        """The values of the space's parameters that a search without them has trained with."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        of_data = {} if datamodule is None else {f"data.{name}": value for name, value in datamodule.hparams.items()}
        values = {**({} if self.search.factory is not None else self.module.hparams), **of_data}
        return {name: copy.deepcopy(values[name]) for name in self.search.space.parameters if name in values}

    def _conditions(self, spec: TrialSpec) -> Conditions:
        """What the scores depend on; of callbacks that the space varies, only which they are."""
        varied = [pair.trial for pair in self.joint.pairs if pair.names]
        callbacks = [cb for cb in self.search.trial.callbacks if not any(cb is other for other in varied)]
        others = {
            "folds": self.search.folds and dataclasses.replace(self.search.folds, seed=0),
            "inherit": self.search.trial.inherit,
            "on_nan": self.search.trial.on_nan,
            "varied callbacks": [type(callback) for callback in varied],
        }
        return conditions_of(spec.builder, spec.data, spec.trainer, callbacks, self.search.space.parameters, others)

    def _open(
        self,
        directory: Path | None,
        sampler: BaseSampler,
        known: dict[str, Any],
        conditions: Conditions | None,
    ) -> Ledger:
        storage = self.search.study.storage
        if directory is None:
            storage = optuna.storages.InMemoryStorage()
        elif storage is None:
            storage = inside(directory, "study.db")
            if storage is None:
                raise SearchError(
                    f"Expected the study {directory / 'study.db'} inside of its directory, got a symbolic link that "
                    "leads out of it. Name the intended file by `study.storage`."
                )
        pruner = self.search.pruner or optuna.pruners.NopPruner()
        with storage_errors_translated(), turn(directory):  # two that make the same tables at once fail
            opened = open_storage(storage)
            self.search.optuna_study = study = open_study(
                opened,
                self.name,
                self.search.space,
                self.search.monitor,
                self.search.mode,
                sampler,
                pruner,
                known=known,
                conditions=conditions,
                accept_changes=self.search.study.accept_changes,
            )
        return Ledger(study, self.search.space, directory)

    def _check_imported(self, ledger: Ledger) -> None:
        """What a study brings along that was not made by this search."""
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

    def _sampler(self, facts: Facts, limits: Limits) -> BaseSampler:
        if isinstance(self.search.sampler, BaseSampler):
            return self.search.sampler
        return named_sampler(self.search.sampler, self.search.space, facts.features, limits.allows, self.search.seed)

    def _spec(self) -> TrialSpec:
        """The trial that all trials are variations of."""
        searched = trainer_part(self.search.space.parameters)  # each trial has its own, not those of an earlier winner
        of_outer = {name: value for name, value in inherited_arguments(self.trainer).items() if name not in searched}
        arguments = {**of_outer, **self.search.trial.trainer}
        check_ends(arguments, self.search.trial.callbacks)
        fresh(self.search.trial.callbacks)  # raises here what would fail every trial
        return TrialSpec(
            architecture={},
            builder=self.builder,
            data=self.data,
            trainer=arguments,
            monitor=self.search.monitor,
            mode=self.search.mode,
            seed=self.search.seed,
            callbacks=self.search.trial.callbacks,
            on_nan=self.search.trial.on_nan,
        )

    def _run(
        self, spec: TrialSpec, directory: Path | None, number: int, architecture: Architecture, report: Report
    ) -> TrialResult:
        own = None if directory is None else own_directory(directory, number)
        spec = dataclasses.replace(
            spec,
            architecture=self.links.completed(architecture, spec.data.datamodule),
            trainer={**spec.trainer, **trainer_part(architecture)},
            seed=trial_seed(self.search.seed, number),
            directory=own,
            callbacks=self.joint.callbacks(architecture),
        )
        folds = self.search.folds
        return run_trial(spec, report) if folds is None else run_folds(spec, folds.seeded(self.search.seed), report)

    def _progress(self, ledger: Ledger, budget: Budget) -> SearchProgress:
        ranking = ledger.ranking()
        best = (float(ranking[0].value or 0.0), ranking[0].number) if ranking else None
        done = len(ledger.finished())
        if done:
            rank_zero_info(
                f"The study `{ledger.study.study_name}` holds {done} of {budget.n_trials} trials already; "
                "another `study.name` or `study.directory` starts anew."
            )
        return SearchProgress(budget.n_trials, done, self.search.mode, best)

    def _conclude(self, ledger: Ledger, directory: Path | None, limits: Limits) -> Found:
        winner = winner_of(ledger, limits.unmet())
        table = leaderboard(ledger.study, columns=shutil.get_terminal_size((100, 24)).columns)
        _show(f"{table}\nWinner: trial #{winner.number}, {self.search.monitor} {winner.value:.6g}.")
        summary = {"search/best_score": float(winner.value or 0.0), "search/trials": len(ledger.finished())}
        for logger in self.trainer.loggers:
            logger.log_metrics(summary, step=0)
        stored = winner.user_attrs.get("checkpoint")
        return Found(written(ledger.architecture(winner)), winner.value, winner.number, directory, stored)


@rank_zero_only
def _show(text: str) -> None:
    """A result goes to standard output, unlike messages."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
