"""The package as it was installed, and building its extension with, without, and with a broken nvcc."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_autoarch
from lightning_autoarch import __main__ as about
from lightning_autoarch.prune import _ops

linux = pytest.mark.skipif(sys.platform != "linux", reason="a shell script stands in for nvcc")

FAKE_NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release 99.1, V99.1.2" ;;
  --list-gpu-code) printf 'sm_75\\nsm_87\\nsm_90\\n' ;;
  *) echo "$@" >> "{log}"; echo "fake nvcc: unsupported host compiler" >&2; exit 2 ;;
esac
"""

NO_COMPILER = {"CC": "true", "CXX": "true"}  # compiles and links nothing, at once

# The last -O wins: the test asks what the build falls back to, not how fast the kernels are.
QUICK_COMPILER = """#!/bin/sh
exec c++ "$@" -O0
"""


class TestInstalled:
    @pytest.mark.skipif(
        os.environ.get("CI") != "true", reason="in CI alone: elsewhere a checkout may be what is tested"
    )
    def test_what_is_tested_is_the_installed_package(self, checkout: Path) -> None:
        assert Path(lightning_autoarch.__file__).parents[1] != checkout

    def test_version_is_that_of_the_distribution(self) -> None:
        assert lightning_autoarch.__version__ == importlib.metadata.version("lightning-autoarch")
        assert _ops.build_info()["version"] == lightning_autoarch.__version__

    def test_citation_is_of_this_version(self, checkout: Path) -> None:
        lines = (checkout / "CITATION.cff").read_text("utf-8").splitlines()
        assert f"version: {lightning_autoarch.__version__}" in lines

    def test_typing_marker_and_licence_come_along(self) -> None:
        root = Path(lightning_autoarch.__file__).parent
        assert (root / "py.typed").is_file()
        assert (root / "_C.pyi").is_file()
        metadata = importlib.metadata.metadata("lightning-autoarch")
        assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")

    def test_console_script_can_be_loaded(self) -> None:
        (script,) = importlib.metadata.entry_points(group="console_scripts", name="autoarch")
        assert callable(script.load())

    def test_importing_the_extension_starts_no_cuda(self) -> None:
        state = _ops.cuda_state()
        assert state["available"] == (state["device_count"] > 0) == (state["error"] == "")


