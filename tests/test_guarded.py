"""The harness of the hostile inputs itself: it sees what it says that it sees."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from guarded import Guard

from lightning_autoarch.errors import CheckpointError


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


def read_inside(name: str) -> str:
    return Path(name).read_text()


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


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


def test_audit(guard: Guard, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    events = guard.run(misbehave, tmp_path / "secret", folder=folder).events
    assert [event.split()[0] for event in events] == ["open", "compile", "exec", "os.system", "os.mkdir", "import"]
