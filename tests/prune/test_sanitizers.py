"""The CPU kernels under the sanitizers, without Python: memory, undefined behaviour, races; each instruction set."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++, which has the sanitizers, is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_kernels(sanitizer: str, checkout: Path, tmp_path: Path) -> None:
    sources = [checkout / "tests" / "prune" / "cpu_kernels.cpp", *sorted((checkout / "csrc" / "cpu").glob("*.cpp"))]
    flags = ["-std=c++17", "-O0", "-g1", "-pthread", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    command = ["g++", *flags, f"-I{checkout / 'csrc'}", *map(str, sources), "-o", str(tmp_path / "kernels")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "kernels"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stdout + done.stderr
