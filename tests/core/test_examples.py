"""Example inputs: what the caller gives or the module has, and how a forward is called with them."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from lightning_autoarch.core.errors import ExportError
from lightning_autoarch.core.examples import (
    META,
    WAYS,
    arguments_of,
    arguments_of_array,
    device_of,
    example_of,
    moved_to,
    needed_example,
)


@pytest.mark.parametrize(
    ("inputs", "arguments", "as_lightning"),
    [
        (3, ((3,), {}), ((3,), {})),
        ((1, 2), ((1, 2), {}), ((1, 2), {})),
        ([1, 2], ((1, 2), {}), (([1, 2],), {})),
        ({"x": 1}, ((), {"x": 1}), ((), {"x": 1})),
        ((), ((), {}), ((), {})),
    ],
)
def test_arguments(inputs: Any, arguments: Any, as_lightning: Any) -> None:
    assert arguments_of(inputs) == arguments
    assert arguments_of_array(inputs) == as_lightning


def test_ways_to_call_with_a_batch() -> None:
    assert [way({0: "x", "y": 2}) for way in WAYS] == [(("x",), {}), ((), {0: "x", "y": 2}), (({0: "x", "y": 2},), {})]


def test_what_is_given_goes_before_what_the_module_has() -> None:
    module = L.LightningModule()
    with pytest.raises(ExportError, match=r"Expected `example_inputs` for ONNX, which runs the forward of Lightning"):
        needed_example(module, None, "ONNX", ExportError)
    module.example_input_array = torch.ones(1)
    assert needed_example(module, None, "ONNX", ExportError) is module.example_input_array
    assert needed_example(module, 0, "ONNX", ExportError) == 0
    assert example_of(nn.Linear(1, 1)) is None


def test_moved() -> None:
    moved = moved_to({"a": [torch.ones(2)], "b": (torch.ones(1), "text")}, META)
    assert moved["a"][0].is_meta
    assert moved["b"][0].is_meta
    assert moved["b"][1] == "text"


def test_device() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")) == META
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")) == META
    assert device_of(nn.ReLU()) == torch.device("cpu")
