"""Every operation in each instruction set that the processor has: the same bits as plain torch, and as each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune import _ops

VARIABLE = "LIGHTNING_AUTOARCH_INSTRUCTION_SET"
# The extension decides, and is asked alone: importing the package takes seconds.
ASK = f"""
import importlib.util as u
spec = u.spec_from_file_location("lightning_autoarch._C", {_ops._C.__file__!r})
extension = u.module_from_spec(spec)
spec.loader.exec_module(extension)
print(extension.instruction_set())
"""


def run(chosen: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, VARIABLE: chosen, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", *arguments]  # -P: the checkout, which has no extension, is not looked in first
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_all_operations_give_the_same_bits_in_each(checkout: Path) -> None:
    script = checkout / "tests" / "support" / "every_operation.py"
    done = [run(name, str(script)) for name in _ops.instruction_sets()]
    assert [each.returncode for each in done] == [0] * len(done), done[-1].stderr
    names, digests = zip(*(each.stdout.split() for each in done), strict=True)
    assert list(names) == _ops.instruction_sets()
    assert len(set(digests)) == 1


def test_plain_is_there_and_the_best_is_taken() -> None:
    assert _ops.instruction_sets()[-1] == "plain"
    assert _ops.instruction_set() == os.environ.get(VARIABLE, _ops.instruction_sets()[0])
    assert run("", "-c", ASK).stdout.strip() == _ops.instruction_sets()[0]


def test_one_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    script = (
        "import torch; from lightning_autoarch.prune import prune_\n"
        "try:\n    prune_([torch.ones(4)], k=1)\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    there = ", ".join(_ops.instruction_sets())
    said = run("avx1024", "-c", script).stdout.strip()
    assert said == (
        f"{PruneValueError.__name__} Expected {VARIABLE} to be one of those that this processor has, {there}, "
        "or unset, got 'avx1024'."
    )


@pytest.mark.parametrize("chosen", _ops.instruction_sets())
def test_it_can_be_chosen(chosen: str) -> None:
    assert run(chosen, "-c", ASK).stdout.strip() == chosen
