"""Executors: one that trains in this process, and one of another kind that the loop is given."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import nets
import optuna
import pytest

from lightning_autoarch import Int, SearchError
from lightning_autoarch.core.errors import MonitorMissing
from lightning_autoarch.execution.executor import Executor, InProcess
from lightning_autoarch.execution.loop import SearchLoop, TrialBudget
from lightning_autoarch.search.space import SearchSpace
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.folds import Folds
from lightning_autoarch.training.limits import Limits
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.module_facts import ModuleFacts
from lightning_autoarch.training.recorder import Report
from lightning_autoarch.training.trainer_settings import SILENT
from lightning_autoarch.training.trial import TrialResult, TrialSpec


def never(step: int, value: float) -> bool:
    return False


def spec(architecture: dict[str, Any] | None = None, **changes: Any) -> TrialSpec:
    trainer = {**SILENT, "max_epochs": 1, "accelerator": "cpu", "devices": 1}
    train, val = nets.loaders()
    builder, data = ModuleBuilder.of(nets.Net()), TrialData(train=train, val=val)
    given = {"monitor": "val_loss", "mode": "min", "seed": 1, **changes}
    return TrialSpec(architecture or {}, builder, data, trainer, **given)


def test_a_trial_in_this_process() -> None:
    result = InProcess().submit(spec({"width": 3}), never).result()
    assert result.state == "complete" and result.score == result.history[0]


def test_one_seed_one_result_also_after_pickling() -> None:
    sent = pickle.loads(pickle.dumps(spec({"width": 3})))
    results = [InProcess().submit(each, never).result() for each in (spec({"width": 3}), sent)]
    assert results[0].score == results[1].score
    assert pickle.loads(pickle.dumps(results[0])) == results[0]


def test_folds_are_part_of_the_spec() -> None:
    result = InProcess().submit(spec(folds=Folds(2, seed=0)), never).result()
    assert len(result.fold_scores) == 2


def test_an_error_that_ends_the_search_is_that_of_the_future() -> None:
    future = InProcess().submit(spec(monitor="val_los"), never)
    assert isinstance(future.exception(), MonitorMissing)


def test_ctrl_c_is_raised_at_once() -> None:
    def interrupt(step: int, value: float) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InProcess().submit(spec(), interrupt)


class Pretending:
    """Trains nothing: the score is the width, reported once."""

    def __init__(self) -> None:
        self.specs: list[TrialSpec] = []

    def submit(self, spec: TrialSpec, report: Report) -> Future[TrialResult]:
        self.specs.append(spec)
        score, done = float(spec.architecture["width"]), Future[TrialResult]()
        stopped = report(0, score)
        done.set_result(TrialResult("pruned" if stopped else "complete", score, (score,), epochs=1, seconds=0.5))
        return done

    def shutdown(self) -> None: ...


class Quiet:
    def trial_started(self, number: int) -> None: ...
    def value(self, step: int, value: float) -> None: ...
    def trial_ended(self, number: int, result: TrialResult) -> None: ...
    def said(self, message: str) -> None: ...


class Specs:
    def of(self, number: int, architecture: dict[str, Any]) -> TrialSpec:
        return spec(architecture)


def searched(executor: Executor, tmp_path: Path, n_trials: int = 4, sizes: dict[str, float] | None = None) -> Ledger:
    space = SearchSpace({"width": Int(2, 9)})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ledger, base = Ledger(study, space, tmp_path), spec()
    limits = Limits(ModuleFacts(base.builder, base.data), sizes or {})
    SearchLoop(ledger, Specs(), executor, limits=limits, budget=TrialBudget(n_trials), observer=Quiet()).run()
    return ledger


def test_any_executor_trains(tmp_path: Path) -> None:
    executor = Pretending()
    ledger = searched(executor, tmp_path)
    best = ledger.ranking()[0]
    assert len(ledger.finished()) == 4 and len(executor.specs) == 4
    assert best.value == min(spec.architecture["width"] for spec in executor.specs)
    assert best.intermediate_values == {0: best.value} and best.user_attrs["params"] == 6 * best.value + 1


def test_what_is_over_a_limit_is_not_submitted(tmp_path: Path) -> None:
    executor = Pretending()
    searched(executor, tmp_path, n_trials=3, sizes={"params": 31})
    assert max(spec.architecture["width"] for spec in executor.specs) <= 5


def test_the_loop_ends_on_an_error_of_the_executor(tmp_path: Path) -> None:
    class Broken(Pretending):
        def submit(self, spec: TrialSpec, report: Report) -> Future[TrialResult]:
            failed: Future[TrialResult] = Future()
            failed.set_exception(SearchError("no worker is left"))
            return failed

    with pytest.raises(SearchError, match="no worker is left"):
        searched(Broken(), tmp_path)
