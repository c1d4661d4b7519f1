"""Why a trial's checkpoint cannot be read as data, told so that the remedy can be followed to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_autoarch.core.errors import CheckpointNotPlain
from lightning_autoarch.training.plain_checkpoints import check_reads_back


class Outer:
    """An object that holds another one and a function."""

    def __init__(self) -> None:
        self.inner, self.rule = Inner(), rule


class Inner:
    """What it holds."""


def rule() -> None:
    """What it holds too."""


def refusal(path: Path, content: dict[str, Any]) -> str:
    torch.save(content, path)
    with pytest.raises(CheckpointNotPlain) as refused:
        check_reads_back(path, content)
    assert not path.exists()
    return str(refused.value)


def test_each_refusal_names_what_is_still_unknown(tmp_path: Path) -> None:
    content = {"epoch": 3, "callbacks": {"Mine": {"best": [1.0, Outer()]}}}
    needed = {f"`{each.__module__}.{each.__qualname__}`": each for each in (Inner, Outer, rule)}
    declared: list[Any] = []
    while needed:
        with torch.serialization.safe_globals(declared):
            said = refusal(tmp_path / "last.ckpt", content)
        assert f"a {__name__}.Outer under ['callbacks']['Mine']['best'][1]" in said
        assert f"(it needs {', '.join(needed)})" in said and "add_safe_globals" in said
        declared.append(needed.popitem()[1])
    torch.save(content, tmp_path / "last.ckpt")
    with torch.serialization.safe_globals(declared):
        check_reads_back(tmp_path / "last.ckpt", content)


def test_what_is_declared_safe_is_not_named_beside_what_is_not(tmp_path: Path) -> None:
    with torch.serialization.safe_globals([Inner]):
        said = refusal(tmp_path / "last.ckpt", {"first": Inner(), "second": rule})
    assert "a builtins.function under ['second']" in said and "Inner" not in said
