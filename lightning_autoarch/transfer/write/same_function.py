"""Does a widened module compute what its source did?

A source that is a module is run. Its outputs show what names and shapes do not: a scale computed from a width
(`x * sqrt(d_model)`), the number of heads of an attention, or the number of groups of a norm.

Of a source that is a state_dict, everything that its tensors do not tell is refused:

    divisions   into heads or groups: 8 channels are 2 heads of 4 or 4 heads of 2, and the shapes are the same
    constants   computed from a width when the module was built: `self.scale = math.sqrt(width)`

Then a copy of the module is made as narrow as the source, and its forward must do the same on the same channels. A size
in the code (`x.unflatten(1, (2, -1))`) may mean another order of channels in another width. Channels that some tensor
counts one by one are not divided, and the weight of a grouped convolution shows how its channels are divided.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_autoarch.core.errors import StructureError, TransferError
from lightning_autoarch.core.examples import arguments_of
from lightning_autoarch.core.rest import at_rest
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.groups import channel_groups
from lightning_autoarch.structure.trace import trace
from lightning_autoarch.transfer.match.channel_units import Units, rows_of
from lightning_autoarch.transfer.match.coupling import Coupling
from lightning_autoarch.transfer.match.module_tensors import shared_values
from lightning_autoarch.transfer.transfer_report import TransferReport
from lightning_autoarch.transfer.write.commit import Write

SCALING = ("aten::mul", "aten::div", "aten::lift_fresh")  # in-place variants too, and copies of a constant
POWERS = (1.0, 0.5, -0.5, -1.0)
REMEDY = (
    "Pass the source as a module with its weights, which is run and compared, or `approximate=True`, which assumes "
    "the same head size, the same number of groups in norms, and the same constants."
)
WHOLE = {"loaded", "renamed", "widened", "identity", "unexpected"}


def check_divisions(module: nn.Module, example_inputs: object, coupling: Coupling, source: nn.Module | None) -> None:
    """Refuse groups that are widened in units of several channels, unless the source divides its channels equally.

    Raises:
        TransferError: The source does not, or it is unknown. The message names the group.
        StructureError: The forward of the source cannot be followed.
    """
    stated = set(_grouped_convolutions(module))
    divided = [(u, n) for u, n in coupling.divided() if not any((name, n) in stated for name, _ in u.roles)]
    if not divided:
        return
    there = None if source is None else rows_of(source, channel_groups(source, example_inputs))
    for units, _ in divided:
        if there is None:
            raise TransferError(
                f"Expected a source that tells how many heads or groups the channels of `{units.name}` are divided "
                f"into; its tensors do not, and the function depends on it. {REMEDY}"
            )
        if not coupling.is_divided_alike(units, there):
            raise TransferError(
                f"Expected a source that divides the channels of `{units.name}` as this module does, with the same "
                "head size and the same number of groups in a norm, got another number of heads or groups. Pass "
                "`approximate=True` to accept it."
            )


def check_constants(module: nn.Module, example_inputs: object, coupling: Coupling, source: nn.Module | None) -> None:
    """Refuse a forward with a constant that may have been computed from a width that changes.

    Raises:
        TransferError: There is one, and the source does not have the same constants. The message names the operation.
        StructureError: The forward of the source cannot be followed.
    """
    sizes = {size: units.name for units in coupling.widened_units() for size in _sizes(module, units)}
    constants = list(_constants(module, example_inputs))
    suspects = [(number, place, size) for number, place in constants for size in sizes if _is_power(number, size)]
    if not suspects:
        return
    if source is not None:
        there = Counter(number for number, _ in _constants(source, example_inputs))
        if there == Counter(number for number, _ in constants):
            return
    number, place, size = suspects[0]
    raise TransferError(
        f"Expected no constant that may depend on a width, got {number:.6g} in {place}: `{sizes[size]}` is {size} "
        f"wide, and the source may have another constant. {REMEDY}"
    )


def _is_power(number: float, size: int) -> bool:
    return size > 1 and any(math.isclose(number, size**power, rel_tol=1e-6) for power in POWERS)


def _grouped_convolutions(module: nn.Module) -> Iterator[tuple[str, int]]:
    """The name of the weight of each grouped convolution, and its number of channels per group."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups > 1:
            yield f"{path}.weight" if path else "weight", layer.in_channels // layer.groups


