"""A folder with a study and its trials as a stranger sends it: no code in it runs, and nothing outside is followed."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import optuna
import pytest
import torch
from guarded import Case, Guard
from optuna_migrations import read_migrations_once
from search_options import merged
from torch import Tensor, nn

from lightning_autoarch import ArchitectureSearch, ChannelPruning, Int, load_pruned
from lightning_autoarch.core.errors import CheckpointError, SearchError
from lightning_autoarch.training.trial_files import inside, kept_checkpoint, own_directory


class Run:
    """Code in a file: where it is unpickled, it makes another one."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


class Act(enum.Enum):
    RELU = 1


class Module(L.LightningModule):
    def __init__(self, width: int = 1, act: Act = Act.RELU) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(2, width)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


def batches() -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(torch.ones(2, 2), batch_size=2)


def fitted(folder: Path, *others: L.Callback, **options: Any) -> ArchitectureSearch:
    search = ArchitectureSearch(
        {"width": Int(1, 9)},
        monitor="loss",
        sampler="random",
        **merged({"n_trials": 1, "study": {"directory": folder}}, options),
    )
    trainer(folder, search, *others).fit(Module(), batches(), batches())
    return search


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search of one trial."""
    folder = tmp_path_factory.mktemp("searched")
    fitted(folder)
    return folder


@pytest.fixture
def received(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "study"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code has run"


def evil(path: Path, marker: Path) -> Path:
    torch.save({"state_dict": {}, "callbacks": {}, "x": Run(marker)}, path)
    return path


def set_attribute(folder: Path, name: str, value: Any) -> None:
    with sqlite3.connect(folder / "study.db") as database:
        database.execute(
            "insert or replace into trial_user_attributes (trial_id, key, value_json) values (1, ?, ?)",
            (name, json.dumps(value)),
        )


def best(folder: Path) -> Path:
    return folder / "trials" / "0000" / "best.ckpt"


class TestTrials:
    @pytest.mark.parametrize("after", ["keep", "stop"])
    def test_checkpoint_that_is_code(self, received: Path, marker: Path, after: str) -> None:
        evil(best(received), marker)
        with pytest.raises(CheckpointError, match="which could run code"):
            fitted(received, after=after)
        assert not marker.exists()

    @pytest.mark.parametrize("place", ["absolute", "above", "link", "trial is a link"])
    def test_checkpoint_outside(self, received: Path, marker: Path, tmp_path: Path, place: str) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        shutil.move(best(received), elsewhere / "best.ckpt")  # a good one: it is its place that is refused
        if place == "link":
            best(received).symlink_to(elsewhere / "best.ckpt")
        elif place == "trial is a link":
            shutil.rmtree(best(received).parent)
            best(received).parent.symlink_to(elsewhere, target_is_directory=True)
        stored = {"absolute": str(elsewhere / "best.ckpt"), "above": "../elsewhere/best.ckpt"}.get(place, "no.ckpt")
        set_attribute(received, "checkpoint", stored)
        with pytest.raises(SearchError, match=r"weights of the winner, trial #0, are not here: expected .*best\.ckpt"):
            fitted(received, after="keep")
        assert (elsewhere / "best.ckpt").exists()

    @pytest.mark.parametrize("stored", [3, None, ["a"], {"a": 1}, "a\0b", "x" * 10_000, "", "trials", "/"])
    def test_attributes_that_are_no_file(self, received: Path, stored: Any) -> None:
        assert kept_checkpoint(received, 0, stored) == Path(os.path.realpath(best(received)))
        best(received).unlink()
        assert kept_checkpoint(received, 0, stored) is None

    def test_file_inside_that_another_directory_wrote(self, received: Path) -> None:
        other = received / "of another machine.ckpt"
        shutil.move(best(received), other)
        for stored in (str(other), other.name):
            assert kept_checkpoint(received, 0, stored) == Path(os.path.realpath(other))

    def test_weights_of_another_module(self, received: Path) -> None:
        content = torch.load(best(received), weights_only=True)
        for weights in ({}, {"layer.weight": 3}, {"layer.weight": torch.zeros(1).expand(10**12)}, [1]):
            torch.save({**content, "state_dict": weights}, best(received))
            with pytest.raises(CheckpointError):
                fitted(received, after="keep")

    @pytest.mark.filterwarnings("ignore:The study `Module` is continued under other conditions")
    def test_parents(self, received: Path, marker: Path, tmp_path: Path) -> None:
        evil(best(received), marker)
        search = fitted(received, trial={"inherit": "best"}, n_trials=2, study={"accept_changes": True})
        assert search.optuna_study is not None and not marker.exists()
        child = search.optuna_study.trials[1].user_attrs
        assert child["parent"] == 0 and child["inherited"] == 0 and "could run code" in child["inherited_reason"]

    @pytest.mark.filterwarnings("ignore:The study `Module` is continued under other conditions")
    def test_parent_outside(self, received: Path, marker: Path, tmp_path: Path) -> None:
        best(received).unlink()
        set_attribute(received, "checkpoint", str(evil(tmp_path / "outside.ckpt", marker)))
        search = fitted(received, trial={"inherit": "nearest"}, n_trials=2, study={"accept_changes": True})
        assert search.optuna_study is not None and not marker.exists()
        assert search.optuna_study.trials[1].user_attrs["parent"] is None

    @pytest.mark.parametrize("kind", ["code", "link", "damaged", "state"])
    def test_interrupted_trial_starts_again(self, received: Path, marker: Path, tmp_path: Path, kind: str) -> None:
        storage = f"sqlite:///{received}/study.db"
        trial = optuna.load_study(study_name="Module", storage=storage).ask()
        last = received / "trials" / "0001" / "last.ckpt"
        last.parent.mkdir()
        if kind == "code":
            evil(last, marker)
        elif kind == "link":
            last.symlink_to(evil(tmp_path / "outside.ckpt", marker))
        elif kind == "damaged":
            last.write_bytes(best(received).read_bytes()[:1000])
        else:
            content = torch.load(best(received), weights_only=True)
            content["callbacks"]["lightning_autoarch.TrialRecorder"]["rng"] = 3
            torch.save(content, last)
        with pytest.warns(UserWarning, match="starts from its beginning, not from its last checkpoint"):
            search = fitted(received, n_trials=2)
        assert search.optuna_study is not None and not marker.exists()
        assert [t.state.name for t in search.optuna_study.trials] == ["COMPLETE", "COMPLETE"] and trial.number == 1

    def test_directories_that_are_links(self, received: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "0001").mkdir(parents=True)
        (elsewhere / "0000").mkdir()
        shutil.rmtree(received / "trials")
        (received / "trials").symlink_to(elsewhere, target_is_directory=True)
        with pytest.raises(SearchError, match="a symbolic link leads from there"):
            own_directory(received, 1)
        with pytest.raises(SearchError, match="a symbolic link leads from there"):
            fitted(received, n_trials=2)
        assert sorted(path.name for path in elsewhere.iterdir()) == ["0000", "0001"]

    def test_study_that_is_a_link(self, received: Path, tmp_path: Path) -> None:
        shutil.move(received / "study.db", tmp_path / "other.db")
        (received / "study.db").symlink_to(tmp_path / "other.db")
        with pytest.raises(SearchError, match="symbolic link that leads out of it"):
            fitted(received)

    def test_inside(self, tmp_path: Path) -> None:
        assert inside(tmp_path, "a/../b") == Path(os.path.realpath(tmp_path)) / "b"
        assert inside(tmp_path, "..") is inside(tmp_path, "a/../../b") is inside(tmp_path, "/etc") is None


def damage(folder: Path, at: int) -> None:
    data = bytearray((folder / "study.db").read_bytes())
    data[at : at + 4000] = b"\xff" * 4000
    (folder / "study.db").write_bytes(data)
    for suffix in ("-wal", "-shm"):
        (folder / f"study.db{suffix}").unlink(missing_ok=True)


def attribute(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: set_attribute(folder, name, value)


CHANGES: dict[str, Callable[[Path], Any]] = {
    **{f"damaged at {at}": lambda folder, at=at: damage(folder, at) for at in (100, 5000, 20000, 60000)},
    "checkpoint that is code": lambda folder: evil(best(folder), Path("hacked")),
    "checkpoint that is cut off": lambda folder: best(folder).write_bytes(best(folder).read_bytes()[:1000]),
    "checkpoint that repeats": lambda folder: torch.save(
        {"state_dict": {"layer.weight": torch.zeros(1).expand(10**9)}}, best(folder)
    ),
    "checkpoint of the system": attribute("checkpoint", "/etc/passwd"),
    "checkpoint above": attribute("checkpoint", "../../x.ckpt"),
    "architecture with a class": attribute("architecture", {"width": 3, "class_path": "this.s"}),
    "architecture of 10^9": attribute("architecture", {"width": 10**9}),
    "metrics that steer a terminal": attribute("metrics", {"\x1b[2J": "\x1b[2J"}),
}


def search_in(folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the study holds
        fitted(Path(folder), after="keep")


def warm_up() -> None:
    """Of the guarded process: everything is imported before anything hostile is read."""
    read_migrations_once()
    with tempfile.TemporaryDirectory() as folder:
        search_in(folder)
        search_in(folder)


class TestStudies:
    def test_in_a_guarded_child(self, searched: Path, guard: Guard, tmp_path: Path) -> None:
        """An error of the package, or a search; nothing outside is opened, no code runs, and memory stays small."""
        cases = []
        for number, change in enumerate(CHANGES.values()):
            folder = Path(shutil.copytree(searched, tmp_path / f"{number}" / "study"))
            change(folder)
            cases.append(Case((folder,), folder, (folder / "study.db").stat().st_size))
        outcomes = dict(zip(CHANGES, guard.run_all(search_in, cases, writes=True), strict=True))
        wrong = {name: problems for name, outcome in outcomes.items() if (problems := outcome.problems())}
        assert wrong == {}
        assert all(
            outcomes[f"checkpoint that {what}"].kind == "refused" for what in ("is code", "is cut off", "repeats")
        )

    @pytest.mark.parametrize("architecture", [{"width": 10**9}, {"width": 3, "class_path": "os.system"}, 3, None, []])
    def test_winner_outside_of_the_space_is_not_built(self, received: Path, architecture: Any) -> None:
        set_attribute(received, "architecture", architecture)
        outside = isinstance(architecture, dict)
        expected = (
            pytest.warns(UserWarning, match="no architectures of this space") if outside else contextlib.nullcontext()
        )
        with expected:
            search = fitted(received)
        assert search.best_architecture is not None and 1 <= search.best_architecture["width"] <= 9


class TestFit:
    """`fit(ckpt_path=...)`: as Lightning, which refuses what is more than data unless the user says otherwise."""

    @pytest.mark.parametrize(
        "make",
        [lambda: ArchitectureSearch({"width": Int(1, 2)}, monitor="loss"), lambda: ChannelPruning(0.5, of="flops")],
    )
    @pytest.mark.parametrize("said", [{}, {"weights_only": None}, {"weights_only": True}])
    def test_code_does_not_run(
        self, make: Callable[[], L.Callback], said: dict[str, Any], tmp_path: Path, marker: Path
    ) -> None:
        path = evil(tmp_path / "evil.ckpt", marker)
        with pytest.raises(CheckpointError, match="which could run code"):
            trainer(tmp_path, make()).fit(Module(), batches(), batches(), ckpt_path=str(path), **said)
        assert not marker.exists()

    def test_unless_the_user_says_so_of_this_file(self, tmp_path: Path, marker: Path) -> None:
        path = evil(tmp_path / "trusted.ckpt", marker)
        search = ArchitectureSearch({"width": Int(1, 2)}, monitor="loss", study={"resume_from": path})
        with pytest.raises(CheckpointError):  # what is said of `ckpt_path` is not said of `resume_from`
            trainer(tmp_path, search).fit(Module(), batches(), batches(), ckpt_path=str(path), weights_only=False)
        assert not marker.exists()
        with pytest.raises(FileExistsError):  # read once by the callback, and then by Lightning
            trainer(tmp_path, ChannelPruning(0.5, at=1.0, example_inputs=torch.ones(1, 2))).fit(
                Module(), batches(), batches(), ckpt_path=str(path), weights_only=False
            )
        assert marker.exists()

    def test_load_pruned(self, tmp_path: Path, marker: Path) -> None:
        with pytest.raises(CheckpointError, match="which could run code"):
            load_pruned(Module(), evil(tmp_path / "small.ckpt", marker))
        assert not marker.exists()


class Holds(L.Callback):
    """A callback of the user's with a state."""

    def __init__(self, value: Any) -> None:
        self.value, self.loaded = value, None

    def state_dict(self) -> dict[str, Any]:
        return {"best": [1.0, self.value]}


