"""The ledger: who owns a trial, what counts, and what becomes of a damaged study."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from lightning_autoarch import Categorical, Float, Int, Repeat, SearchError, SearchSpace
from lightning_autoarch.seam.optuna import ask, heartbeat
from lightning_autoarch.search import extension
from lightning_autoarch.search.opening import StudyDefinition, open_study
from lightning_autoarch.search.owner import Owner
from lightning_autoarch.search.storage import open_storage, without_password
from lightning_autoarch.search.study import Ledger, quiet_optuna

SPACE = SearchSpace({"a": Int(1, 9)})


@pytest.fixture(params=["sqlite", "journal", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    storages = {
        "sqlite": lambda: open_storage(f"sqlite:///{tmp_path}/deep/study.db"),
        "journal": lambda: optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
        ),
        "memory": optuna.storages.InMemoryStorage,
    }
    return Ledger(opened(storages[request.param]()), SPACE, tmp_path)


def opened(storage: Any, space: SearchSpace = SPACE, monitor: str = "loss", mode: str = "min") -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return open_study(storage, StudyDefinition("s", space, monitor, mode), sampler, optuna.pruners.NopPruner())


def finish(ledger: Ledger, trial: optuna.Trial, value: float) -> None:
    trial.set_user_attr("architecture", ledger.space.suggest(trial))
    ledger.study.tell(trial, value)


def test_trials_are_handed_out_until_the_total(ledger: Ledger) -> None:
    for value in (3.0, 1.0, 2.0):
        trial, begun = ledger.claim(3)
        assert not begun
        finish(ledger, trial, value)
    assert ledger.claim(3) is None
    assert [t.value for t in ledger.ranking()] == [1.0, 2.0, 3.0]


def test_a_living_owner_keeps_its_trial(ledger: Ledger) -> None:
    first, _ = ledger.claim(2)
    second, begun = ledger.claim(2)
    assert (second.number, begun) == (1, False)
    assert ledger.claim(2) is None
    ledger.release(first)
    again, begun = ledger.claim(2)
    assert (again.number, begun) == (0, True)


def test_a_dead_owner_loses_it(ledger: Ledger) -> None:
    trial, _ = ledger.claim(5)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    trial.set_user_attr("owner", {"host": socket.gethostname(), "pid": dead.pid, "start": 1.0})
    again, begun = ledger.claim(5)
    assert (again.number, begun) == (0, True)


def test_a_reused_pid_is_not_the_owner() -> None:
    assert Owner.myself().is_gone() is False
    assert Owner(socket.gethostname(), os.getpid(), 1.0).is_gone() is (Owner.myself().start is not None)
    assert Owner("elsewhere", 1, None).is_gone() is None


def test_another_hosts_trial_waits_for_the_heartbeat(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    ledger = Ledger(opened(storage), SPACE, tmp_path)
    trial, _ = ledger.claim(5)
    with heartbeat(trial):
        trial.set_user_attr("owner", {"host": "elsewhere", "pid": 1, "start": None})
    fresh, begun = ledger.claim(5)
    assert (fresh.number, begun) == (1, False)
    _age_heartbeats(storage, timedelta(hours=1))
    again, begun = ledger.claim(5)
    assert (again.number, begun) == (0, True)


def _age_heartbeats(storage: Any, by: timedelta) -> None:
    from optuna.storages._rdb import models

    with storage.scoped_session() as session:
        for beat in session.query(models.TrialHeartbeatModel).all():
            beat.heartbeat = datetime.now() - by
        session.commit()


def test_duplicates_and_refused_do_not_count(ledger: Ledger) -> None:
    first, _ = ledger.claim(2)
    first.suggest_int("a", 1, 9)
    finish(ledger, first, 1.0)
    second, _ = ledger.claim(2)
    twin = ledger.twin(ledger.finished()[0].user_attrs["architecture"], second.number)
    assert twin is not None
    assert twin.number == 0
    ledger.mark_duplicate(second, twin)
    third, _ = ledger.claim(2)
    ledger.mark_refused(third, "too large")
    assert len(ledger.finished()) == 1
    assert [t.number for t in ledger.ranking()] == [0]
    assert ledger.claim(2) is not None


def test_a_failed_trial_counts_and_has_no_rank(ledger: Ledger) -> None:
    trial, _ = ledger.claim(2)
    ledger.study.tell(trial, state=TrialState.FAIL)
    assert len(ledger.finished()) == 1
    assert ledger.ranking() == []


def test_enqueued_once_over_all_starts(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.enqueue([{"a": 7}])
    trial, _ = ledger.claim(5)
    assert ledger.space.suggest(trial) == {"a": 7}
    assert sum(t.state == TrialState.WAITING for t in ledger.study.trials) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": SearchSpace({"a": Int(1, 9, log=True)})}, "`a`: stored"),
        ({"space": SearchSpace({"a": Float(1, 9)})}, "`a`: stored"),
        ({"space": SearchSpace({"b": Int(1, 9)})}, "`b`: stored nothing.*`a`: stored"),
        ({"space": SearchSpace({"a": Int(1, 9), "b": [1]})}, "`b`: stored nothing"),
        ({"space": SearchSpace({"a": Int(10, 99)})}, "`a`: stored"),
        ({"monitor": "accuracy"}, "`monitor`: stored 'loss', given 'accuracy'"),
        ({"mode": "max"}, "`mode`: stored 'min', given 'max'"),
    ],
)
def test_another_search_is_refused(ledger: Ledger, change: dict[str, Any], words: str) -> None:
    trial, _ = ledger.claim(2)
    finish(ledger, trial, 1.0)
    with pytest.raises(SearchError, match=words):
        opened(ledger.study._storage, **change)


def test_a_study_of_plain_optuna_is_adopted_while_it_is_empty() -> None:
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s")
    assert opened(storage).user_attrs["autoarch:monitor"] == "loss"


@pytest.mark.parametrize("name", ["why?", "a#b", "100%", "%41", "a b", "{0}", "é", "me@home", "a:b"])
def test_any_path_is_a_study(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / name / "study.db", tmp_path / f"{name}.db"):
        assert opened(open_storage(path)).user_attrs["autoarch:monitor"] == "loss"
        assert opened(open_storage(str(path))).study_name == opened(open_storage(path)).study_name
        assert path.is_file()
    files = {p.name.removesuffix("-wal").removesuffix("-shm") for p in tmp_path.iterdir()}
    assert files == {name, f"{name}.db"}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(SearchError, match=r"study\.db.*(not a database|malformed)"):
        open_storage(f"sqlite:///{tmp_path}/study.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_file_is_named(tmp_path: Path) -> None:
    open_storage(f"sqlite:///{tmp_path}/study.db")
    (tmp_path / "study.db").chmod(0o444)
    with pytest.raises(SearchError, match="read-only"):
        open_storage(f"sqlite:///{tmp_path}/study.db")


def test_a_read_only_file_is_named_for_root_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_storage(f"sqlite:///{tmp_path}/study.db")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(SearchError, match="read-only"):
        open_storage(f"sqlite:///{tmp_path}/study.db")


def test_unknown_storage_keeps_the_password_to_itself() -> None:
    with pytest.raises(SearchError) as caught:
        open_storage("nosuch://user:secret@host/db")
    assert "secret" not in str(caught.value).split("cannot be opened")[0]
    assert without_password("mysql://u:p@h/d") == "mysql://u:***@h/d"


def test_optunas_verbosity_returns() -> None:
    before = optuna.logging.get_verbosity()
    with quiet_optuna():
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
    assert optuna.logging.get_verbosity() == before


class TestAnotherSpace:
    """The study of a space that has been changed: what lies in the new one stays, under the same numbers."""

    FIRST = SearchSpace({"a": Int(1, 9), "kind": ["x", "y"]})

    def made(self, ledger: Ledger) -> optuna.Study:
        """Three trials: x with 1, y with 9, x with 5; one that waits."""
        study = opened(ledger.study._storage, self.FIRST)
        for value, (a, kind) in enumerate([(1, "x"), (9, "y"), (5, "x")]):
            study.enqueue_trial({"a": a, "kind": kind})
            trial = ask(study)
            trial.set_user_attr("architecture", self.FIRST.suggest(trial))
            trial.report(0.5, step=0)
            study.tell(trial, float(value))
        study.enqueue_trial({"a": 2, "kind": "y"})
        return study

    def opened(self, study: optuna.Study, space: dict[str, Any], **known: Any) -> Ledger:
        parsed, sampler = SearchSpace(space), optuna.samplers.RandomSampler(seed=0)
        definition = StudyDefinition("s", parsed, "loss", "min", known)
        again = open_study(study._storage, definition, sampler, optuna.pruners.NopPruner())
        return Ledger(again, parsed, None)

    def test_a_wider_range_and_more_choices_keep_every_trial(self, ledger: Ledger) -> None:
        before = self.made(ledger).get_trials()
        space = {"a": Int(1, 99), "kind": Categorical(["z", "x", "y"])}
        wider = self.opened(ledger.study, space)
        after = wider.study.get_trials()
        assert [t.params for t in after] == [t.params for t in before]
        assert [(t.number, t.state, t.values, t.intermediate_values, t.datetime_start) for t in after] == [
            (t.number, t.state, t.values, t.intermediate_values, t.datetime_start) for t in before
        ]
        assert [t.user_attrs for t in after] == [t.user_attrs for t in before]
        assert [t.number for t in wider.ranking()] == [0, 1, 2]
        assert wider.ignored() == ""
        assert wider.study.user_attrs["autoarch:space"] == SearchSpace(space).to_dict()
        drawn = [wider.space.suggest(ask(wider.study)) for _ in range(30)]
        assert drawn[0] == {"a": 2, "kind": "y"}  # what waited
        assert {point["kind"] for point in drawn} == {"x", "y", "z"}
        assert [s.study_name for s in ledger.study._storage.get_all_studies()] == ["s"]

    def test_trials_outside_are_ignored_and_counted_and_come_back(self, ledger: Ledger) -> None:
        study = self.made(ledger)
        narrow = self.opened(study, {"a": Int(1, 8), "kind": ["x"]})
        assert [t.number for t in narrow.ranking()] == [0, 2]
        assert narrow.ignored().startswith("1 of 4: trial #1: `a` cannot be 9")
        assert len(narrow.study.trials) == 4
        wide = self.opened(study, {"a": Int(1, 9), "kind": ["x", "y", "z"]})
        assert [t.number for t in wide.ranking()] == [0, 1, 2]
        assert wide.study.trials[1].params == {"a": 9, "kind": "y"}

    def test_a_new_parameter_with_the_value_that_it_had(self, ledger: Ledger) -> None:
        grown = self.opened(self.made(ledger), {"a": Int(1, 9), "kind": ["x", "y"], "b": Float(0, 1)}, b=0.5, c=1)
        assert [t.params["b"] for t in grown.study.trials[:3]] == [0.5, 0.5, 0.5]
        assert grown.architecture(grown.ranking()[0]) == {"a": 1, "kind": "x", "b": 0.5}

    def test_more_repetitions(self, ledger: Ledger) -> None:
        first = SearchSpace({"h": Repeat(1, 2, Int(1, 9))})
        study = opened(ledger.study._storage, first)
        trial = ask(study)
        trial.set_user_attr("architecture", first.suggest(trial))
        study.tell(trial, 1.0)
        deeper = self.opened(study, {"h": Repeat(1, 5, Int(1, 20))})
        assert [t.number for t in deeper.ranking()] == [0]
        with pytest.raises(SearchError, match="`h`: stored"):
            self.opened(study, {"h": Repeat(1, 5, {"w": Int(1, 20)})})

    @pytest.mark.parametrize("step", ["add_trials", "delete_study", "copy_study"])
    def test_a_process_that_dies_in_between_loses_nothing(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        study, wider = self.made(ledger), {"a": Int(1, 9), "kind": ["x", "y", "z"]}

        def die(*args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(optuna.Study if step == "add_trials" else extension.optuna, step, die)
            with pytest.raises(KeyboardInterrupt):
                self.opened(study, wider)
        again = self.opened(study, wider)
        assert [t.value for t in again.ranking()] == [0.0, 1.0, 2.0]
        assert [s.study_name for s in ledger.study._storage.get_all_studies()] == ["s"]

    def test_not_while_another_process_works_on_it(self, ledger: Ledger) -> None:
        study = self.made(ledger)
        ask(study).set_user_attr("owner", vars(Owner.myself()))
        with pytest.raises(SearchError, match="cannot be changed while another process works on it"):
            self.opened(study, {"a": Int(1, 20), "kind": ["x", "y"]})

    def test_choices_of_a_plain_study_are_other_ones(self) -> None:
        study = optuna.create_study(study_name="s")
        study.optimize(lambda trial: float(trial.suggest_categorical("kind", ["y", "w", "x"]) == "w"), n_trials=9)
        mine = self.opened(study, {"kind": ["x", "y"]})
        assert {t.params.get("kind") for t in mine.ranking()} == {"x", "y"}
        assert mine.space.suggest(ask(mine.study))["kind"] in ("x", "y")

    def test_a_plain_study_on_another_scale_is_refused(self) -> None:
        study = optuna.create_study(study_name="s")
        study.optimize(lambda trial: trial.suggest_float("a", 1, 9), n_trials=2)
        with pytest.raises(SearchError, match=r"Trial #0 has `a` from FloatDistribution.*IntDistribution"):
            self.opened(study, {"a": Int(1, 9)})
