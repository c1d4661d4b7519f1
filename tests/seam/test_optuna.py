"""What the package relies on in Optuna beyond its public interface, at whatever version is installed."""

from __future__ import annotations

import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import GridSampler, RandomSampler
from optuna.trial import TrialState

from lightning_autoarch.seam import optuna as seam


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.RDBStorage:
    """A database with a heartbeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        url = f"sqlite:///{tmp_path}/study.db"
        return optuna.storages.RDBStorage(url, heartbeat_interval=60, grace_period=180)


@pytest.fixture
def study(storage: optuna.storages.RDBStorage) -> optuna.Study:
    return optuna.create_study(storage=storage, sampler=RandomSampler(seed=0))


def known(study: optuna.Study, number: int = 0) -> optuna.trial.FrozenTrial:
    return study.get_trials(deepcopy=False)[number]


def test_the_storage_is_the_one_that_holds_the_study(study: optuna.Study) -> None:
    storage = seam.storage_of(study)
    assert [found.study_name for found in storage.get_all_studies()] == [study.study_name]


def test_asking_warns_of_no_heartbeat(study: optuna.Study) -> None:
    with pytest.warns(UserWarning, match="Heartbeat of storage"):  # what is left out
        study.ask()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seam.ask(study).number == 1


def test_what_is_stored_of_a_running_trial(study: optuna.Study) -> None:
    trial = seam.ask(study)
    trial.suggest_int("a", 1, 9)
    trial.report(0.5, step=3)
    found = seam.stored(trial)
    assert (found.number, found.params, found.intermediate_values) == (trial.number, trial.params, {3: 0.5})


def test_a_trial_is_gone_on_with(study: optuna.Study) -> None:
    value = seam.ask(study).suggest_int("a", 1, 9)
    again = seam.reopened(study, known(study))
    assert again.suggest_int("a", 1, 9) == value
    study.tell(again, 2.0)
    assert [(trial.state, trial.value) for trial in study.trials] == [(TrialState.COMPLETE, 2.0)]


def test_attributes_of_a_trial_that_runs_elsewhere(study: optuna.Study) -> None:
    seam.ask(study)
    seam.set_user_attr(study, known(study), "parent", 4)
    seam.set_system_attr(study, known(study), "ours:proposal", {"origin": "random"})
    assert known(study).user_attrs == {"parent": 4}
    assert known(study).system_attrs["ours:proposal"] == {"origin": "random"}


def test_attributes_of_optuna_go_with_a_copied_study(study: optuna.Study) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["loss"])  # Optuna keeps it with its own attributes
    other = optuna.create_study(storage=seam.storage_of(study), study_name="other")
    seam.copy_system_attrs(study, other)
    assert other.metric_names == ["loss"]


def test_what_is_enqueued_is_fixed(study: optuna.Study) -> None:
    study.enqueue_trial({"a": 3})
    study.enqueue_trial({})
    for _ in range(3):
        seam.ask(study)
    assert [dict(seam.fixed_params(trial)) for trial in study.trials] == [{"a": 3}, {}, {}]
    assert [seam.is_enqueued(trial) for trial in study.trials] == [True, True, False]


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (IntDistribution(2, 8, step=2), 4, 10),
        (FloatDistribution(0.0, 1.0), 0.5, 1.5),
        (CategoricalDistribution([None, "a"]), "a", None),
    ],
)
def test_contains(distribution: Any, inside: Any, outside: Any) -> None:
    assert seam.contains(distribution, inside)
    assert seam.contains(distribution, outside) == (outside is None)


def test_contains_refuses_what_is_no_choice() -> None:
    with pytest.raises(ValueError, match="not in"):
        seam.contains(CategoricalDistribution(["a"]), "b")


def test_a_sampler_that_has_nothing_left_calls_what_is_given(tmp_path: Path) -> None:
    study, calls = optuna.create_study(sampler=GridSampler({"a": [1]})), []
    with seam.stop_redirected(study, lambda: calls.append("stop")):
        trial = study.ask()
        trial.suggest_int("a", 1, 9)
        study.tell(trial, 0.0)
    assert calls == ["stop"]
    with pytest.raises(RuntimeError):  # what it does outside of `optimize`
        study.stop()


def test_a_heartbeat_that_stops_is_stale(storage: optuna.storages.RDBStorage, study: optuna.Study) -> None:
    with seam.heartbeat(seam.ask(study)):
        assert not seam.is_stale(study, known(study))
    age_heartbeats(storage, timedelta(hours=1))
    assert seam.is_stale(study, known(study))


def age_heartbeats(storage: optuna.storages.RDBStorage, by: timedelta) -> None:
    from optuna.storages._rdb import models

    with storage.scoped_session() as session:
        beats = session.query(models.TrialHeartbeatModel).all()
        assert len(beats) == 1, "a trial beats once when it begins"
        beats[0].heartbeat = datetime.now() - by
        session.commit()


def test_without_a_heartbeat_nothing_is_stale() -> None:
    study = optuna.create_study()
    with seam.heartbeat(seam.ask(study)):
        assert not seam.is_stale(study, known(study))
