"""Export a trained module to a file for other tools, which is reloaded and compared before it replaces the path.

    .pt .pth .safetensors     the plain state_dict             bits compared, and the output where inputs are known
    .sparse.safetensors       the same, zeros as 1 bit         bits compared, and the output where inputs are known
    .pt2 .onnx                the graph with its weights       output compared

An output agrees when |reloaded - module| <= sqrt(eps) max(1, max |module|), eps of its dtype (`core.tolerance`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_autoarch.core.errors import ExportError
from lightning_autoarch.core.examples import arguments_of_array, device_of, example_of, needed_example, tensors_in
from lightning_autoarch.core.files import staged
from lightning_autoarch.core.rest import at_rest, left_unchanged
from lightning_autoarch.core.rng import seeded
from lightning_autoarch.core.tolerance import allowed, difference
from lightning_autoarch.training.export_error import failure
from lightning_autoarch.training.graph_files import Inputs, check_packages, run_graph, write_graph
from lightning_autoarch.training.weight_files import run_with, write_weights

FORMATS = {  # suffix -> format; the longest suffix that fits counts
    ".sparse.safetensors": "sparse",
    ".safetensors": "safetensors",
    ".pt": "state_dict",
    ".pth": "state_dict",
    ".pt2": "pt2",
    ".onnx": "onnx",
}
GRAPHS = ("pt2", "onnx")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        format: "sparse", "safetensors", "state_dict", "pt2" or "onnx".
        bytes: on disk, the weights beside an ONNX graph included.
        dense_bytes: of the module's parameters and buffers in memory, tied ones once.
        max_difference: largest |reloaded - module| over all outputs; None where there were no inputs to compare with.
    """

    path: Path
    format: str
    bytes: int
    dense_bytes: int
    max_difference: float | None


def export(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    example_inputs: Any = None,
    format: str | None = None,
    dynamic_shapes: Any = None,
    tolerance: float | None = None,
) -> ExportReport:
    """Write the module to a file; the module, its device and its random numbers are left as they are.

    Args:
        module: any module. A LightningModule need not have a trainer, and the file has none.
        path: the file, replaced in one step when it has been compared.
        example_inputs: of `forward`: a tensor, a tuple of positional arguments or a dict of keyword arguments. None: a
            LightningModule's `example_input_array`. Graphs need them.
        format: "sparse", "safetensors", "state_dict", "pt2" or "onnx", where the suffix does not say it.
        dynamic_shapes: of a graph, as `torch.export.export` takes them: `({0: torch.export.Dim.AUTO},)` leaves the
            first size of the first input open.
        tolerance: how far an output may be from the module's, instead of sqrt(eps).

    Raises:
        ExportError: no known format, no inputs for a graph, a forward that cannot be traced (the place is named), or a
            file that gives another output. The path is as it was.
        PruneTypeError, PruneValueError: a tensor that the format cannot hold.
        MissingPackageError: an optional package is not installed; the message has the command.

    >>> import torch
    >>> export(nn.Linear(2, 1), "net.pt", example_inputs=torch.ones(1, 2)).max_difference
    0.0
    """
    if not isinstance(module, nn.Module):
        raise ExportError(f"Expected `module` to be an nn.Module, got {type(module).__name__}.")
    path = Path(path)
    form, subject = _format_of(path, format), getattr(module, "_orig_mod", module)
    inputs = _inputs_of(subject, example_inputs, form)
    if form in GRAPHS:
        check_packages(form)
    with at_rest(subject), staged(path) as part:
        expected = None if inputs is None else _outputs(subject, inputs)
        reloaded = _written(form, subject, inputs, part, dynamic_shapes)
        with seeded(0):
            got = [] if inputs is None else reloaded(_own(inputs, subject))
        furthest = None if expected is None else _compared(expected, got, tolerance)
        size = sum(file.stat().st_size for file in part.parent.iterdir())
    return ExportReport(path, form, size, _dense_bytes(subject), furthest)


def _format_of(path: Path, format: str | None) -> str:
    if format is not None:
        if format not in FORMATS.values():
            known = ", ".join(map(repr, dict.fromkeys(FORMATS.values())))
            raise ExportError(f"Expected `format` to be one of {known}, got {format!r}.")
        return format
    for suffix in FORMATS:
        if path.name.lower().endswith(suffix):
            return FORMATS[suffix]
    raise ExportError(f"Expected `path` to end with one of {', '.join(FORMATS)}, got {path.name}: or give `format`.")


def _inputs_of(module: nn.Module, given: Any, form: str) -> Inputs | None:
    given = needed_example(module, given, form, ExportError) if form in GRAPHS else given
    given = example_of(module) if given is None else given
    if given is None:
        return None
    args, kwargs = arguments_of_array(given)
    return Inputs(args, kwargs or None)


def _written(
    form: str, module: nn.Module, inputs: Inputs | None, path: Path, dynamic_shapes: Any
) -> Callable[[Inputs], list[Tensor]]:
    """Write the file, and return a function that runs its content."""
    if form not in GRAPHS:
        state = write_weights(form, module, path)
        return lambda given: tensors_in(run_with(module, state, given.args, given.kwargs or {}))
    write_graph(form, module, _own(inputs or Inputs(), module), path, dynamic_shapes)
    return lambda given: run_graph(form, path, given)


def _outputs(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The outputs of the module.

    Raises:
        ExportError: it does not run, or there is nothing to compare.
    """
    try:
        with seeded(0), left_unchanged(module):  # the file gets those from before
            own = _own(inputs, module)
            outputs = tensors_in(module(*own.args, **(own.kwargs or {})))
    except Exception as error:
        raise failure(module, "does not run on `example_inputs`", error) from error
    if not outputs:
        raise ExportError(f"Expected the forward of {type(module).__name__} to return tensors to compare, it has none.")
    return outputs


def _compared(expected: list[Tensor], got: list[Tensor], tolerance: float | None) -> float:
    """The largest difference between the outputs.

    Raises:
        ExportError: it is too large.
    """
    if len(got) != len(expected):
        raise ExportError(f"Expected {len(expected)} outputs of the file, as the module has, got {len(got)}.")
    differences = [difference(theirs, ours) for ours, theirs in zip(expected, got, strict=True)]
    for i, off in enumerate(differences):
        limit = allowed(expected[i], tolerance)
        if not off <= limit:
            raise ExportError(
                f"The file gives another output than the module: number {i} differs by {off:.3g}, allowed is "
                f"{limit:.3g}. Nothing was written; `tolerance` allows more."
            )
    return max(differences)


def _own(inputs: Inputs, module: nn.Module) -> Inputs:
    """Copies on the module's device, since a forward may write to them."""
    device = device_of(module)

    def copied(value: Any) -> Any:
        return apply_to_collection(value, Tensor, lambda tensor: tensor.detach().to(device, copy=True))

    return Inputs(copied(inputs.args), None if inputs.kwargs is None else copied(inputs.kwargs))


def _dense_bytes(module: nn.Module) -> int:
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
