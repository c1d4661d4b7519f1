"""Does a widened module compute what its source did?

A source that is a module is run: outputs show what names and shapes do not, such as a scale made of a width
(`x * sqrt(d_model)`), the number of heads of an attention, or of groups of a norm.

Of one that is only tensors, what they do not say is looked for first (see unstated.py). Then a copy of the module is
made as narrow: its forward must do the same on the same channels. A size that is written into the code
(`x.unflatten(1, (2, -1))`) may mean another order of channels in another width.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_autoarch.core.errors import StructureError, TransferError
from lightning_autoarch.core.examples import arguments_of
from lightning_autoarch.core.rest import at_rest
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.transfer.match.coupling import Coupling
from lightning_autoarch.transfer.match.report import TransferReport
from lightning_autoarch.transfer.write.commit import Write
from lightning_autoarch.transfer.write.unstated import check_constants, check_divisions

WHOLE = {"loaded", "renamed", "widened", "identity", "unexpected"}


def check_function(
    module: nn.Module,
    writes: Sequence[Write],
    source: nn.Module | None,
    example_inputs: Any,
    report: TransferReport,
    coupling: Coupling,
) -> None:
    """Whether a module will compute what its source does; nothing is written.

    The outputs of a source that is a module are compared, where nothing but widened tensors changes them. Elsewhere, a
    new output layer say, only the widened part is examined.

    Raises:
        TransferError: it will not, or this cannot be known.
        StructureError: the forward of the source cannot be followed.
    """
    if not any(coupling.widened_units()):
        return
    if source is not None and WHOLE.issuperset(report.counts):
        _check_outputs(module, writes, source, example_inputs)
        return
    check_divisions(module, example_inputs, coupling, source)
    check_constants(module, example_inputs, coupling, source)
    if coupling.widened:
        _check_widths(module, example_inputs, coupling.widened)


def _check_widths(module: nn.Module, example_inputs: Any, widths: Mapping[str, int]) -> None:
    """Raises TransferError if the module would not be the same with these widths of its groups, less than now."""
    kept = {id(value): value for each in module.modules() for value in vars(each).values() if not _is_copied(value)}
    kept |= {id(buffer): buffer for buffer in module.buffers() if buffer.layout is not torch.strided}
    try:
        narrow = copy.deepcopy(module, kept)
        remove_channels_(narrow, example_inputs, {name: range(width) for name, width in widths.items()})
    except StructureError as error:
        raise TransferError(
            f"Expected a forward that does the same on fewer channels. {error} Give the source as a module, which is "
            "run, or `approximate=True`."
        ) from error


def _is_copied(value: Any) -> bool:
    """Whether a resize may change it: a Trainer, say, is shared by the copy."""
    return isinstance(value, nn.Module | Tensor | dict | list | tuple | set)


def _check_outputs(module: nn.Module, writes: Sequence[Write], source: nn.Module, example_inputs: Any) -> None:
    """Raises TransferError if the outputs will differ from the source's by more than rounding, in eval mode."""
    values = {id(write.target): write.value.to(write.target) for write in writes}
    tensors = [*module.named_parameters(), *module.named_buffers()]
    new = {name: values[id(tensor)] for name, tensor in tensors if id(tensor) in values}
    want, got = _outputs(source, example_inputs, {}), _outputs(module, example_inputs, new)
    far = max((_distance(a, b) for a, b in zip(want, got, strict=False)), default=0.0)
    if len(want) != len(got) or far > 1:
        raise TransferError(
            "Expected the widened module to compute what its source does, got other outputs: something else in it "
            "depends on its size, such as a scale, the number of heads or of groups. `approximate=True` takes it so."
        )


def _outputs(module: nn.Module, example_inputs: Any, values: Mapping[str, Tensor]) -> list[Tensor]:
    device = next(module.parameters()).device
    args, kwargs = arguments_of(tree_map_only(Tensor, lambda x: x.clone().to(device), example_inputs))
    with at_rest(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fast path that a layer takes or does not
        try:
            out = functional_call(module, dict(values), args, kwargs)
        except Exception as error:
            raise TransferError(
                f"Expected the forward of {type(module).__name__} to run with `example_inputs`, so that the widened "
                f"module can be held against its source; {type(error).__name__}: {error}. "
                "Given its `state_dict()`, the source is not run."
            ) from error
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _distance(a: Tensor, b: Tensor) -> float:
    """In units of what rounding may do."""
    if a.shape != b.shape:
        return float("inf")
    coarser = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    a, b = a.double().cpu(), b.double().cpu()
    scale = float(a.nan_to_num().abs().max()) if a.numel() else 0.0
    far = float((a - b).nan_to_num().abs().max()) if a.numel() else 0.0
    return far / (math.sqrt(coarser) * max(scale, 1e-6))
