"""Studies of strangers in a report and a leaderboard: nothing steers a terminal, long texts are cut, files may lie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from lightning_autoarch.core.errors import AutoArchError, ReportError
from lightning_autoarch.report import open_study, render_report
from lightning_autoarch.report.record import read_record
from lightning_autoarch.search.board import html_table, leaderboard

STRANGE: tuple[Any, ...] = (None, -1, 10**400, 2.5, "x", "\x1b[2J", [], {}, [None], "x" * 100_000)
LINES = ("[]", "3", "null", "{}", "{", "\x00", "[" * 100_000, '{"op_code": ' + "1" * 5000 + "}")


def study_of(text: str, architecture: Any) -> optuna.Study:
    study = optuna.create_study(study_name=text)
    study.set_user_attr("autoarch:monitor", text)
    space = {"x": FloatDistribution(0, 1)}
    stored = {"architecture": architecture, "origin": text, "checkpoint": text}
    study.add_trial(create_trial(value=1.0, params={"x": 0.5}, distributions=space, user_attrs=stored))
    for name in ("error", "refused", "duplicate_of"):
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={name: text}))
    return study


def test_long_texts_are_cut_and_steer_nothing() -> None:
    short, evil = "\x1b[2J</script>\x07\x9b", "\x1b[2J</script>\x07\x9b" * 50_000
    small = render_report(study_of(short, {"x": short}))
    study = study_of(evil, {"x": evil})
    page = render_report(study)
    shown = leaderboard(study) + html_table(study)
    assert not any(c in text for c in "\x1b\x07\x9b" for text in (page, small, shown))
    assert page.count("</script>") == small.count("</script>")
    assert len(shown) < 20_000
    assert len(page) - len(small) < 4 * len(evil)  # the winner's values are there in full


def test_nested_too_deeply() -> None:
    study = study_of("deep", {"x": 1})
    [trial, *_] = study.get_trials(deepcopy=False)
    trial.user_attrs["architecture"] = json.loads('{"a":' * 600 + "1" + "}" * 600)  # as from a file
    for use in (leaderboard, html_table, render_report):
        with pytest.raises(AutoArchError, match="study `deep`, got one that is nested too deeply"):
            use(study)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.log"
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="j")
    trial = study.ask({"x": FloatDistribution(0, 1)})
    trial.set_user_attr("architecture", {"x": 1})
    study.tell(trial, 1.0)
    return path


def damaged(lines: list[str]) -> Iterator[list[str]]:
    """The lines of a journal with each field of each removed or replaced, and with others in their place."""
    for i, line in enumerate(lines):
        operation = json.loads(line)
        others = [*LINES]
        for field in operation:
            others += [json.dumps({**operation, field: value}) for value in STRANGE]
            others.append(json.dumps({name: value for name, value in operation.items() if name != field}))
        yield from ([*lines[:i], other, *lines[i + 1 :]] for other in others)


def test_damaged_journal(journal: Path) -> None:
    lines = journal.read_text().splitlines()
    messages: list[str] = []
    for changed in damaged(lines):
        journal.write_text("\n".join(changed) + "\n")
        try:
            study = open_study(journal)
            assert "\x1b" not in leaderboard(study)
            read_record(study)
        except ReportError as error:
            messages.append(str(error))
    assert len(messages) > 50 and max(map(len, messages)) < 1000
