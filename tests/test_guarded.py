"""The harness of the hostile inputs itself: it sees what it says that it sees."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import torch
from guarded import Case, Guard

from lightning_autoarch.core.errors import CheckpointError


def give(value: Any) -> Any:
    return value


def refuse() -> None:
    raise CheckpointError("expected \x1b[2J" + "x" * 20_000)


def fail() -> None:
    raise KeyError("x")


def crash() -> None:
    signal.raise_signal(signal.SIGSEGV)


def hang() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.raise_signal(signal.SIGXCPU)  # what 10 seconds of work end in


def eat(megabytes: int) -> int:
    return len(bytearray(os.urandom(1) * (megabytes << 20)))


def claim() -> None:
    try:
        torch.empty(10**10)
    except RuntimeError as error:
        raise CheckpointError("too large") from error


def misbehave(outside: str) -> None:
    Path(outside).read_text()
    eval("1 + 1")
    os.system("true")
    os.mkdir("made")
    import this  # noqa: F401


def end_or_give(number: int) -> int:
    if number < 0:
        signal.raise_signal(-number)
    return number


KEPT = []


def keep(megabytes: int) -> None:
    KEPT.append(os.urandom(megabytes << 20))


def make(name: str) -> None:
    os.mkdir(name)
    os.rmdir(name)


def connect(name: str) -> None:
    sqlite3.connect(name).close()


def read_inside(name: str) -> str:
    return Path(name).read_text()


def test_what_is_returned(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("text")
    outcome = guard.run(read_inside, tmp_path / "x", folder=tmp_path)
    assert (outcome.kind, outcome.value, outcome.problems()) == ("returned", "text", [])
    assert guard.run(give, {"a": [1]}, folder=tmp_path).value == {"a": [1]}


def test_errors(guard: Guard, tmp_path: Path) -> None:
    outcome = guard.run(refuse, folder=tmp_path)
    assert (outcome.kind, outcome.error) == ("refused", "CheckpointError")
    assert outcome.problems() == [f"a message of {outcome.length} characters"]
    outcome = guard.run(fail, folder=tmp_path)
    assert outcome.problems() == ["raised: KeyError: 'x'"]


def test_ends(guard: Guard, tmp_path: Path) -> None:
    assert guard.run(crash, folder=tmp_path).problems() == ["crashed: SIGSEGV: "]
    assert guard.run(hang, folder=tmp_path).kind == "timeout"
    assert guard.run(give, 1, folder=tmp_path).value == 1  # the server goes on


def test_memory(guard: Guard, tmp_path: Path) -> None:
    assert guard.run(eat, 30, folder=tmp_path).problems() == []
    [problem] = guard.run(eat, 100, folder=tmp_path).problems()
    assert problem.endswith("MiB of memory for 0 bytes")
    assert guard.run(eat, 100, folder=tmp_path, size=80 << 20).problems() == []
    assert guard.run(claim, folder=tmp_path).kind == "raised"


def test_many_calls(guard: Guard, tmp_path: Path) -> None:
    """One after another; the folder, the peak and the events are those of each."""
    places = [tmp_path / f"{i}" for i in range(4)]
    for place in places:
        place.mkdir()
        (place / "x").write_text(place.name)
    outcomes = guard.run_all(read_inside, [Case((place / "x",), place) for place in places])
    assert [(each.value, each.problems()) for each in outcomes] == [(str(i), []) for i in range(4)]
    elsewhere = guard.run_all(read_inside, [Case((places[0] / "x",), place) for place in places[:2]])
    assert [len(each.events) for each in elsewhere] == [0, 1]
    outcomes = guard.run_all(end_or_give, [Case((number,), tmp_path) for number in (1, -11, 3, -24, 5)])
    assert [each.kind for each in outcomes] == ["returned", "crashed", "returned", "timeout", "returned"]
    sizes = guard.run_all(eat, [Case((number,), tmp_path) for number in (30, 100, 30)])
    assert [bool(each.problems()) for each in sizes] == [False, True, False]
    held = guard.run_all(keep, [Case((40,), tmp_path) for _ in range(3)])
    assert [each.problems() for each in held] == [[]] * 3  # what only seems too large in company is run alone


def test_writes(guard: Guard, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    assert guard.run(make, folder / "a", folder=folder, writes=True).problems() == []
    assert len(guard.run(make, folder / "b", folder=folder).events) == 2
    assert len(guard.run(make, tmp_path / "c", folder=folder, writes=True).events) == 2
    assert guard.run(connect, tmp_path / "x.db", folder=folder, writes=True).events
    assert guard.run(connect, folder / "x.db", folder=folder, writes=True).problems() == []


def test_audit(guard: Guard, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    events = guard.run(misbehave, tmp_path / "secret", folder=folder).events
    assert [event.split()[0] for event in events] == ["open", "compile", "exec", "os.system", "os.mkdir", "import"]