class Own:
    """A class that no reader knows."""


class TestOwnCheckpoints:
    def test_hold_data_alone(self, searched: Path) -> None:
        content = torch.load(best(searched), weights_only=True)
        assert content["hyper_parameters"] == {"width": content["hyper_parameters"]["width"], "act": "RELU"}

    @pytest.mark.parametrize("value", [np.float64(0.5), Own(), Act.RELU])
    def test_state_that_is_not_data_ends_the_search_at_its_first_checkpoint(self, tmp_path: Path, value: Any) -> None:
        kind = type(value).__name__
        with pytest.raises(SearchError, match=rf"{kind} under \['callbacks'\].*\['best'\]\[1\].*add_safe_globals"):
            fitted(tmp_path, trial={"callbacks": [Holds(value)]}, n_trials=3)
        study = optuna.load_study(study_name="Module", storage=f"sqlite:///{tmp_path}/study.db")
        assert len(study.trials) == 1 and not list(tmp_path.glob("trials/*/*.ckpt*"))

    def test_class_that_the_user_has_declared_safe(self, tmp_path: Path) -> None:
        with torch.serialization.safe_globals([Own]):
            search = fitted(tmp_path, trial={"callbacks": [Holds(Own())]}, after="keep")
        assert search.best_architecture is not None
