"""`python -m lightning_autoarch` prints the versions and the state of an installation, to paste into a bug report.

Nothing here may raise: if something is broken, a line says how.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lightning_autoarch._version import __version__

REQUIRED = ("torch", "lightning", "botorch", "gpytorch", "optuna", "scikit-learn", "numpy")
EXTRAS = {
    "cli": ("jsonargparse", "rich"),
    "report": ("plotly", "pandas"),
    "dashboard": ("optuna-dashboard",),
    "ray": ("ray",),
    "safetensors": ("safetensors",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "hub": ("huggingface_hub",),
}


def main() -> None:
    """Print the report."""
    print("\n".join(report()))


def report() -> Iterator[str]:
    """Yield the lines of the report: headings, each with indented facts below it."""
    yield f"lightning_autoarch {__version__}"
    yield f"  installed in     {Path(__file__).parent}"
    yield f"  python           {platform.python_version()} ({platform.python_implementation()})"
    yield f"  platform         {platform.platform()}"
    yield f"  cpu              {_cpu_name()}, {_cpu_count()}"
    for section in (_packages, _extras, _torch, _extension):
        yield from _guarded(section)


def _guarded(section: Callable[[], Iterator[str]]) -> Iterator[str]:
    try:
        yield from section()
    except Exception as error:  # whatever is wrong is part of the report
        yield f"  failed           {type(error).__name__}: {error}"


def _packages() -> Iterator[str]:
    yield "required packages"
    for name in REQUIRED:
        yield f"  {name:<16} {_version(name) or 'MISSING'}"


def _extras() -> Iterator[str]:
    yield "extras"
    for extra, names in EXTRAS.items():
        yield f"  {extra:<16} " + ", ".join(f"{name} {_version(name) or 'not installed'}" for name in names)


def _torch() -> Iterator[str]:
    yield "torch"
    import torch

    asked = os.environ.get("OMP_NUM_THREADS", "unset")
    yield f"  threads          {torch.get_num_threads()} (OMP_NUM_THREADS {asked})"
    yield f"  cuda             {_torch_cuda()}"


def _torch_cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"not available (built for CUDA {torch.version.cuda})" if torch.version.cuda else "not built"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}, {', '.join(names)}"


def _extension() -> Iterator[str]:
    yield "compiled extension lightning_autoarch._C"
    from lightning_autoarch.prune import _ops

    info = _ops.build_info()
    standard = info["cpp_standard"] // 100 % 100  # 201703 is C++17
    yield f"  compiler         {info['compiler']}, C++{standard}, pybind11 {info['pybind11']}"
    if info["version"] != __version__:
        yield f"  STALE            built for {info['version']}, this is {__version__}: install again"
    yield f"  cpu features     {' '.join(_ops.cpu_features()) or 'none known'}"
    yield f"  instruction set  {_ops.instruction_set()}, of {', '.join(_ops.instruction_sets())}"
    if not info["cuda"]:
        yield f"  cuda             not built: {info['cuda_note']}"
        return
    yield f"  cuda             {info['cuda_compiler']}: {info['cuda_architectures']}"
    state = _ops.cuda_state()
    versions = f"runtime {_cuda_version(state['runtime_version'])}, driver "
    versions += _cuda_version(state["driver_version"]) if state["driver_version"] else "none"
    usable = f"{state['device_count']} device(s)" if state["available"] else f"not usable: {state['error']}"
    yield f"  cuda state       {versions}, {usable}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _cpu_count() -> str:
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{allowed} of {os.cpu_count()} cores for this process"


if __name__ == "__main__":
    main()
