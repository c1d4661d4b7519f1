"""Two processes search one study at once: every trial once, the total kept, both end with the same winner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nets
import optuna
import pytest

from lightning_autoarch.cli import main
from lightning_autoarch.core.errors import ReportError
from lightning_autoarch.report import write_report

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys, nets
from lightning_autoarch import ArchitectureSearch
study = {"storage": sys.argv[1], "directory": sys.argv[2]}
callback = ArchitectureSearch(nets.SPACE, monitor="val_loss", n_trials=8, study=study)
module = nets.Net()
nets.trainer(sys.argv[2], callback, max_epochs=2).fit(module, *nets.loaders())
print(json.dumps({"best": callback.best_architecture, "trials": len(callback.optuna_study.trials)}))
"""


@pytest.fixture
def postgresql() -> Iterator[str]:
    initdb, pg_ctl = shutil.which("initdb"), shutil.which("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL (initdb, pg_ctl) is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2, the driver of PostgreSQL, is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:  # a socket's path must be short
        user: list[str] = []
        if os.geteuid() == 0:  # which the server refuses to be
            user = ["runuser", "-u", "postgres", "--"]
            shutil.chown(root, "postgres")
        server = [*user, pg_ctl, "-D", f"{root}/data", "-w", "-t", "120", "-l", f"{root}/log"]
        options = f"-k {root} -c listen_addresses='' -c fsync=off"
        quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, "cwd": root}
        subprocess.run([*user, initdb, "-D", f"{root}/data", "-A", "trust", "-U", "tester"], **quiet)
        subprocess.run([*server, "-o", options, "start"], **quiet)
        try:
            yield f"postgresql+psycopg2://tester@/postgres?host={root}"
        finally:
            subprocess.run([*server, "-m", "immediate", "stop"], **quiet)


def run_two(storage: str, directory: Path) -> list[dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(nets.__file__).parent), *sys.path[1:]])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, storage, str(directory)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for _ in range(2)
    ]  # fmt: skip
    results = []
    for process in started:
        out, error = process.communicate()
        assert process.returncode == 0, error
        results.append(json.loads(out.splitlines()[-1]))
    return results


def check(storage: str, results: list[dict[str, Any]]) -> None:
    study = optuna.load_study(study_name="Net", storage=storage)
    counted = [t for t in study.trials if "architecture" in t.user_attrs]
    assert len(counted) == 8
    assert all(t.state.name == "COMPLETE" for t in counted)
    assert len({str(t.user_attrs["architecture"]) for t in counted}) == 8
    pids = {t.user_attrs["owner"]["pid"] for t in counted}
    assert len(pids) == 2, "one process did everything"
    assert all(result["best"] is not None for result in results)


def test_sqlite(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    check(storage, run_two(storage, tmp_path))


def test_postgresql(tmp_path: Path, postgresql: str) -> None:
    check(postgresql, run_two(postgresql, tmp_path / "search"))
    page = tmp_path / "report.html"
    main(["report", postgresql, "--output", str(page)])
    assert "8 complete" in page.read_text()
    with pytest.raises(ReportError, match=r"No study `Nte`.*Did you mean `Net`"):
        write_report(postgresql, page, study_name="Nte")
