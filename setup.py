"""Builds ``lightning_autoarch._C`` from csrc/: C++ always, CUDA where nvcc is found. Else see pyproject.toml.

One environment variable decides about CUDA:

=========================  ==============================================================================
LIGHTNING_AUTOARCH_CUDA=1  CUDA is built, or the build fails
LIGHTNING_AUTOARCH_CUDA=0  CUDA is not tried
unset                      CUDA is tried if nvcc is found; a failure falls back to the CPU, and says so at
                           the end of the build and in ``python -m lightning_autoarch``
=========================  ==============================================================================

``LIGHTNING_AUTOARCH_CUDA_ARCHITECTURES="90"`` builds for those compute capabilities alone, which takes less time.
nvcc is ``$CUDA_HOME/bin/nvcc`` if CUDA_HOME (or CUDA_PATH) is set, else the one on PATH, else that of
/usr/local/cuda. ``NVCC_APPEND_FLAGS`` is nvcc's own variable for further flags. Linux with gcc is what is
tested; the flags for macOS (clang) and Windows (MSVC) are there but were never run.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import BaseError, CCompilerError

CSRC = Path("csrc")
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # machine code for those that nvcc knows, PTX of the newest
CXX_STANDARD = 17
# No contraction: a fused multiply-add rounds otherwise than two operations, and otherwise than the GPU.
GCC_FLAGS = ["-O3", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra"]
LINUX = sys.platform.startswith("linux")


class CudaBuildError(BaseError):
    """CUDA was not built; the message says why in one line."""


class NvccNotFoundError(CudaBuildError):
    """There is no CUDA compiler: the usual case, and no failure unless CUDA was asked for."""


def cuda_wanted() -> bool | None:
    """True: CUDA or an error. False: no CUDA. None: CUDA if it can be had."""
    value = os.environ.get("LIGHTNING_AUTOARCH_CUDA", "").strip()
    if value not in ("", "0", "1"):
        raise CudaBuildError(f"Expected LIGHTNING_AUTOARCH_CUDA to be 0, 1 or unset, got {value!r}.")
    return None if value == "" else value == "1"


def wanted_architectures() -> tuple[int, ...]:
    """Of LIGHTNING_AUTOARCH_CUDA_ARCHITECTURES ("90" or "80 90"), else `ARCHITECTURES`."""
    value = os.environ.get("LIGHTNING_AUTOARCH_CUDA_ARCHITECTURES", "").split()
    if not all(number.isdigit() for number in value):
        raise CudaBuildError(
            f"Expected LIGHTNING_AUTOARCH_CUDA_ARCHITECTURES such as '80 90', got {' '.join(value)!r}."
        )
    return tuple(sorted(map(int, value))) or ARCHITECTURES


def find_nvcc() -> str:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [f"{home}/bin"] if home else [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
    for place in places:
        if nvcc := shutil.which("nvcc", path=place):
            return nvcc
    raise NvccNotFoundError(f"nvcc was not found in {places[0] if home else 'PATH or /usr/local/cuda/bin'}")


def run(command: list[str], *, echo: bool = True) -> str:
    """Output of `command`, stderr included; raises CudaBuildError if it fails or cannot be started."""
    if echo:
        print(shlex.join(command), flush=True)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, **pipes, text=True, check=False)
    except OSError as error:
        raise CudaBuildError(f"{command[0]} could not be started: {error}") from error
    if echo and done.stdout:
        print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise CudaBuildError(f"{command[0]} exited with status {done.returncode}: {last}")
    return done.stdout


class Nvcc:
    """The CUDA compiler that was found: what it is, what it can generate, where its runtime library lies."""

    def __init__(self, path: str) -> None:
        self.path = path
        release = re.search(r"release \S+, V(\S+)", run([path, "--version"], echo=False))
        self.version = f"nvcc {release[1]}" if release else "nvcc of unknown version"
        known = {int(n) for n in re.findall(r"^sm_(\d+)$", run([path, "--list-gpu-code"], echo=False), re.M)}
        wanted = wanted_architectures()
        self.numbers = [n for n in wanted if n in known]
        if not self.numbers:
            raise CudaBuildError(f"{path} knows none of the architectures {wanted}")

    @property
    def architectures(self) -> str:
        return " ".join([*(f"sm_{n}" for n in self.numbers), f"compute_{self.numbers[-1]}"])

    def compile(self, source: Path, target: Path, include_dirs: list[str], *, msvc: bool) -> None:
        host = ["/W3", "/EHsc", "/MD"] if msvc else ["-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden"]
        newest = self.numbers[-1]
        codes = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in self.numbers]
        codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
        flags = [f"-std=c++{CXX_STANDARD}", "-O3", "-DNDEBUG", "--threads=0", f"-Xcompiler={','.join(host)}", *codes]
        includes = [f"-I{directory}" for directory in include_dirs]
        target.parent.mkdir(parents=True, exist_ok=True)
        run([self.path, "-c", str(source), "-o", str(target), *flags, *includes])

    def library_dirs(self) -> list[str]:
        """Where nvcc itself looks for the runtime: a dry run says so, whatever the toolkit's layout."""
        plan = run([self.path, "--dryrun", str(CSRC / "cuda" / "state.cu")], echo=False)
        libraries = re.search(r"^#\$ LIBRARIES=(.*)$", plan, re.M)
        flags = shlex.split(libraries[1]) if libraries else []
        return [re.sub(r"^(-L|/LIBPATH:)", "", flag) for flag in flags]


