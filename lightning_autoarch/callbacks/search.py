"""`ArchitectureSearch`: add it to a Trainer, and `fit` leaves the module as the best architecture found, trained."""

from __future__ import annotations

import math
import signal
import weakref
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from torch import Tensor

from lightning_autoarch.callbacks.flavour import check_flavour
from lightning_autoarch.callbacks.joint.joint import JointSearch
from lightning_autoarch.callbacks.outer import (
    Minima,
    callback_state,
    check_no_spawning,
    check_one_process,
    check_results_are_writable,
    checkpoint_path,
    come_first,
    end_before_training,
    links_of_cli,
    reattach,
    restore_minima,
    save_cli_config,
    set_up_again,
)
from lightning_autoarch.callbacks.search_fit import SearchFit
from lightning_autoarch.callbacks.unique import check_unique
from lightning_autoarch.core.errors import CheckpointError, SearchError, SpaceError, shown
from lightning_autoarch.core.schema import VERSION, Schema, data, is_empty, mapping, optional, real, whole
from lightning_autoarch.reading.tensors import plain_tensor
from lightning_autoarch.search.board import html_table
from lightning_autoarch.search.choices import written
from lightning_autoarch.search.space import Architecture, SearchSpace
from lightning_autoarch.search.strategies import STRATEGIES
from lightning_autoarch.search.study import quiet_optuna
from lightning_autoarch.training.data import TrialData, split_architecture
from lightning_autoarch.training.folds import Folds, OfDataset, check_splitter
from lightning_autoarch.training.inherit import check_trial_trainer
from lightning_autoarch.training.isolation import seeded, trial_seed
from lightning_autoarch.training.limits import Constraint
from lightning_autoarch.training.links import Links
from lightning_autoarch.training.loop import Budget, check_budget
from lightning_autoarch.training.module import Factory, ModuleBuilder
from lightning_autoarch.training.optimizers import check_optimizers_hold_the_module
from lightning_autoarch.training.parents import Inherit, check_inherit
from lightning_autoarch.training.plain import OMITTED
from lightning_autoarch.training.recorder import OnNan, TrialRecorder
from lightning_autoarch.training.searched_trainer import (
    set_on_,
    trainer_part,
)
from lightning_autoarch.training.trial_files import read_lightning

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = mapping(data())  # extra state need not be tensors
After = Literal["train", "keep", "stop"]

COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")  # by `torch.compile`
SCHEMA = Schema(
    "ArchitectureSearch",
    1,
    {"architecture": mapping(data()), "score": optional(real(finite=False)), "trial": optional(whole())},
)


