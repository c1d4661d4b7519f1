"""The report of a study, on a synthetic one that holds everything a search leaves behind, and on hostile ones."""

from __future__ import annotations

import datetime
import importlib.util
import itertools
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightning_autoarch.core.errors import ReportError
from lightning_autoarch.report import influence, open_study, render_report, write_report
from lightning_autoarch.report.calibration import Proposal, chance_band, guessing_error, inside, verdict
from lightning_autoarch.report.curves import pareto_front
from lightning_autoarch.report.influence import best_trials, importances, parameters
from lightning_autoarch.report.plot import robust_range
from lightning_autoarch.report.record import expected_of, origin_of, read_record
from lightning_autoarch.report.source import sqlite_uri
from lightning_autoarch.search.board import html_table, leaderboard
from lightning_autoarch.search.leaderboard import fate, ranked
from lightning_autoarch.search.space import SearchSpace

SPACE = {
    "layers": {
        "min": 1,
        "max": 4,
        "block": {"width": {"low": 16, "high": 512, "log": True}, "act": ["relu", "gelu"]},
    },
    "dropout": {"low": 0.0, "high": 0.5, "type": "float"},
    "block": ["conv", "separable", "mlp"],
    "kernel": {"choices": [3, 5, 7], "when": {"block": ["conv", "separable"]}},
    "data.batch_size": {"low": 16, "high": 256, "log": True},
}
START = datetime.datetime(2026, 3, 1, 9, 0)


def true_score(flat: dict) -> float:
    """A smooth function that favours two wide layers, little dropout and the separable block."""
    widths = [v for k, v in flat.items() if k.endswith("width")]
    score = 0.94 - 0.012 * abs(len(widths) - 2) - 0.006 * abs(math.log(np.mean(widths) / 180))
    score -= 0.25 * (flat["dropout"] - 0.12) ** 2 + {"conv": 0.01, "separable": 0.0, "mlp": 0.035}[flat["block"]]
    return score - 0.004 * abs(flat.get("kernel", 5) - 5)


def make_trial(number: int, rng: np.random.Generator, space: SearchSpace) -> FrozenTrial:
    candidates = [space.random(rng) for _ in range(1 if number < 8 else 6)]
    flat = max(candidates, key=lambda point: true_score(point) + 0.01 * rng.standard_normal())
    score = true_score(flat) + 0.004 * rng.standard_normal()
    widths = [64, *(v for k, v in flat.items() if k.endswith("width")), 10]
    attrs = {
        "architecture": space.architecture(flat),
        "owner": {"host": "host", "pid": 1, "start": 0.0},
        "params": int(sum(a * b + b for a, b in itertools.pairwise(widths))),
        "flops": int(2 * sum(a * b for a, b in itertools.pairwise(widths))),
        "seconds": 2.0 + 0.02 * sum(widths),
        "epochs": 6,
        "origin": "random" if number < 8 else "bayesian",
        "checkpoint": f"/runs/search/trial_{number:04d}/best.ckpt",
        "stderr": 0.002 + 0.002 * rng.random(),
    }
    if number >= 8:
        expected = {"mean": score + 0.006 * rng.standard_normal(), "std": 0.006 + 0.003 * rng.random()}
        attrs["expected"] = expected
    curve = {e: score - 0.12 * math.exp(-0.7 * (e + 1)) + 0.003 * rng.standard_normal() for e in range(6)}
    state, value = TrialState.COMPLETE, score
    if number in (5, 13, 19, 27, 33):
        state, value, attrs["epochs"] = TrialState.PRUNED, None, 3
        curve = {e: y - 0.03 for e, y in curve.items() if e < 3}
    if number in (7, 22, 30):
        state, value, curve = TrialState.FAIL, None, {}
        attrs["error"] = "OutOfMemory: tried to allocate 3.2 GiB" if number != 22 else "Diverged: `val_acc` is nan"
    if number == 25:
        state, attrs["duplicate_of"] = TrialState.COMPLETE, 17
    begin = START + datetime.timedelta(minutes=number)
    trial = create_trial(
        state=state,
        value=value,
        params=flat,
        distributions={node.name: node.distribution for node in space.nodes if node.name in flat},
        user_attrs=attrs,
        intermediate_values=curve,
    )
    trial.datetime_start = begin
    if state.is_finished():
        trial.datetime_complete = begin + datetime.timedelta(seconds=attrs["seconds"])
    return trial