class BuildExtension(build_ext):
    """Adds the CUDA objects to the extension, or what stands in for them, and writes down which it was."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        wanted, cpu_sources = cuda_wanted(), list(ext.sources)
        if wanted is False:
            self.build_for_cpu(ext, cpu_sources, "LIGHTNING_AUTOARCH_CUDA=0")
            return
        try:
            self.build_with_cuda(ext, Nvcc(find_nvcc()))
        except (BaseError, CCompilerError) as error:  # nvcc, the C++ compiler, or the linker
            if wanted:
                raise
            self.build_for_cpu(ext, cpu_sources, str(error))
            if not isinstance(error, NvccNotFoundError):
                # at exit, so that it is the last thing to be read
                atexit.register(print, fallback_banner(error), file=sys.stderr, flush=True)

    def build_with_cuda(self, ext: Pybind11Extension, nvcc: Nvcc) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        for source in sorted((CSRC / "cuda").glob("*.cu")):
            target = Path(self.build_temp, source).with_suffix(".obj" if msvc else ".o")
            nvcc.compile(source, target, ext.include_dirs, msvc=msvc)
            ext.extra_objects.append(str(target))
        ext.library_dirs = nvcc.library_dirs()
        ext.libraries = ["cudart_static", *(["rt", "dl", "pthread"] if LINUX else [])]
        self.write_config(nvcc=nvcc)
        super().build_extension(ext)

    def build_for_cpu(self, ext: Pybind11Extension, cpu_sources: list[str], note: str) -> None:
        ext.sources = [*cpu_sources, str(CSRC / "cuda" / "absent.cpp")]
        ext.extra_objects, ext.libraries, ext.library_dirs = [], ["dl"] if LINUX else [], []
        self.write_config(cuda_note=note)
        super().build_extension(ext)

    def write_config(self, *, nvcc: Nvcc | None = None, cuda_note: str = "") -> None:
        values = {
            "VERSION": self.distribution.get_version(),
            "CUDA": nvcc is not None,
            "CUDA_COMPILER": nvcc.version if nvcc else "",
            "CUDA_ARCHITECTURES": nvcc.architectures if nvcc else "",
            "CUDA_NOTE": cuda_note,
        }
        # JSON spells these strings and booleans as C++ does.
        lines = [f"#define AUTOARCH_{name} {json.dumps(value)}" for name, value in values.items()]
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        config = Path(self.build_temp, "autoarch_build_config.h")
        config.write_text("\n".join(lines) + "\n", encoding="ascii")
        self.compiler.add_include_dir(self.build_temp)


def fallback_banner(error: Exception) -> str:
    line = "!" * 100
    return (
        f"\n{line}\nlightning_autoarch: CUDA was NOT built, this is a build for the CPU alone.\n  {error}\n"
        f"Set LIGHTNING_AUTOARCH_CUDA=1 to make this an error, LIGHTNING_AUTOARCH_CUDA=0 to not try.\n{line}"
    )


def extension() -> Pybind11Extension:
    ext = Pybind11Extension(
        "lightning_autoarch._C",
        sorted(map(str, [CSRC / "bindings.cpp", *(CSRC / "cpu").glob("*.cpp")])),
        include_dirs=["csrc"],
        depends=sorted(map(str, CSRC.rglob("*.*"))),
        cxx_std=CXX_STANDARD,
        # no contraction: a fused multiply-add rounds otherwise than the two operations, and than the GPU
        extra_compile_args=["/O2", "/W3"]
        if os.name == "nt"
        else ["-O3", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra"],
    )
    if LINUX:  # the CUDA runtime inside must neither be seen by, nor be replaced by, the one of torch
        ext.extra_link_args += ["-Wl,--exclude-libs,ALL"]
    return ext


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExtension})
