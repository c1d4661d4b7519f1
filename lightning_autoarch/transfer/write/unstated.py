"""What the tensors of a source do not say, and on which the function of a widened module depends.

    division   into heads or groups: 8 channels are 2 heads of 4 or 4 heads of 2, and have the same shapes
    constants  made of a width when the module was built: `self.scale = math.sqrt(width)`

A source that is a module is followed and says both. For one that is only tensors, whatever depends on them is refused.
Channels that some tensor counts one by one are not divided; how a grouped convolution divides them is in the shape of
its weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.structure.groups import channel_groups
from lightning_autoarch.structure.trace import trace
from lightning_autoarch.transfer.match.coupling import Coupling
from lightning_autoarch.transfer.match.rows import Units, rows_of

SCALING = ("aten::mul", "aten::div", "aten::lift_fresh")  # also in place, and copies of a constant
POWERS = (1.0, 0.5, -0.5, -1.0)
REMEDY = (
    "Give the source as a module with its weights, which is run and compared, or `approximate=True`, which assumes "
    "that it has heads of the same size, norms over as many groups, and the same constants."
)


def check_divisions(module: nn.Module, example_inputs: Any, coupling: Coupling, source: nn.Module | None) -> None:
    """Refuse groups that are widened in units of several channels, unless the source divides its channels alike.

    Raises:
        TransferError: the source does not, or it is not known; the group is named.
        StructureError: the forward of the source cannot be followed.
    """
    stated = set(_grouped_convolutions(module))
    divided = [(u, n) for u, n in coupling.divided() if not any((name, n) in stated for name, _ in u.roles)]
    if not divided:
        return
    there = None if source is None else rows_of(source, channel_groups(source, example_inputs))
    for units, _ in divided:
        if there is None:
            raise TransferError(
                f"Expected a source that says into how many heads or groups the channels of `{units.name}` are divided "
                f"there; its tensors do not, and the function depends on it. {REMEDY}"
            )
        if not coupling.is_divided_alike(units, there):
            raise TransferError(
                f"Expected a source that divides the channels of `{units.name}` as this module does, with heads of one "
                "size and as many groups in a norm, got another number of heads or of groups. `approximate=True` "
                "takes it so."
            )


def check_constants(module: nn.Module, example_inputs: Any, coupling: Coupling, source: nn.Module | None) -> None:
    """Refuse a forward that is scaled by a constant which may have been made of a width that changes.

    Raises:
        TransferError: there is one, and the source does not have the same constants; the operation is named.
        StructureError: the forward of the source cannot be followed.
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
        f"Expected no constant that may be made of a width, got {number:.6g} in {place}: `{sizes[size]}` is {size} "
        f"wide, and in the source the constant may be another. {REMEDY}"
    )


def _is_power(number: float, size: int) -> bool:
    return size > 1 and any(math.isclose(number, size**power, rel_tol=1e-6) for power in POWERS)


def _grouped_convolutions(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Name of the weight of each grouped convolution, and the channels in a group."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups > 1:
            yield f"{path}.weight" if path else "weight", layer.in_channels // layer.groups


def _sizes(module: nn.Module, units: Units) -> Iterator[int]:
    """Of the dimensions that count these channels."""
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    return (tensors[name].shape[dim] for name, dim in units.roles)


def _constants(module: nn.Module, example_inputs: Any) -> Iterable[tuple[float, str]]:
    """Numbers by which a forward multiplies or divides, and where."""
    for step in (step for flow in trace(module, example_inputs).flows for step in flow.steps):
        if step.op.startswith(SCALING):
            yield from ((number, step.place) for number in step.numbers)
    saved = module.state_dict(keep_vars=True).keys()
    for name, buffer in module.named_buffers():
        if name not in saved and buffer.numel() == 1 and buffer.is_floating_point():
            yield float(buffer), f"the buffer `{name}`"