def synthetic_study(storage: str | None = None, n: int = 40, name: str = "digits") -> optuna.Study:
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    space, rng = SearchSpace(SPACE), np.random.default_rng(0)
    for key, value in {
        "space": space.to_dict(),
        "monitor": "val_acc",
        "mode": "max",
        "version": "0.1.0",
    }.items():
        study.set_user_attr(f"autoarch:{key}", value)
    for number in range(n):
        study.add_trial(make_trial(number, rng, space))
    return study


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    return synthetic_study()


@pytest.fixture(scope="module")
def text(study) -> str:
    return render_report(study)


@pytest.fixture
def database(tmp_path) -> Path:
    """A study of ten trials in an SQLite file, with a name that a URL would have to quote."""
    folder = tmp_path / "a folder #1"
    folder.mkdir()
    path = folder / "study 100%.db"
    fill(optuna.create_study(storage=f"sqlite:///{path}", study_name="one"), 10)
    return path


def fill(study: optuna.Study, n: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(n):
        x = rng.random()
        study.add_trial(create_trial(params={"x": x}, distributions={"x": FloatDistribution(0, 1)}, value=x))


class Page(HTMLParser):
    """A page as a browser takes it apart: tags with attributes, visible words, the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.data: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open in ("script", "style"):
            self.data.setdefault(self._open, []).append(data)
        else:
            self.words += data

    @property
    def figures(self) -> list[dict[str, Any]]:
        scripts = self.data.get("script", [])
        return json.loads(scripts[1]) if scripts else []


def test_page_says_what_came_of_the_search(text):
    page = Page(text)
    words = " ".join(page.words.split())
    assert "maximises val_acc over layers, dropout, block, kernel, data.batch_size." in words
    assert "Of 40 trials: 31 complete, 5 pruned, 3 failed (2 OutOfMemory, 1 Diverged), 1 duplicate." in words
    assert "The best is trial 15: val_acc 0.9422 ±0.0038." in words
    assert "layers: - {width: 132, act: gelu} - {width: 156, act: gelu}" in words
    assert "Its checkpoint, as the study says: /runs/search/trial_0015/best.ckpt" in words
    assert "the same architecture as trial 17, not trained again" in words
    assert "stopped early after 3 epochs with" in words
    curves = page.figures[1]
    assert curves["layout"]["xaxis"]["title"]["text"] == "epoch"
    assert {x for trace in curves["data"] for x in trace["x"]} == {1, 2, 3, 4, 5, 6}
    assert "12 of 25" in words, "the share inside the 50% interval"
    assert len(page.figures) == 8


def test_page_asks_the_network_for_nothing(text):
    page = Page(text)
    addresses = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href", "action", "data")]
    assert addresses == ["data:,"]
    policies = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none'")
    assert text.count("plotly.js v") == 1
    assert "showSendToCloud: false" in text


@pytest.mark.slow  # it imports everything once more
def test_another_process_writes_the_same_page_and_the_leaderboard_needs_no_plotly(text):
    code = """
import sys
import test_report
study = test_report.synthetic_study()
test_report.leaderboard(study)
print(*{"plotly", "pandas", "sklearn", "botorch"} & set(sys.modules), file=sys.stderr)
sys.stdout.buffer.write(test_report.render_report(study).encode())
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stderr.decode().splitlines()[-1] == ""
    assert done.stdout.decode() == text


def test_plain_optuna_study():
    def objective(trial):
        x = trial.suggest_float("x", -1, 1)
        kind = trial.suggest_categorical("kind", ["square", "root", None])
        if trial.number == 4:
            raise optuna.TrialPruned
        for step in range(3):
            trial.report(x / (step + 1), step)
        return x**2 if kind == "square" else abs(x) ** 0.5

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=15)
    page = Page(render_report(study))
    assert "minimises score over x, kind" in page.words
    assert "No checkpoint is stored with it." in page.words
    assert "Only model-based proposals have one." in page.words
    assert "complete trials of at least two sizes" in page.words
    assert len(page.figures) == 4


