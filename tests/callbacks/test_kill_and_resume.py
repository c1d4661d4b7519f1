"""Kill -9 at any moment, start again: the same search as without the kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nets
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("kill_and_resume.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(nets.__file__).parent), *sys.path[1:]])}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("kill") / "why? #1 %41 {0}")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("strategy", ["random", "bayesian", "genetic"])
def test_the_same_trials_come_out(results: dict[str, Any], strategy: str) -> None:
    whole = results[strategy]["whole"]
    assert [number for number, *_ in whole] == list(range(6))
    for moment, run in results[strategy]["runs"].items():
        assert run["killed by"] == signal.SIGKILL, f"never came to: {moment}"
        assert run["resumed"] == 0, moment
        assert run["trials"] == whole, moment
