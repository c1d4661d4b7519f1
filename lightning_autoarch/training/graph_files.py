"""Export the computation with its weights: a graph that runs without the module's Python code.

    .pt2      torch.export.export ─► torch.export.save     runs by torch.export.load(path).module()
    .onnx     torch.export.export ─► torch.onnx.export     runs by onnxruntime

Both trace the forward with example inputs, in evaluation mode; sizes are those of the inputs but where
`dynamic_shapes` says otherwise. An ONNX file contains weights of up to 1.5 GB; larger ones
are in `<name>.data` beside it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_autoarch.core.errors import ExportError
from lightning_autoarch.core.examples import tensors_in
from lightning_autoarch.core.optional import needed
from lightning_autoarch.training.export_error import LONGEST, failure

ONNX = "onnx onnxscript onnxruntime"


@dataclass(frozen=True)
class Inputs:
    """Of `forward`."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None


def check_packages(form: str) -> None:
    """Check that the packages are installed before anything is traced.

    Raises:
        MissingPackageError: one that the format needs is not installed.
    """
    for package in ONNX.split() if form == "onnx" else ():
        needed(package, "An ONNX file", ONNX)


def write_graph(form: str, module: nn.Module, inputs: Inputs, path: Path, dynamic_shapes: Any) -> None:
    """Trace the module and write the graph.

    Raises:
        ExportError: the module cannot be traced, or an operation of it has no counterpart; the place is named.
    """
    try:
        with _quiet():
            program = torch.export.export(module, inputs.args, inputs.kwargs, dynamic_shapes=dynamic_shapes)
            if form == "onnx":
                torch.onnx.export(program, (), path, dynamo=True, verbose=False, external_data=False)
            else:
                with path.open("wb") as file:
                    torch.export.save(program, file)
    except Exception as error:  # the tracer lets through whatever the forward raises
        raise failure(module, f"cannot be exported to {form}", error) from error


def run_graph(form: str, path: Path, inputs: Inputs) -> list[torch.Tensor]:
    """Load a graph and return its output tensors.

    Raises:
        ExportError: it cannot be loaded or run.
    """
    try:
        with _quiet():
            return _run_onnx(path, inputs) if form == "onnx" else _run_pt2(path, inputs)
    except Exception as error:  # onnxruntime's errors have no base class
        reason = str(error).strip().partition("\n")[0][:LONGEST]
        raise ExportError(f"The {form} file was written but does not run: {type(error).__name__}: {reason}") from error


def _run_pt2(path: Path, inputs: Inputs) -> list[torch.Tensor]:
    with path.open("rb") as file:
        program = torch.export.load(file)
    return tensors_in(program.module()(*inputs.args, **(inputs.kwargs or {})))


def _run_onnx(path: Path, inputs: Inputs) -> list[torch.Tensor]:
    runtime: Any = needed("onnxruntime", "An ONNX file", ONNX)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = tensors_in([inputs.args, inputs.kwargs or {}])
    names = [slot.name for slot in session.get_inputs()]
    feed = {name: tensor.cpu().numpy() for name, tensor in zip(names, given, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, feed)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters use what torch has deprecated; the user cannot do anything about it."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield
