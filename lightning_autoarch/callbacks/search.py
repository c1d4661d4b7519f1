"""`ArchitectureSearch`: with it, `Trainer.fit` searches, rebuilds the module as the best architecture and trains it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import optuna
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from lightning_autoarch.callbacks.base import AutoArchCallback
from lightning_autoarch.callbacks.running_fit import callback_state
from lightning_autoarch.callbacks.search_config import (
    After,
    Mode,
    StudyConfig,
    TrialConfig,
    check_list,
    check_one_of,
    check_pruner,
    check_seconds,
    check_whole,
    config_of,
)
from lightning_autoarch.callbacks.search_fit import SearchFit, Winner
from lightning_autoarch.callbacks.unique import check_unique
from lightning_autoarch.core.errors import SearchError, SpaceError
from lightning_autoarch.core.schema import Schema, data, is_empty, mapping, optional, real, whole
from lightning_autoarch.seam.lightning import callbacks_of, checkpoint_path
from lightning_autoarch.search.board import html_table
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.samplers import SAMPLERS
from lightning_autoarch.search.space import Architecture, SearchSpace
from lightning_autoarch.training.folds import Folds, Splitter
from lightning_autoarch.training.inheritance import check_inherit
from lightning_autoarch.training.limits import Constraint, checked_sizes
from lightning_autoarch.training.links import Links
from lightning_autoarch.training.module import Factory
from lightning_autoarch.training.optimizers import check_optimizers_hold_the_module
from lightning_autoarch.training.recorder import TrialRecorder

if TYPE_CHECKING:
    import pandas as pd


COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")  # by `torch.compile`


class ArchitectureSearch(AutoArchCallback):
    """Searches an architecture in `setup(stage="fit")` and rebuilds the module in place as the best one.

    An architecture is a set of the module's `__init__` arguments. A module that calls `save_hyperparameters()` works as
    it is; another one takes `factory`. Trials train copies on the outer fit's data with the outer Trainer's settings;
    the outer module is not changed before the winner is known. With a logger, `search/best_score` and `search/trials`
    are logged once at the end of the search.

    Every argument is an attribute of that name.

    Args:
        space: name of an `__init__` argument -> `Int`, `Float`, `Categorical`, `Repeat`, or their compact form. Names
            that begin with `data.` are arguments of the datamodule, those with `prune.` of the one pruning callback
            among `trial.callbacks`, or else among the Trainer's: `prune.sparsity`, `prune.end`, `prune.scope`,
            `prune.sparsity.<pattern>` for some layers, `prune.ratio`, `prune.weight`. Those with `transfer.` are of the
            one `TransferLearning`: `transfer.strategy`, `transfer.layer_decay`, `transfer.freeze_depth`,
            `transfer.lr_scale.<pattern>`, `transfer.checkpoint`. Trials then prune, or start from the checkpoint, and
            the outer fit uses the winner's values. `trainer.gradient_clip_val`, `trainer.gradient_clip_algorithm` and
            `trainer.accumulate_grad_batches` are arguments of the Trainer, of trials and of the outer fit. A dotted
            name is a value inside of an argument: `cfg.width` of a dict, Namespace, dataclass or OmegaConf config,
            `encoder.init_args.dim` of what LightningCLI instantiates, `data.cfg.size` of the datamodule's.
        monitor: the logged value that is the score. The best epoch counts; in a trial that prunes, the best of those at
            the final sparsity.
        mode: "min" or "max".
        n_trials: how many trials to run, over all resumes and processes; duplicates and refused architectures do not
            count.
        timeout: seconds of training, summed over all trials, resumes and processes, after which no further trial
            starts. None: no limit.
        sampler: "random", "bayesian", "genetic" (NSGA-II), or any Optuna sampler.
        pruner: any Optuna pruner; it receives the score of each validation epoch, or of each fold with `folds`. None
            stops no trial early.
        folds: the number of folds, a scikit-learn splitter, or `Folds(splitter, labels=, groups=)` for splitters that
            need more than the number of samples. The score is the mean over the folds. None: one training a trial.
        limits: the largest allowed sizes of a candidate: "params", its parameters without pruning; "flops", those of
            one forward pass of `example_input_array`, or of the first batch.
        constraints: functions `f(architecture) -> bool` that return whether an architecture is allowed; all names of
            the space are included.
        enqueue: architectures to try first.
        trial: how trials train: a `TrialConfig`, or a mapping with its keys `trainer`, `callbacks`, `inherit`,
            `on_nan`.
        after: "train": the outer fit trains the winner from fresh weights; "keep": from its trial's best weights;
            "stop": the module has its trial's best weights and the fit ends.
        factory: `factory(**architecture)` makes the module.
        seed: of proposals and trainings. The same seed repeats a search (with one process, and a sampler given by
            name).
        study: where trials are recorded: a `StudyConfig`, or a mapping with its keys `storage`, `name`, `directory`,
            `keep_top_k`, `accept_changes`, `resume_from`.

    Attributes:
        best_architecture: the winner's, None before there is one.
        best_score: the winner's score.
        optuna_study: the Optuna study, None before it is open.
        links: arguments that follow from others, as `AutoArchCLI` sets them. None: those of the LightningCLI that made
            the Trainer, if any.

    Raises:
        SpaceError: the space is not well formed, or a name in it is no argument.
        SearchError: an argument is invalid, the search cannot start, or no trial has a score.

    Example::

        search = ArchitectureSearch({"width": Int(16, 512, log=True)}, monitor="val_acc", mode="max", n_trials=20)
        L.Trainer(max_epochs=20, callbacks=[search]).fit(model, datamodule=dm)
    """

    schema = Schema(
        "ArchitectureSearch",
        1,
        {"architecture": mapping(data()), "score": optional(real(finite=False)), "trial": optional(whole())},
    )
    error = SearchError
    remedy = (
        "They would rebuild the same module: put the names of both spaces into one search, or search one after the "
        "other, each with a Trainer of its own."
    )

    def __init__(
        self,
        space: Mapping[str, Any],
        *,
        monitor: str,
        mode: Mode = "min",
        n_trials: int = 20,
        timeout: float | None = None,
        sampler: str | BaseSampler = "bayesian",
        pruner: BasePruner | None = None,
        folds: int | Folds | Splitter | None = None,
        limits: Mapping[str, float] | None = None,
        constraints: Sequence[Constraint] = (),
        enqueue: Sequence[Mapping[str, Any]] = (),
        trial: TrialConfig | Mapping[str, Any] | None = None,
        after: After = "train",
        factory: Factory | None = None,
        seed: int = 0,
        study: StudyConfig | Mapping[str, Any] | None = None,
    ) -> None:
        self.space = SearchSpace(space)
        self.monitor, self.mode, self.after, self.seed = monitor, mode, after, seed
        self.n_trials, self.timeout, self.factory = n_trials, timeout, factory
        self.sampler, self.pruner = sampler, pruner
        self.folds = Folds.of(folds)
        self.limits = checked_sizes(limits)
        check_list("constraints", constraints, "functions")
        check_list("enqueue", enqueue, "architectures")
        self.constraints: list[Constraint] = list(constraints)
        self.enqueue: list[Mapping[str, Any]] = list(enqueue)
        self.trial = config_of(TrialConfig, "trial", trial)
        self.study = config_of(StudyConfig, "study", study)
        self._check_arguments()
        self.best_architecture: Architecture | None = None
        self.best_score: float | None = None
        self.optuna_study: optuna.Study | None = None
        self.links: Links | None = None
        self._winner: int | None = None  # the number of its trial
        self._fit: SearchFit | None = None

    @property
    def state_key(self) -> str:
        key = "lightning_autoarch.ArchitectureSearch"  # of subclasses too
        check_unique(self, key, self.remedy, self.error)
        return key

    def save_state(self) -> dict[str, Any] | None:
        if self.best_architecture is None:
            return None
        return {"architecture": written(self.best_architecture), "score": self.best_score, "trial": self._winner}

    def restore_state(self, state: dict[str, Any]) -> None:
        self._take(state)

    def fit_attributes(self) -> dict[str, object]:
        return {"_fit": None, "links": None}

    def has_searched(self, module: LightningModule) -> bool:
        """Whether it has rebuilt this module already, and leaves it alone."""
        return self.is_bound_to(module)

    def _repr_html_(self) -> str:
        """The leaderboard once there is a study, else what will be searched; for notebooks."""
        if self.optuna_study is not None:
            return html_table(self.optuna_study)
        names = ", ".join(f"<code>{escape(name)}</code>" for name in self.space.parameters)
        return f"<p>ArchitectureSearch over {names} by <code>{escape(self.monitor)}</code>. No search has run yet.</p>"

    def trials_dataframe(self) -> pd.DataFrame:
        """Optuna's table of all trials (needs pandas): number, value, times, `params_*`, `user_attrs_*`, state.

        What was logged in the epoch of a trial's score is in columns `metrics_*`.

        Raises:
            SearchError: there is no study yet.
        """
        if self.optuna_study is None:
            raise SearchError("There is no study yet: `trainer.fit` makes it.")
        table = self.optuna_study.trials_dataframe()
        return _with_columns_of_metrics(table) if "user_attrs_metrics" in table else table

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.has_searched(pl_module):
            return
        if any(isinstance(cb, TrialRecorder) for cb in callbacks_of(trainer)):
            return  # a trial of ours, whose module brings the search along in its `configure_callbacks`
        super().setup(trainer, pl_module, stage)
        self._fit = fit = SearchFit.of(self, self, trainer, pl_module, self.links)
        fit.rebuild_(self._resumed(trainer) or self._found(fit))
        fit.set_up_again(self)
        self.bind(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_optimizers_hold_the_module(trainer, pl_module)
        if self._fit is not None:
            self._fit.load_weights_()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._fit is not None:
            self._fit.restore_trainer_()
            self._fit = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt) and self._fit is not None:
            self._fit.restore_interrupt_handler()

    def _check_arguments(self) -> None:
        check_one_of("mode", self.mode, ("min", "max"))
        check_one_of("after", self.after, ("train", "keep", "stop"))
        if not isinstance(self.sampler, BaseSampler):
            check_one_of("sampler", self.sampler, SAMPLERS)
        check_whole("n_trials", self.n_trials, 1)
        check_seconds("timeout", self.timeout)
        check_whole("seed", self.seed, 0)
        check_pruner(self.pruner)
        for i, constraint in enumerate(self.constraints):
            if not callable(constraint):
                raise SearchError(f"Expected `constraints[{i}]` to be a function, got {constraint!r}.")
        for i, architecture in enumerate(self.enqueue):
            if not isinstance(architecture, Mapping):
                raise SearchError(f"Expected `enqueue[{i}]` to map names of the space to values, got {architecture!r}.")
        check_inherit(self.trial.inherit, self.folds)
        if self.folds is not None and self.after != "train":
            raise SearchError(f"`after={self.after!r}` needs the weights of one training, but `folds` trains several.")

    def _found(self, fit: SearchFit) -> Winner:
        """The winner of the search, which runs here."""
        found = fit.find()
        architecture = self._take({"architecture": found.architecture, "score": found.score, "trial": found.trial})
        return Winner(architecture, found.trial, None if self.after == "train" else found.weights())

    def _resumed(self, trainer: Trainer) -> Winner | None:
        """The winner in the checkpoint from which this fit resumes; None where it has none."""
        given, trusted = checkpoint_path(trainer)
        resume_from = self.study.resume_from
        path = given if resume_from is None else os.fspath(resume_from)
        trusted = trusted and resume_from is None  # which was said of `ckpt_path`
        state = None if path is None else callback_state(path, self.state_key, trusted=trusted)
        if state is None or is_empty(state):
            if resume_from is not None:
                raise SearchError(f"`study.resume_from={path!r}` is no checkpoint of a fit with ArchitectureSearch.")
            return None
        architecture = self._take(state)
        rank_zero_info(f"The search is done already: {path} holds its winner (trial #{self._winner}).")
        return Winner(architecture, self._winner or 0)

    def _take(self, state: Mapping[str, Any]) -> Architecture:
        """The winner that a state holds: its arguments have to be of the space, or they could be any at all."""
        known = self.schema.read(state)
        try:
            self.space.flatten(known["architecture"])
        except SpaceError as error:
            raise SearchError(
                f"The winner of an earlier search, trial #{known['trial']}, is not in this search's space: {error} "
                "Give the space that it was found in."
            ) from error
        self._winner, self.best_score = known["trial"], known["score"]
        self.best_architecture = architecture = self.space.restored(known["architecture"])
        return architecture


def _with_columns_of_metrics(table: pd.DataFrame) -> pd.DataFrame:
    metrics = [of_trial if isinstance(of_trial, dict) else {} for of_trial in table.pop("user_attrs_metrics")]
    for name in dict.fromkeys(name for of_trial in metrics for name in of_trial):
        table[f"metrics_{name}"] = [of_trial.get(name, math.nan) for of_trial in metrics]
    return table