class ArchitectureSearch(Callback):
    """Searches an architecture in `setup(stage="fit")` and rebuilds the module in place as the best one.

    An architecture is a set of the module's `__init__` arguments. A module that calls `save_hyperparameters()` works as
    it is; another one takes `factory`. Trials train copies on the outer fit's data with the outer Trainer's settings;
    the outer module is untouched until the winner is known.

    Args:
        space: name of an `__init__` argument -> `Int`, `Float`, `Categorical`, `Repeat`, or their compact form. Names
            that begin with `data.` are arguments of the datamodule, those with `prune.` of the one pruning callback
            among `trial_callbacks`, or else among the Trainer's: `prune.sparsity`, `prune.end`, `prune.scope`,
            `prune.sparsity.<pattern>` for some layers, `prune.ratio`, `prune.weight`. Those with `transfer.` are of the
            one `TransferLearning`: `transfer.strategy`, `transfer.layer_decay`, `transfer.freeze_depth`,
            `transfer.lr_scale.<pattern>`, `transfer.checkpoint`. Trials then prune, or start from the checkpoint, and
            the outer fit does as the winner. `trainer.gradient_clip_val`, `trainer.gradient_clip_algorithm` and
            `trainer.accumulate_grad_batches` are of the Trainer, of trials and of the outer fit. A dotted name is a
            value inside of an argument: `cfg.width` of a dict, Namespace, dataclass or OmegaConf config,
            `encoder.init_args.dim` of what LightningCLI makes, `data.cfg.size` of the datamodule's.
        monitor: the logged value that is the score: the best epoch's counts, in a trial that prunes the best of those
            at the final sparsity.
        mode: "min" or "max".
        n_trials: how many trials, over all resumes and processes; duplicates and refused architectures do not count.
        timeout: seconds of the trials' training after which no further trial starts, over all resumes and processes.
        strategy: "random", "bayesian", "genetic" (NSGA-II), or any Optuna sampler.
        pruner: any Optuna pruner; fed each validation epoch, or each fold with `folds`.
        folds: a number of folds or a scikit-learn splitter: the score is the mean over the folds.
        labels: for splitters that need them: an array with a value a training sample, or a function of the set.
        groups: likewise.
        max_params: most parameters of a candidate, dense.
        max_flops: most FLOPs of a candidate's forward pass of `example_input_array`, or of the first batch.
        constraints: functions `f(architecture) -> bool`: whether it is allowed, all names included.
        enqueue: architectures to try first.
        trial_trainer: Trainer arguments that differ in the trials, such as `{"max_epochs": 3}`.
        trial_callbacks: copied for each trial, such as EarlyStopping.
        after: "train": the outer fit trains the winner from fresh weights; "keep": from its trial's best weights;
            "stop": the module has its trial's best weights and the fit ends.
        factory: `factory(**architecture)` makes the module.
        storage: Optuna storage or its URL; None: SQLite in the search's directory.
        study_name: None: the module's class name.
        directory: for study and checkpoints; None: `autoarch/<study_name>` under the Trainer's `default_root_dir`.
        seed: one seed, one sequence of proposals and trainings (with one process, and a strategy given by name).
        keep_top_k: how many of the best trials keep their checkpoint.
        inherit: whose weights a trial starts from, of the finished trials that keep a checkpoint: "best", or "nearest"
            by architecture; None: fresh ones. What fits is taken over (see `transfer_weights`), channels replicated or
            chosen where the module has an `example_input_array`. Scores are less comparable then: a child has seen more
            epochs than its own, which `total_epochs` counts. `after="train"` trains the winner from fresh weights all
            the same. Not with `folds`: a parent has been trained on what they validate with.
        on_nan: what a monitored value that is not finite does: "fail" ends its trial as failed; "ignore" lets it go on,
            and the best of its finite values counts.
        accept_changes: continue a study although its trials were scored under other conditions (data, hyperparameters,
            Trainer arguments of the trials, callbacks, folds), which is refused otherwise: their scores may not compare
            with those of new trials.
        resume_from: a checkpoint of an earlier fit whose winner is to be rebuilt without searching; seldom needed, as
            `fit(ckpt_path=...)` is seen.

    Attributes:
        best_architecture: of the winner, None before.
        best_score: its score.
        study: the Optuna study.
        links: arguments that follow from others, as `AutoArchCLI` sets them; None: those of the LightningCLI that made
            the Trainer, if any.

    Raises:
        SpaceError: the space is not well formed, or names something that is no argument.
        SearchError: the search cannot start, or no trial ended with a score.

    Example::

        search = ArchitectureSearch({"width": Int(16, 512, log=True)}, monitor="val_acc", mode="max", n_trials=20)
        L.Trainer(max_epochs=20, callbacks=[search]).fit(model, datamodule=dm)
    """

    def __init__(
        self,
        space: dict[str, Any],
        *,
        monitor: str,
        mode: str = "min",
        n_trials: int = 20,
        timeout: float | None = None,
        strategy: str | BaseSampler = "bayesian",
        pruner: BasePruner | None = None,
        folds: Any = None,
        labels: OfDataset = None,
        groups: OfDataset = None,
        max_params: int | None = None,
        max_flops: int | None = None,
        constraints: Sequence[Constraint] = (),
        enqueue: Sequence[dict[str, Any]] = (),
        trial_trainer: dict[str, Any] | None = None,
        trial_callbacks: Sequence[Callback] = (),
        after: After = "train",
        factory: Callable[..., Any] | None = None,
        storage: Any = None,
        study_name: str | None = None,
        directory: str | Path | None = None,
        seed: int = 0,
        keep_top_k: int = 3,
        inherit: Inherit | None = None,
        on_nan: OnNan = "fail",
        accept_changes: bool = False,
        resume_from: str | Path | None = None,
    ) -> None:
        self.space = SearchSpace(space)
        self.monitor, self.mode, self.after, self.seed = monitor, mode, after, seed
        self.budget = Budget(n_trials, timeout)
        self.strategy, self.pruner, self.enqueue = strategy, pruner, list(enqueue)
        self.folds = None if folds is None else Folds(folds, labels, groups, seed)
        self.max_params, self.max_flops, self.constraints = max_params, max_flops, list(constraints)
        self.trial_trainer = check_trial_trainer(trial_trainer or {})
        self.trial_callbacks: list[Callback] = list(trial_callbacks)
        self.factory: Factory | None = factory
        self.storage, self.study_name, self.directory = storage, study_name, directory
        self.keep_top_k, self.accept_changes, self.resume_from = keep_top_k, accept_changes, resume_from
        self.inherit: Inherit | None = inherit
        self.on_nan: OnNan = on_nan
        self.best_architecture: Architecture | None = None
        self.best_score: float | None = None
        self.study: optuna.Study | None = None
        self._winner: int | None = None
        self._weights: Path | None = None
        self._searched: weakref.ref[LightningModule] | None = None
        self._minima: Minima | None = None
        self._joint: JointSearch | None = None
        self._sigint: Any = None
        self.links: Links | None = None
        self._links = Links()
        self._check_arguments()

    @property
    def state_key(self) -> str:
        key = "lightning_autoarch.ArchitectureSearch"
        remedy = (
            "They would rebuild the same module: put the names of both spaces into one search, or search one after the "
            "other, each with a Trainer of its own."
        )
        check_unique(self, key, remedy, SearchError)
        return key

    def state_dict(self) -> dict[str, Any]:
        if self.best_architecture is None:
            return {}
        return {
            VERSION: SCHEMA.version,
            "architecture": written(self.best_architecture),
            "score": self.best_score,
            "trial": self._winner,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._take(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles know nothing of this process: not the module that was searched, not its signal handler."""
        of_process = {"_searched": None, "_sigint": None, "_joint": None, "links": None, "_links": Links()}
        return {**self.__dict__, **of_process}

    def has_searched(self, module: LightningModule) -> bool:
        """Whether it has rebuilt this module already, and leaves it alone."""
        return self._searched is not None and self._searched() is module

    def _repr_html_(self) -> str:
        """What a notebook shows: the leaderboard once there is a study, else what will be searched."""
        if self.study is not None:
            return html_table(self.study)
        names = ", ".join(f"<code>{escape(name)}</code>" for name in self.space.parameters)
        return f"<p>ArchitectureSearch over {names} by <code>{escape(self.monitor)}</code>. No search has run yet.</p>"

    def trials_dataframe(self) -> pd.DataFrame:
        """Optuna's table of all trials (needs pandas): number, value, times, `params_*`, `user_attrs_*`, state.

        What was logged in the epoch of a trial's score is in columns `metrics_*`.

        Raises:
            SearchError: there is no study yet.
        """
        if self.study is None:
            raise SearchError("There is no study yet: `trainer.fit` makes it.")
        table = self.study.trials_dataframe()
        return _with_columns_of_metrics(table) if "user_attrs_metrics" in table else table

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.has_searched(pl_module):
            return
        if any(isinstance(cb, TrialRecorder) for cb in trainer.callbacks):  # type: ignore[attr-defined]
            return  # a trial of ours, whose module brings the search along in its `configure_callbacks`
        check_flavour(self, trainer, pl_module, SearchError)
        check_no_spawning(trainer)
        earlier = come_first(self, trainer)
        self._sigint = signal.getsignal(signal.SIGINT)
        builder = ModuleBuilder.of(pl_module, self.factory)
        data = TrialData.of(trainer)
        self._links = self.links or links_of_cli(trainer)
        self._joint = JointSearch.of(self.space, self.trial_callbacks, trainer, pl_module)
        if not self._resumes(trainer):
            check_one_process(trainer)
            save_cli_config(trainer, pl_module)
            check_results_are_writable(trainer)
            with quiet_optuna(), seeded(self.seed):
                found = SearchFit(self, trainer, pl_module, builder, data, self._links, self._joint).run()
            self._take({"architecture": found.architecture, "score": found.score, "trial": found.trial})
            self._weights = None if self.after == "train" else found.weights()
        self._rebuild(trainer, pl_module, builder, data)
        set_up_again(self, trainer, pl_module, earlier)
        self._searched = weakref.ref(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_optimizers_hold_the_module(trainer, pl_module)
        if self._weights is None:
            return
        _load_weights(pl_module, self._weights)
        self._weights = None
        if self.after == "stop":
            self._minima = end_before_training(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._minima is not None:
            restore_minima(trainer, self._minima)
            self._minima = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt) and self._sigint is not None:
            signal.signal(signal.SIGINT, self._sigint)  # Lightning leaves it ignored

    def _check_arguments(self) -> None:
        check_budget(self.budget)
        check_splitter(self.folds.splitter if self.folds is not None else None)
        check_inherit(self.inherit, self.folds, self.space.parameters)
        for name, value, known in (
            ("mode", self.mode, ("min", "max")),
            ("after", self.after, ("train", "keep", "stop")),
            ("on_nan", self.on_nan, ("fail", "ignore")),
            ("strategy", self.strategy, STRATEGIES),
        ):
            if value not in known and not (name == "strategy" and isinstance(value, BaseSampler)):
                raise SearchError(f"Expected `{name}` to be one of {', '.join(known)}, got {value!r}.")
        if isinstance(self.keep_top_k, bool) or not isinstance(self.keep_top_k, int) or self.keep_top_k < 1:
            raise SearchError(f"Expected `keep_top_k` to be a whole number >= 1, got {self.keep_top_k!r}.")
        if self.folds is not None and self.after != "train":
            raise SearchError(f"`after={self.after!r}` needs the weights of one training, but `folds` trains several.")

    def _resumes(self, trainer: Trainer) -> bool:
        """Whether the winner is known from the checkpoint that this fit resumes from."""
        given, trusted = checkpoint_path(trainer)
        path = self.resume_from or given
        trusted = trusted and self.resume_from is None  # which was said of `ckpt_path`
        state = None if path is None else callback_state(path, self.state_key, trusted=trusted)
        if state is not None:
            self._take(state)
            rank_zero_info(f"The search is done already: {path} holds its winner (trial #{self._winner}).")
        elif self.resume_from is not None:
            raise SearchError(f"`resume_from={str(path)!r}` is no checkpoint of a fit with ArchitectureSearch.")
        return state is not None

    def _take(self, state: Mapping[str, Any]) -> None:
        """The winner that a state holds: its arguments have to be of the space, or they could be any at all."""
        if is_empty(state):
            return
        known = SCHEMA.read(state)
        try:
            self.space.flatten(known["architecture"])
        except SpaceError as error:
            raise SearchError(
                f"The winner of an earlier search, trial #{known['trial']}, is not in this search's space: {error} "
                "Give the space that it was found in."
            ) from error
        self.best_architecture, self.best_score = self.space.restored(known["architecture"]), known["score"]
        self._winner = known["trial"]

    def _rebuild(self, trainer: Trainer, module: LightningModule, builder: ModuleBuilder, data: TrialData) -> None:
        assert self.best_architecture is not None
        architecture, parameters = split_architecture(self._links.completed(self.best_architecture, data.datamodule))
        with seeded(trial_seed(self.seed, self._winner or 0)):
            builder.rebuild_(module, architecture)
        data.rebuild_(parameters)
        set_on_(trainer, trainer_part(self.best_architecture))
        assert self._joint is not None
        self._joint.parametrise_outer_(self.best_architecture)
        if self._weights is not None:
            self._joint.start_outer_from(read_lightning(self._weights))
        reattach(trainer, module)


def _with_columns_of_metrics(table: pd.DataFrame) -> pd.DataFrame:
    metrics = [of_trial if isinstance(of_trial, dict) else {} for of_trial in table.pop("user_attrs_metrics")]
    for name in dict.fromkeys(name for of_trial in metrics for name in of_trial):
        table[f"metrics_{name}"] = [of_trial.get(name, math.nan) for of_trial in metrics]
    return table


def _without_sparse(weights: object, path: Path) -> object:
    """Weights without their sparse tensors, which are checked here: no other state holds any."""
    if not isinstance(weights, Mapping):
        return weights
    sparse = {n: w for n, w in weights.items() if isinstance(w, Tensor) and w.layout is not torch.strided}
    for name, tensor in sparse.items():
        plain_tensor(str(name), tensor, str(path), from_file=True)
    return {name: weight for name, weight in weights.items() if name not in sparse}


def _load_weights(module: LightningModule, path: Path) -> None:
    """The weights of a trial's checkpoint.

    Raises:
        CheckpointError: they are not of this module.
    """
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
