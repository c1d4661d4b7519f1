"""The examples in the docstrings run, in every module of the installed package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import lightning_autoarch

MODULES = ["lightning_autoarch"] + [
    module.name for module in pkgutil.walk_packages(lightning_autoarch.__path__, "lightning_autoarch.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0, "the failing example is in the captured output"