@pytest.mark.parametrize(
    ("values", "attrs", "name", "reason"),
    [
        (1, {"epochs": 1}, "epoch", "after 1 epoch"),
        (4, {"epochs": 2}, "validation", "after 4 validations"),  # two in an epoch
        (1, {"epochs": 2}, "validation", "after 1 validation"),  # one in two epochs
        (2, {"epochs": 9, "fold_scores": [0.5, 0.5]}, "fold", "after 2 folds"),
        (1, {}, "step", "at step 0"),  # of another program
    ],
)
def test_steps_are_named_and_counted_as_people_do(values, attrs, name, reason):
    study = optuna.create_study()
    for state in (TrialState.COMPLETE, TrialState.PRUNED):
        curve = dict.fromkeys(range(values), 0.5)
        score = 0.5 if state is TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=score, intermediate_values=curve, user_attrs=attrs))
    page = Page(render_report(study))
    assert f"stopped early {reason} with 0.5000" in " ".join(page.words.split())
    axes = [figure["layout"]["xaxis"]["title"]["text"] for figure in page.figures]
    assert name in axes


def trial_of(value=None, state=TrialState.COMPLETE, x=0.5, **attrs) -> FrozenTrial:
    value = value if state == TrialState.COMPLETE else None
    return create_trial(
        state=state, value=value, params={"x": x}, distributions={"x": FloatDistribution(0, 1)}, user_attrs=attrs
    )


HOSTILE = {
    "empty": [],
    "one": [trial_of(0.5)],
    "two alike": [trial_of(0.5), trial_of(0.5)],
    "all failed": [trial_of(state=TrialState.FAIL, error="OutOfMemory: x"), trial_of(state=TrialState.FAIL)],
    "all pruned": [trial_of(state=TrialState.PRUNED)] * 3,
    "waiting": [create_trial(state=TrialState.WAITING), trial_of(state=TrialState.RUNNING)],
    "infinite": [trial_of(math.inf), trial_of(-math.inf), trial_of(0.1)],
    "equal scores": [trial_of(1.0, x=i / 20) for i in range(20)],
    "one far off": [trial_of(1e30 if i == 3 else i / 20, x=i / 20, params=i) for i in range(20)],
    "no parameter": [create_trial(value=float(i)) for i in range(10)],
    "odd attributes": [
        trial_of(
            i / 20,
            x=i / 20,
            stderr="much",
            seconds=None,
            epochs=[1],
            params=-3 if i else "many",
            flops=math.nan,
            expected=[1, 2] if i % 2 else {"mean": 0.2, "std": 0.0},
            architecture="an mlp" if i % 3 else {"a": {"b": [[1, {"c": 2}]]}},
            checkpoint="\0" if i % 2 else 3,
            origin=None,
            duplicate_of="x",
        )
        for i in range(10)
    ]
    + [
        trial_of(i / 20, x=i / 20, stderr=True, params=-3, flops=1e40, expected={"mean": 0.2, "std": 0})
        for i in range(9)
    ],
}


