"""The search in a fit, from its settings to the winner.

checks     before anything is trained: names of the space, modules that can be built, limits that can be met
study      opened or continued (`SearchStudy`)
trials     until the budget is spent (`execution.loop`)
winner     `Found`: what the module is rebuilt as
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only

from lightning_autoarch.callbacks.joint.joint import JointSearch
from lightning_autoarch.callbacks.search_config import Settings
from lightning_autoarch.callbacks.search_progress import SearchProgress
from lightning_autoarch.callbacks.search_study import SearchStudy
from lightning_autoarch.core.rng import seeded
from lightning_autoarch.execution.executor import Executor, InProcess
from lightning_autoarch.execution.loop import SearchLoop, TrialBudget
from lightning_autoarch.execution.outcome import winner_of
from lightning_autoarch.execution.records import Checkpoints
from lightning_autoarch.search.board import leaderboard
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.training.callback_protocols import fresh
from lightning_autoarch.training.data import TrialData, split_architecture
from lightning_autoarch.training.inheritance import Parents
from lightning_autoarch.training.isolation import trial_seed
from lightning_autoarch.training.limits import Limits, check_sizes_can_be_met
from lightning_autoarch.training.links import Links
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.module_facts import ModuleFacts
from lightning_autoarch.training.trainer_settings import (
    SEARCHABLE,
    check_ends,
    check_trainer_names,
    check_trainer_values,
    inherited_arguments,
    trainer_part,
)
from lightning_autoarch.training.trial import TrialSpec
from lightning_autoarch.training.trial_files import own_directory, weights_of

_DRAWS = 20  # architectures of which some are built before the first trial, to see that the module takes their names


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
class CandidateSpecs:
    """Makes the spec of each trial.

    Attributes:
        base: of which they are variations.
        links: arguments that follow from others.
        joint: parameters of callbacks in the space.
        directory: of the search; None: trials write nothing.
        parents: whose weights they start from; None: fresh ones.
    """

    base: TrialSpec
    links: Links
    joint: JointSearch
    directory: Path | None
    parents: Parents | None

    def of(self, number: int, architecture: Architecture) -> TrialSpec:
        """For trial `number` of this architecture."""
        return dataclasses.replace(
            self.base,
            architecture=self.links.completed(architecture, self.base.data.datamodule),
            trainer={**self.base.trainer, **trainer_part(architecture)},
            seed=trial_seed(self.base.seed, number),
            directory=None if self.directory is None else own_directory(self.directory, number),
            callbacks=self.joint.callbacks(architecture),
            parent=None if self.parents is None else self.parents.of(number, architecture),
        )


@dataclass(frozen=True)
class SearchRun:
    """See the module's docstring.

    Attributes:
        search: the settings; its `optuna_study` is set once it is open.
        trainer: of the outer fit.
        module: of the outer fit, not changed here.
        builder: builds candidates of it.
        data: that candidates are trained on.
        links: arguments that follow from others.
        joint: parameters of callbacks in the space.
        executor: trains the candidates.
    """

    search: Settings
    trainer: Trainer
    module: LightningModule
    builder: ModuleBuilder
    data: TrialData
    links: Links
    joint: JointSearch
    executor: Executor = field(default_factory=InProcess)

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
        facts = self._facts(spec)
        limits = Limits(facts, self.search.limits, self.search.constraints, [self.joint.why_not])
        study = SearchStudy.of(self.search, self.trainer, self.module)
        ledger = study.open(spec, facts, limits, self.joint)
        if not ledger.trials():
            check_sizes_can_be_met(limits, self.search.space)
        self._run_trials(ledger, spec, limits, study.directory)
        return self._conclude(ledger, study.directory, limits)

    def _run_trials(self, ledger: Ledger, spec: TrialSpec, limits: Limits, directory: Path | None) -> None:
        budget = TrialBudget(1 if directory is None else self.search.n_trials, self.search.timeout)
        progress = self._progress(ledger, budget)
        inherit, keep_top_k = self.search.trial.inherit, self.search.study.keep_top_k
        kept = None if directory is None else Checkpoints(directory, keep_top_k)
        parents = None if inherit is None or directory is None else Parents(inherit, ledger, directory, keep_top_k)
        specs = CandidateSpecs(spec, self.links, self.joint, directory, parents)
        loop = SearchLoop(
            ledger, specs, self.executor, limits=limits, budget=budget, observer=progress, checkpoints=kept
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
            self.executor.shutdown()
            progress.close()

    def _check_trainer(self) -> None:
        check_trainer_names(trainer_part(self.search.space.parameters), self.search.trial.trainer, self.trainer)
        check_trainer_values(self._draws())

    def _check_buildable(self) -> None:
        names, data_names = split_architecture(dict.fromkeys(self.search.space.parameters))
        self.links.check(self.search.space.parameters)
        draws = [split_architecture(self.links.completed(each, self.data.datamodule)) for each in self._draws()]
        example, data_example = draws[0]
        self.builder.check(names, example, [*self.data.names(), *(f"trainer.{name}" for name in SEARCHABLE)])
        self.data.check(data_names, data_example)
        self.joint.check(self.search.after, self.search.trial.inherit)
        with seeded(self.search.seed):
            self.builder.check_taken(self.module, [draw for draw, _ in draws])
            self.data.check_taken([draw for _, draw in draws])
            self.builder.warn_of_lost(self.module, example)

    def _draws(self) -> list[Architecture]:
        rng = np.random.default_rng(0)
        return [self.search.space.architecture(self.search.space.random(rng)) for _ in range(_DRAWS)]

    def _facts(self, spec: TrialSpec) -> ModuleFacts:
        return ModuleFacts(
            self.builder,
            self.data,
            flops=True if "flops" in self.search.limits else None,
            trainer=spec.trainer,
            completed=partial(self.links.completed, datamodule=self.data.datamodule),
        )

    def _spec(self) -> TrialSpec:
        """The trial of which all trials are variations."""
        searched = trainer_part(self.search.space.parameters)  # each trial has its own, not those of an earlier winner
        of_outer = {name: value for name, value in inherited_arguments(self.trainer).items() if name not in searched}
        trial, folds = self.search.trial, self.search.folds
        arguments = {**of_outer, **trial.trainer}
        check_ends(arguments, trial.callbacks)
        fresh(trial.callbacks)  # raises here what would fail every trial
        return TrialSpec(
            architecture={},
            builder=self.builder,
            data=self.data,
            trainer=arguments,
            monitor=self.search.monitor,
            mode=self.search.mode,
            seed=self.search.seed,
            callbacks=trial.callbacks,
            on_nan=trial.on_nan,
            folds=None if folds is None else folds.seeded(self.search.seed),
        )

    def _progress(self, ledger: Ledger, budget: TrialBudget) -> SearchProgress:
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
    """Write a result to standard output, unlike messages."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