def _sizes(module: nn.Module, units: Units) -> Iterator[int]:
    """The sizes of the dimensions that count these channels."""
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    return (tensors[name].shape[dim] for name, dim in units.roles)


def _constants(module: nn.Module, example_inputs: object) -> Iterable[tuple[float, str]]:
    """The numbers by which a forward multiplies or divides, and where it does."""
    for step in (step for flow in trace(module, example_inputs).flows for step in flow.steps):
        if step.op.startswith(SCALING):
            yield from ((number, step.place) for number in step.numbers)
    saved = module.state_dict(keep_vars=True).keys()
    for name, buffer in module.named_buffers():
        if name not in saved and buffer.numel() == 1 and buffer.is_floating_point():
            yield float(buffer), f"the buffer `{name}`"


def check_function(
    module: nn.Module,
    writes: Sequence[Write],
    source: nn.Module | None,
    example_inputs: object,
    report: TransferReport,
    coupling: Coupling,
) -> None:
    """Check that a module will compute what its source does. Nothing is written.

    The outputs of a source that is a module are compared if only widened tensors can change them. Otherwise, with a new
    output layer for example, only the widened part is examined.

    Args:
        module: The widened module.
        writes: The copies that will be made.
        source: The source, if it is a module.
        example_inputs: Inputs of the forward.
        report: What happens to each tensor.
        coupling: The graph of coupled channels.

    Raises:
        TransferError: It will not, or this is unknown.
        StructureError: The forward of the source cannot be followed.
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


def _check_widths(module: nn.Module, example_inputs: object, widths: Mapping[str, int]) -> None:
    """Raise TransferError if the module would not be the same with these smaller widths of its groups."""
    kept = shared_values(module)
    kept |= {id(buffer): buffer for buffer in module.buffers() if buffer.layout is not torch.strided}
    try:
        narrow = copy.deepcopy(module, kept)
        remove_channels_(narrow, example_inputs, {name: range(width) for name, width in widths.items()})
    except StructureError as error:
        raise TransferError(
            f"Expected a forward that does the same on fewer channels. {error} Pass the source as a module, which is "
            "run, or `approximate=True`."
        ) from error


def _check_outputs(module: nn.Module, writes: Sequence[Write], source: nn.Module, example_inputs: object) -> None:
    """Raise TransferError if the outputs in eval mode will differ from the source's by more than rounding."""
    values = {id(write.target): write.value.to(write.target) for write in writes}
    tensors = [*module.named_parameters(), *module.named_buffers()]
    new = {name: values[id(tensor)] for name, tensor in tensors if id(tensor) in values}
    want, got = _outputs(source, example_inputs, {}), _outputs(module, example_inputs, new)
    far = max((_distance(a, b) for a, b in zip(want, got, strict=False)), default=0.0)
    if len(want) != len(got) or far > 1:
        raise TransferError(
            "Expected the widened module to compute what its source does, got other outputs: something else in it "
            "depends on its size, such as a scale or the number of heads or groups. Pass `approximate=True` to "
            "accept it."
        )


def _outputs(module: nn.Module, example_inputs: object, values: Mapping[str, Tensor]) -> list[Tensor]:
    device = next(module.parameters()).device
    args, kwargs = arguments_of(tree_map_only(Tensor, lambda x: x.clone().to(device), example_inputs))
    with at_rest(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a fast path that a layer takes or does not take
        try:
            out = functional_call(module, dict(values), args, kwargs)
        except Exception as error:
            raise TransferError(
                f"Expected the forward of {type(module).__name__} to run with `example_inputs`, so that the widened "
                f"module can be compared with its source; {type(error).__name__}: {error}. "
                "Pass its `state_dict()` not to run the source."
            ) from error
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference in units of rounding errors."""
    if a.shape != b.shape:
        return float("inf")
    coarser = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    a, b = a.double().cpu(), b.double().cpu()
    scale = float(a.nan_to_num().abs().max()) if a.numel() else 0.0
    far = float((a - b).nan_to_num().abs().max()) if a.numel() else 0.0
    return far / (math.sqrt(coarser) * max(scale, 1e-6))