@pytest.mark.parametrize("trials", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_every_section_stands_without_data(trials, direction):
    study = optuna.create_study(direction=direction)
    for trial in trials:
        study.add_trial(trial)
    page = Page(render_report(study))
    assert len([tag for tag, _ in page.tags if tag == "h2"]) == 8
    assert leaderboard(study)


EVIL = "</script></pre><img src=x onerror=alert(1)>\"'&amp;<b>"


def test_user_text_is_never_markup():
    study = optuna.create_study(study_name=EVIL)
    study.set_user_attr("autoarch:monitor", EVIL)
    study.set_user_attr("autoarch:space", {EVIL: {"choices": [EVIL]}})
    for i in range(12):
        attrs = {"architecture": {EVIL: [{EVIL: EVIL}]}, "checkpoint": EVIL, "origin": EVIL, "params": i + 1}
        attrs |= {"expected": {"mean": i, "std": 1.0}}
        params = {EVIL: EVIL if i % 2 else "plain", "n": i % 3, f"{EVIL}2": i / 12}
        choices = CategoricalDistribution(["plain", EVIL])
        distributions = {EVIL: choices, "n": IntDistribution(0, 3), f"{EVIL}2": FloatDistribution(0, 1)}
        if i % 4 == 0:
            del params["n"], distributions["n"]
        study.add_trial(
            create_trial(
                value=float(i % 5),
                params=params,
                distributions=distributions,
                user_attrs=attrs,
                intermediate_values={0: 1.0, 1: 2.0},
            )
        )
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"error": EVIL}))
    page = Page(render_report(study))
    ours = {"html", "head", "meta", "link", "title", "style", "body", "main", "section", "script", "div", "span", "p"}
    ours |= {
        "h1",
        "h2",
        "h3",
        "b",
        "i",
        "pre",
        "code",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
    }
    assert {tag for tag, _ in page.tags} <= ours
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert len(page.figures) == 8
    for string in strings(page.figures):
        assert "<img" not in string, string


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for item in value.values() for s in strings(item)]
    if isinstance(value, list):
        return [s for item in value for s in strings(item)]
    return [value] if isinstance(value, str) else []


def test_the_best_need_not_have_every_parameter(monkeypatch):
    monkeypatch.setattr(influence, "MAX_LINES", 3)
    study = optuna.create_study()
    for i in range(12):
        names = ["x"] if i < 6 else ["x", "late"]
        params, space = dict.fromkeys(names, i / 12), dict.fromkeys(names, FloatDistribution(0, 1))
        study.add_trial(create_trial(value=float(i), params=params, distributions=space))
    assert "The best 3 trials are drawn." in Page(render_report(study)).words


def test_several_objectives_are_refused():
    study = optuna.create_study(directions=["minimize", "minimize"], study_name="both")
    with pytest.raises(ReportError, match="one objective, got 2 in `both`"):
        render_report(study)


def test_missing_plotly_says_what_to_install(study, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ReportError, match=r'pip install "lightning-autoarch\[report\]"'):
        render_report(study)