class TestReport:
    def run(self, tmp_path: Path, code: str) -> list[str]:
        command = [sys.executable, *code.split(maxsplit=1)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def test_says_what_was_built_and_what_is_usable(self, tmp_path: Path) -> None:
        lines = self.run(tmp_path, "-m lightning_autoarch")
        assert lines[0] == f"lightning_autoarch {lightning_autoarch.__version__}"
        names = [line.split()[0] for line in lines if line.startswith("  ")]
        assert {"python", "platform", "cpu", *about.REQUIRED, *about.EXTRAS, "threads", "compiler"} <= set(names)
        assert not [line for line in lines if "failed" in line or "MISSING" in line]
        assert lines[-1].split()[0] == "cuda"

    def test_says_why_the_extension_cannot_be_used(self, tmp_path: Path) -> None:
        code = "import sys, runpy; sys.modules['lightning_autoarch._C'] = None; "
        lines = self.run(tmp_path, f"-c {code} runpy.run_module('lightning_autoarch', run_name='__main__')")
        assert lines[-1].startswith("  failed           ImportError: The compiled extension")

    def test_says_that_the_extension_is_older_than_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        info = {**_ops.build_info(), "version": "0.0.9", "cuda": False, "cuda_note": "a note"}
        monkeypatch.setattr(_ops, "build_info", lambda: info)
        text = "\n".join(about.report())
        assert f"built for 0.0.9, this is {lightning_autoarch.__version__}" in text
        assert text.endswith("not built: a note")


@linux
class TestCudaSwitch:
    @pytest.fixture
    def nvcc_log(self, tmp_path: Path) -> Path:
        """Makes a CUDA_HOME whose nvcc fails, and returns the file in which it writes down its arguments."""
        log, nvcc = tmp_path / "nvcc.log", tmp_path / "cuda" / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text(FAKE_NVCC.format(log=log))
        nvcc.chmod(0o755)
        return log

    @pytest.fixture
    def quick_compiler(self, tmp_path: Path) -> dict[str, str]:
        """What to set so that the extension is compiled without optimization, in a quarter of the time."""
        path = tmp_path / "quick-c++"
        path.write_text(QUICK_COMPILER)
        path.chmod(0o755)
        return {"CC": str(path), "CXX": str(path)}

    def build(
        self, checkout: Path, tmp_path: Path, *, switch: str | None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Builds the extension into tmp_path/lib with LIGHTNING_AUTOARCH_CUDA=`switch`."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("LIGHTNING_AUTOARCH_CUDA")}
        env |= {"CUDA_HOME": str(tmp_path / "cuda"), **environment}
        if switch is not None:
            env["LIGHTNING_AUTOARCH_CUDA"] = switch
        places = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
        command = [sys.executable, "-B", "setup.py", "build_ext", *places]
        return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)

    def note(self, tmp_path: Path) -> str:
        """Why there is no CUDA, as the build writes it down for the compiler."""
        config = (tmp_path / "temp" / "autoarch_build_config.h").read_text()
        assert "#define AUTOARCH_CUDA false" in config
        return json.loads(config.partition("AUTOARCH_CUDA_NOTE ")[2])

    def built(self, tmp_path: Path) -> dict[str, object]:
        """What the extension that was built says of itself, in a process of its own."""
        (path,) = (tmp_path / "lib" / "lightning_autoarch").glob("_C*.so")
        code = (
            "import importlib.util as u, json;"
            f"spec = u.spec_from_file_location('lightning_autoarch._C', {str(path)!r});"
            "c = u.module_from_spec(spec); spec.loader.exec_module(c);"
            "print(json.dumps({**c.build_info(), **c.cuda_state()}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def test_unset_a_failure_falls_back_loudly(
        self, checkout: Path, tmp_path: Path, nvcc_log: Path, quick_compiler: dict[str, str]
    ) -> None:
        done = self.build(checkout, tmp_path, switch=None, **quick_compiler)
        assert done.returncode == 0, done.stderr
        assert nvcc_log.exists()
        reason = "exited with status 2: fake nvcc: unsupported host compiler"
        last = done.stderr.splitlines()[-5:]
        assert "CUDA was NOT built" in last[1]
        assert reason in last[2]
        info = self.built(tmp_path)
        assert (info["cuda"], info["cuda_architectures"], info["available"]) == (False, "", False)
        assert reason in str(info["cuda_note"])
        assert info["error"] == "built without CUDA"

    def test_unset_without_a_compiler_is_quiet(self, checkout: Path, tmp_path: Path) -> None:
        done = self.build(checkout, tmp_path, switch=None, **NO_COMPILER)  # CUDA_HOME names an empty place
        assert done.returncode == 0, done.stderr
        assert "NOT built" not in done.stderr + done.stdout
        assert self.note(tmp_path).startswith("nvcc was not found in")

    def test_0_does_not_try(self, checkout: Path, tmp_path: Path, nvcc_log: Path) -> None:
        done = self.build(checkout, tmp_path, switch="0", **NO_COMPILER)
        assert done.returncode == 0, done.stderr
        assert not nvcc_log.exists()
        assert "NOT built" not in done.stderr + done.stdout
        assert self.note(tmp_path) == "LIGHTNING_AUTOARCH_CUDA=0"

    def test_1_makes_a_failure_an_error(self, checkout: Path, tmp_path: Path, nvcc_log: Path) -> None:
        done = self.build(checkout, tmp_path, switch="1")
        assert done.returncode != 0
        assert "fake nvcc: unsupported host compiler" in done.stderr
        assert not (tmp_path / "lib").exists()

    def test_architectures_are_those_that_nvcc_knows(self, checkout: Path, tmp_path: Path, nvcc_log: Path) -> None:
        self.build(checkout, tmp_path, switch="1")
        codes = re.findall(r"-gencode=(\S+)", nvcc_log.read_text())
        assert codes == [
            "arch=compute_75,code=sm_75",
            "arch=compute_90,code=sm_90",
            "arch=compute_90,code=compute_90",
        ]
        assert "fast-math" not in nvcc_log.read_text()

    def test_architectures_may_be_chosen(self, checkout: Path, tmp_path: Path, nvcc_log: Path) -> None:
        name = "LIGHTNING_AUTOARCH_CUDA_ARCHITECTURES"
        self.build(checkout, tmp_path, switch="1", **{name: "90"})
        codes = re.findall(r"-gencode=(\S+)", nvcc_log.read_text())
        assert codes == ["arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"]
        assert (
            f"Expected {name} such as '80 90', got 'hopper'."
            in self.build(checkout, tmp_path, switch="1", **{name: "hopper"}).stderr
        )

    def test_1_without_a_compiler_is_an_error(self, checkout: Path, tmp_path: Path) -> None:
        done = self.build(checkout, tmp_path, switch="1")
        assert done.returncode != 0
        assert f"nvcc was not found in {tmp_path}" in done.stderr

    def test_another_value_is_an_error(self, checkout: Path, tmp_path: Path) -> None:
        done = self.build(checkout, tmp_path, switch="yes")
        assert done.returncode != 0
        assert "Expected LIGHTNING_AUTOARCH_CUDA to be 0, 1 or unset, got 'yes'." in done.stderr


@linux
def test_fast_math_is_refused(checkout: Path, tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no c++ on PATH")
    command = [
        compiler,
        "-std=c++17",
        "-fsyntax-only",
        "-x",
        "c++",
        str(checkout / "csrc" / "cpu" / "count.cpp"),
    ]
    assert subprocess.run(command, check=False).returncode == 0
    done = subprocess.run([*command, "-ffast-math"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "must not be compiled with -ffast-math" in done.stderr
