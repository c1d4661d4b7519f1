"""What a checkpoint says of classes: nothing is imported that the user has not named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from lightning_autoarch.cli.checkpoint_classes import check_class_paths, check_named_objects
from lightning_autoarch.cli.sections import hyperparameters
from lightning_autoarch.core.errors import CheckpointError

ENCODER = {"class_path": "mine.Encoder", "init_args": {"size": 5}}
STRANGER = {"inner": {"class_path": "stranger.Part"}}
CONFIG = Namespace(model=Namespace(class_path="mine.Net", init_args=Namespace(encoder=ENCODER)))


def test_classes_that_the_config_names_too() -> None:
    for arguments in ({}, {"width": 3}, {"_class_path": "mine.Net", "encoder": ENCODER}, {"parts": [ENCODER]}):
        check_class_paths(arguments, CONFIG, Path("a.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"_class_path": "stranger.Net"}, "hyper_parameters._class_path"),
        ({"encoder": {"class_path": "stranger.Encoder"}}, "hyper_parameters.encoder.class_path"),
        ({"parts": [ENCODER, STRANGER]}, "hyper_parameters.parts[1].inner.class_path"),
        ({"encoder": {"class_path": ["mine.Encoder"]}}, "hyper_parameters.encoder.class_path"),
    ],
)
def test_other_classes_are_refused(arguments: dict[str, Any], where: str) -> None:
    with pytest.raises(CheckpointError, match=f"`{re.escape(where)}` of a.ckpt names the class .* would be imported"):
        check_class_paths(arguments, CONFIG, Path("a.ckpt"))


@pytest.mark.parametrize("hyper_parameters", [3, {1: 2, "_instantiator": "os.system"}])
def test_hyperparameters_of_another_form(tmp_path: Path, hyper_parameters: Any) -> None:
    torch.save({"hyper_parameters": hyper_parameters}, tmp_path / "a.ckpt")
    assert hyperparameters(tmp_path / "a.ckpt") == {}


class Net:
    def __init__(self, name: str = "", act: Callable[..., Any] | None = None, parts: list[type] = ()) -> None: ...


def test_a_dotted_name_is_data_where_a_string_is_wanted() -> None:
    check_named_objects(Net, {"name": "torch.nn.ReLU", "unknown": "os.system"}, Namespace(), Path("a.ckpt"))


@pytest.mark.parametrize(
    ("cls", "arguments", "where"),
    [
        (Net, {"act": "os.system"}, "hyper_parameters.act"),
        (Net, {"parts": ["os.system"]}, "hyper_parameters.parts[0]"),
        (None, {"name": "os.system"}, "hyper_parameters.name"),
    ],
)
def test_a_function_is_not_imported_by_its_name(cls: type | None, arguments: dict[str, Any], where: str) -> None:
    with pytest.raises(CheckpointError, match=f"`{re.escape(where)}` of a.ckpt names the object `os.system`"):
        check_named_objects(cls, arguments, Namespace(), Path("a.ckpt"))
    check_named_objects(cls, arguments, Namespace(model=Namespace(init_args={"act": "os.system"})), Path("a.ckpt"))