class TestSource:
    def test_path_and_url(self, database, tmp_path, monkeypatch):
        assert len(open_study(database).trials) == 10
        assert len(open_study(str(database)).trials) == 10
        shutil.copy(database, tmp_path / "plain.db")
        monkeypatch.chdir(tmp_path)
        assert len(open_study("sqlite:///plain.db").trials) == 10
        assert len(open_study(f"sqlite:///{tmp_path}/plain.db", study_name="one").trials) == 10

    def test_journal_file(self, tmp_path):
        path = tmp_path / "journal.log"
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        fill(optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="j"), 3)
        assert len(open_study(path).trials) == 3

    @pytest.mark.parametrize("address", ["stody 100%.db", "sqlite:///{}/stody 100%.db"])
    def test_missing_file_is_not_made(self, database, address, monkeypatch):
        monkeypatch.chdir(database.parent)
        with pytest.raises(ReportError, match="No file"):
            open_study(address.format("nowhere") if "{}" in address else address)
        assert [path.name for path in database.parent.iterdir()] == [database.name]

    def test_missing_file_names_the_near_one(self, database):
        with pytest.raises(ReportError, match=r"Did you mean `study 100%\.db`"):
            open_study(database.with_name("stody 100%.db"))

    def test_directory(self, database):
        with pytest.raises(ReportError, match=r"is a directory.*It holds study 100%\.db"):
            open_study(database.parent)

    def test_other_files(self, tmp_path):
        path = tmp_path / "other.db"
        for content in (b"", b"hello", b"SQLite format 3\0" + b"\xff" * 4000):
            path.write_bytes(content)
            with pytest.raises(ReportError, match=r"other\.db"):
                open_study(path)
            assert path.read_bytes() == content
        path.unlink()
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
        connection.close()
        with pytest.raises(ReportError, match="no such table"):
            open_study(path)

    def test_damaged_file(self, database):
        content = database.read_bytes()
        database.write_bytes(content[: len(content) // 2])
        with pytest.raises(ReportError, match="cannot be read as an Optuna study"):
            open_study(database)

    def test_several_studies(self, database):
        optuna.create_study(storage=optuna.storages.RDBStorage(f"sqlite:///{database}"), study_name="two")
        with pytest.raises(ReportError, match="several studies: name one of `one`, `two`"):
            open_study(database)
        with pytest.raises(ReportError, match=r"No study `tow`.* Did you mean `two`"):
            open_study(database, study_name="tow")
        assert open_study(database, study_name="two").trials == []

    def test_no_study(self, tmp_path):
        optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/empty.db")
        with pytest.raises(ReportError, match="holds no study yet"):
            open_study(tmp_path / "empty.db")

    def test_a_server_that_is_not_there_and_no_password(self):
        with pytest.raises(
            ReportError, match=r"`postgresql\+psycopg2://me:\*\*\*@localhost:1/x` cannot be read"
        ) as error:
            open_study("postgresql+psycopg2://me:secret@localhost:1/x")
        assert "secret" not in str(error.value)

    def test_reading_changes_nothing(self, database, tmp_path):
        before = database.read_bytes()
        write_report(database, tmp_path / "r.html")
        assert database.read_bytes() == before
        assert [path.name for path in database.parent.iterdir()] == [database.name]

    def test_read_only_file(self, database, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write whatever the mode
        assert sqlite_uri(database, writable=False).endswith("?mode=ro&immutable=1")
        assert len(open_study(database).trials) == 10

    def test_what_a_killed_writer_left_is_rolled_back(self, database, tmp_path):
        killed = tmp_path / "killed.db"
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA cache_size = 1")  # so that unfinished pages reach the file
        connection.execute("DELETE FROM trial_values")
        connection.execute("UPDATE trial_params SET param_value = randomblob(9000)")
        shutil.copy(database, killed)
        shutil.copy(f"{database}-journal", f"{killed}-journal")
        connection.rollback()
        connection.close()
        assert killed.read_bytes() != database.read_bytes()
        assert len(ranked(open_study(killed))) == 10


class TestWriting:
    def test_makes_the_folder_and_takes_a_directory(self, database, tmp_path):
        assert write_report(database, tmp_path / "a" / "b.html").is_file()
        assert write_report(database, tmp_path / "a") == tmp_path / "a" / "report.html"

    def test_never_overwrites_the_study(self, database):
        with pytest.raises(ReportError, match="would overwrite the study"):
            write_report(database, database)
        assert len(open_study(database).trials) == 10

    def test_text_that_utf8_does_not_know(self, tmp_path):
        study = optuna.create_study(study_name="half a pair \ud800")
        assert b"half a pair ?" in write_report(study, tmp_path / "r.html").read_bytes()


class TestLeaderboard:
    def test_what_differs_stands_beside_its_row(self, study):
        lines = leaderboard(study, 3, columns=130).splitlines()
        assert lines[0] == "rank  trial         val_acc  epochs    time  params  architecture"
        row = "   1     15  0.9422 ±0.0038       6   9.2 s   30.9k  layers=[132/gelu, 156/gelu] dropout="
        assert lines[1].startswith(row)
        assert lines[-1] == "40 trials: 31 complete, 5 pruned, 3 failed (2 OutOfMemory, 1 Diverged), 1 duplicate."

    @pytest.mark.parametrize("columns", [20, 40, 80, 100])
    def test_nothing_is_cut_and_no_line_is_too_wide(self, study, columns):
        wide, narrow = (leaderboard(study, 3, columns=c) for c in (1000, columns))
        assert max(map(len, narrow.splitlines())) <= max(columns, 34)  # rank, trial and score alone
        texts = wide.splitlines()[1].partition("layers=")[2].split()
        assert texts
        assert "".join(texts) in "".join(narrow.split())

    def test_what_is_the_same_in_all_is_listed_once(self):
        study = optuna.create_study()
        for i in range(3):
            study.add_trial(trial_of(0.5 + i, seconds=2, architecture={"width": i, "act": "relu", "sizes": [4, 2]}))
        assert leaderboard(study, columns=80) == (
            "rank  trial   score   time  architecture\n"
            "   1      0  0.5000  2.0 s  width=0\n"
            "   2      1  1.5000  2.0 s  width=1\n"
            "   3      2  2.5000  2.0 s  width=2\n"
            "In all of them: act=relu sizes=[4, 2]\n"
            "3 trials: 3 complete."
        )

    def test_a_long_name_of_the_score_takes_no_room(self):
        study = optuna.create_study()
        study.set_user_attr("autoarch:monitor", "validation/mean_average_precision")
        study.add_trial(trial_of(0.5, seconds=2, architecture={"width": 3}))
        lines = leaderboard(study, columns=42).splitlines()
        assert lines[0] == "rank  trial   score   time  architecture"
        assert lines[2] == "score: validation/mean_average_precision"

    def test_html(self):
        study = optuna.create_study()
        assert html_table(study) == "<p>No trial is complete. 0 trials: no trial.</p>"
        for i in range(2):
            study.add_trial(trial_of(0.5, architecture={"a<b": f"<i>{i}", "c": "&"}))
        page = html_table(study)
        assert "<th>a&lt;b</th>" in page
        assert "<td>&lt;i&gt;1</td>" in page
        assert "<p>In all of them: c=&amp;</p>" in page
        assert "<i>" not in page

    def test_ranking(self):
        study = optuna.create_study(direction="maximize")
        for value in (0.5, 0.7, math.inf, 0.7):
            study.add_trial(trial_of(value))
        study.add_trial(trial_of(0.9, duplicate_of=1))
        study.add_trial(create_trial(value=0.95, constraints={"size": 1.0}))
        study.add_trial(trial_of(state=TrialState.FAIL, refused="11,000 parameters, more than 10,000"))
        assert [trial.number for trial in ranked(study)] == [1, 3, 0]
        fates = ["failed", "complete", "duplicate", "infeasible", "refused"]
        assert [fate(trial) for trial in study.trials[2:]] == fates

    def test_foreign_text_stays_on_its_line(self):
        study = optuna.create_study()
        study.add_trial(trial_of(0.5, architecture={"a\nb": "\x1b[2J"}))
        assert leaderboard(study).splitlines()[1].endswith("a b= [2J")


class TestCalibration:
    def proposals(self, spread: float, n: int = 400) -> list[Proposal]:
        rng = np.random.default_rng(0)
        return [Proposal(i, 0.0, 1.0, spread * float(rng.standard_normal())) for i in range(n)]

    @pytest.mark.parametrize(("spread", "expected"), [(1.0, "honest"), (2.0, "too narrow"), (0.5, "too wide")])
    def test_verdict(self, spread, expected):
        assert verdict(self.proposals(spread)) == expected

    def test_share_inside_approaches_the_probability(self):
        for p in (0.5, 0.8, 0.95):
            assert inside(self.proposals(1.0, 4000), p) / 4000 == pytest.approx(p, abs=0.03)

    def test_certain_proposals(self):
        assert Proposal(0, 1.0, 0.0, 1.0).level == 0
        assert Proposal(0, 1.0, 0.0, 1.1).level == 1

    @pytest.mark.parametrize(("n", "p"), [(1, 0.5), (10, 0.8), (300, 0.95), (5000, 0.5)])
    def test_chance_band_holds_nine_tenths_of_the_binomial(self, n, p):
        low, high = chance_band(n, p)
        counts = np.random.default_rng(0).binomial(n, p, 20_000) / n
        assert np.mean(counts < low) <= 0.06
        assert np.mean(counts > high) <= 0.06

    def test_guessing_takes_earlier_scores_alone(self):
        proposals = [Proposal(0, 0, 1, 5.0), Proposal(2, 0, 1, 5.0)]
        assert guessing_error(proposals, [(0, 1.0), (1, 3.0), (2, 100.0)]) == 3.0
        assert guessing_error(proposals, []) is None

    def test_expected_is_found_where_the_sampler_left_it(self):
        trial = create_trial(value=1.0, system_attrs={"autoarch:proposal": {"expected": {"mean": 1, "std": 0.5}}})
        assert expected_of(trial) == (1.0, 0.5)
        assert expected_of(trial_of(1.0, expected={"mean": 2.0, "std": 0.1})) == (2.0, 0.1)
        assert expected_of(trial_of(1.0, expected={"mean": math.nan, "std": 0.1})) is None
        assert expected_of(trial_of(1.0)) is None

    def test_origin(self):
        proposed = {"autoarch:proposal": {"origin": "random"}}
        assert origin_of(create_trial(value=1.0, system_attrs=proposed)) == "random"
        assert origin_of(create_trial(value=1.0, system_attrs={**proposed, "fixed_params": {"x": 1}})) == "enqueued"
        assert origin_of(trial_of(1.0)) == ""


class TestInfluence:
    def test_conditional_parameters_count(self):
        """The score hangs on `depth` where `kind` is a tree, and on nothing else."""
        study, rng = optuna.create_study(), np.random.default_rng(0)
        for _ in range(60):
            kind, depth, noise = rng.choice(["tree", "line"]).item(), int(rng.integers(1, 9)), float(rng.random())
            params: dict[str, Any] = {"kind": kind, "noise": noise}
            space: dict[str, Any] = {
                "kind": CategoricalDistribution(["tree", "line"]),
                "noise": FloatDistribution(0, 1),
            }
            if kind == "tree":
                params["depth"], space["depth"] = depth, IntDistribution(1, 8)
            value = abs(depth - 3) if kind == "tree" else 4.0
            study.add_trial(create_trial(value=value + 0.01 * noise, params=params, distributions=space))
        record = read_record(study)
        figure, values = importances(record, parameters(record))
        assert sum(values.values()) == pytest.approx(1)
        assert next(iter(values)) == "depth"
        having = sum(trial.params["kind"] == "tree" for trial in study.trials)
        assert f"depth <i>({having} of 60)</i>" in figure.data[0].y

    def test_ties_with_the_last_of_the_best(self):
        study = optuna.create_study()
        for i in range(20):
            study.add_trial(trial_of(0.0 if i < 9 else 1.0))
        assert best_trials(read_record(study)) == 9

    def test_parameters_of_one_value_are_left_out_and_named(
        self,
    ):
        study = optuna.create_study()
        for i in range(10):
            study.add_trial(
                create_trial(
                    value=float(i),
                    params={"x": i / 10, "fixed": 0.5},
                    distributions={"x": FloatDistribution(0, 1), "fixed": FloatDistribution(0, 1)},
                )
            )
        assert parameters(read_record(study)) == ["x"]
        assert "fewer than two values: fixed." in Page(render_report(study)).words


def test_pareto_front():
    trials = [trial_of(value, params=size) for size, value in [(10, 0.5), (10, 0.6), (20, 0.6), (30, 0.9), (40, 0.7)]]
    assert [t.user_attrs["params"] for t in pareto_front(trials, maximize=True)] == [10, 30]
    assert [t.value for t in pareto_front(trials, maximize=False)] == [0.5]


def test_robust_range_never_hides_the_best():
    values = [0.10 + 0.001 * i for i in range(20)] + [0.95]
    low, high = robust_range(values, maximize=True)
    assert low < 0.10
    assert high > 0.95
    assert robust_range(values, maximize=False)[1] < 0.95
