"""The arguments of `ArchitectureSearch`: how they are given, and what is said of a wrong one."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import optuna
import pytest
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.model_selection import KFold

from lightning_autoarch import (
    ArchitectureSearch,
    Categorical,
    Folds,
    Int,
    SearchError,
    SpaceError,
    StudyConfig,
    TrialConfig,
)


def search(**options: Any) -> ArchitectureSearch:
    return ArchitectureSearch({"width": Int(2, 9)}, monitor="val_loss", **options)


def test_every_argument_is_an_attribute() -> None:
    names = list(inspect.signature(ArchitectureSearch).parameters)
    assert len(names) <= 16
    assert [name for name in names if not hasattr(search(), name)] == []


def test_a_mapping_is_the_same_as_its_class() -> None:
    trial = {"trainer": {"max_epochs": 3}, "inherit": "best"}
    assert search(trial=trial).trial == TrialConfig(trainer={"max_epochs": 3}, inherit="best")
    assert search(study={"name": "s", "directory": Path("d")}).study == StudyConfig(name="s", directory=Path("d"))
    assert search().trial == TrialConfig() and search().study == StudyConfig()


def test_folds() -> None:
    splitter = KFold(3)
    assert search(folds=3).folds == Folds(3)
    assert search(folds=splitter).folds == Folds(splitter)
    assert search(folds=Folds(3, labels=[0, 1])).folds.labels == [0, 1]  # type: ignore[union-attr]


def test_limits() -> None:
    assert search(limits={"params": 2e6}).limits == {"params": 2e6}
    assert search().limits == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": {"params": "2M"}}, r"`limits.params` to be a number > 0, such as 2e6, got '2M'"),
        ({"limits": {"param": 1}}, "Did you mean `params`"),
        ({"limits": 2e6}, r"`limits` to be a mapping"),
        ({"limits": {"flops": True}}, "`limits.flops`"),
        ({"timeout": "1h"}, "`timeout` to be a number of seconds > 0 or None, got '1h'"),
        ({"n_trials": "20"}, "`n_trials` to be a whole number"),
        ({"seed": "x"}, "`seed` to be a whole number >= 0, got 'x'"),
        ({"pruner": "median"}, r"got 'median'. Did you mean `optuna.pruners.MedianPruner\(\)`"),
        ({"pruner": "successive_halving"}, r"optuna.pruners.SuccessiveHalvingPruner\(\)"),
        ({"pruner": optuna.pruners.MedianPruner}, "`pruner` to be an Optuna pruner or None"),
        ({"sampler": "bayes"}, "one of random, bayesian, genetic, got 'bayes'"),
        ({"sampler": 3}, "`sampler`"),
        ({"folds": "5"}, "`folds` to be a number >= 2 or a scikit-learn splitter, got '5'. Give the number 5"),
        ({"folds": {"splitter": 5}}, "`folds`"),
        ({"constraints": lambda a: True}, "`constraints` to be a list of functions.*Put it in a list"),
        ({"constraints": ["width < 3"]}, r"`constraints\[0\]` to be a function"),
        ({"enqueue": {"width": 3}}, "`enqueue` to be a list of architectures.*Put it in a list"),
        ({"enqueue": [3]}, r"`enqueue\[0\]`"),
        ({"trial": {"trainer": 3}}, "`trial.trainer` to map Trainer arguments to values"),
        ({"trial": {"callbacks": EarlyStopping("val_loss")}}, "`trial.callbacks` to be a list of callbacks"),
        ({"trial": {"callbacks": [EarlyStopping]}}, "`trial.callbacks` to be a list of callbacks"),
        ({"trial": {"traner": {}}}, "Did you mean `trainer`"),
        ({"trial": {"max_epochs": 3}}, "keys of `trial` to be among trainer, callbacks, inherit, on_nan"),
        ({"trial": 3}, "`trial` to be a TrialConfig or a mapping"),
        ({"trial": {"inherit": "last"}}, "`trial.inherit`"),
        ({"trial": {"on_nan": "skip"}}, "`trial.on_nan`"),
        ({"study": "sqlite:///study.db"}, "`study` to be a StudyConfig or a mapping"),
        ({"study": {"study_name": "s"}}, "keys of `study`"),
        ({"study": {"name": 3}}, "`study.name`"),
        ({"study": {"accept_changes": "yes"}}, "`study.accept_changes`"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        search(**options)


def test_choices_that_are_no_list() -> None:
    with pytest.raises(SpaceError, match=r"got 2 arguments: Categorical\(\['relu', 'gelu'\]\)"):
        Categorical("relu", "gelu")  # type: ignore[misc]
