"""Tensors of other shapes by the graph of coupled channels: all dimensions of a group change in the same way.

    sizes in the source  ─►  width of each group there  ─►  which unit comes from which  ─►  ShapeFit of each tensor

The size of a dimension is the sum over its segments of block * width (see channel_units.py). These equations are solved
one unknown at a time; a group that they leave open is assumed to be as wide as in the module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.structure.groups import channel_groups
from lightning_autoarch.transfer.match.channel_units import (
    Assignment,
    Place,
    Rows,
    Units,
    assign,
    importance,
    origins,
    place_shares,
    rows_of,
)
from lightning_autoarch.transfer.match.module_tensors import ModuleTensor
from lightning_autoarch.transfer.match.pairing import Pairing
from lightning_autoarch.transfer.match.shapes import ShapeFit
from lightning_autoarch.transfer.read.state_dicts import Shape


@dataclass(frozen=True)
class Wanted:
    """What to do about groups of different widths.

    Attributes:
        widen: Replicate channels if the module has more of them; otherwise the additional ones keep their values.
        strict: Raise if the function is not kept.
    """

    widen: bool
    strict: bool


@dataclass(frozen=True)
class _Dim:
    """One dimension of a tensor: its indices in the source, -1 for none, and the factors of its entries."""

    origin: Tensor
    shares: Tensor | None = None
    status: str = "loaded"
    problem: str = ""


@dataclass(frozen=True)
class Coupling:
    """The channel groups of a module, compared to the sizes of a source.

    Attributes:
        wanted: What to do about groups of different widths.
        rows: The channels of the module.
        widths: Number of each group -> its width in the source.
        assigned: Number of each group -> where its units come from.
        sources: First name in the module -> name in the source.
    """

    wanted: Wanted
    rows: Rows
    widths: Mapping[int, int]
    assigned: Mapping[int, Assignment]
    sources: Mapping[str, str]

    @property
    def widened(self) -> dict[str, int]:
        """Name of each group that is replicated -> its width in the source."""
        units = enumerate(self.rows.units)
        return {u.name: self.widths[g] for g, u in units if self.assigned[g].status == "widened" and u.grain == 1}

    def widened_units(self) -> Iterator[Units]:
        """The units of each group that is replicated."""
        return (units for g, units in enumerate(self.rows.units) if self.assigned[g].status == "widened")

    def divided(self) -> Iterator[tuple[Units, int]]:
        """Each group that is replicated in units of several channels, such as heads, and the least size of a unit."""
        for units in self.widened_units():
            counts = [self.rows.channels_of_a_unit(place, units) for place in units.roles if place in self.rows.rows]
            size = max(units.grain, min(counts, default=1))
            if size > 1:
                yield units, size

    def is_divided_alike(self, units: Units, source: Rows) -> bool:
        """Whether the rows of a source that was traced itself are those that were assumed, for one group."""
        for name, dim in units.roles:
            here = self.rows.rows.get((name, dim))
            if here is None or name not in self.sources:
                continue
            there = source.rows.get((self.sources[name], dim), ())
            expected = [(self.widths[s.group], s.block, self._groups_of_norm(self.rows.units[s.group])) for s in here]
            found = [(source.units[s.group].width, s.block, self._groups_of_norm(source.units[s.group])) for s in there]
            if found != expected:
                return False
        return True

    @staticmethod
    def _groups_of_norm(units: Units) -> int | None:
        return units.width // units.grain if units.grain > 1 else None

    def fit(self, target: ModuleTensor, old: Shape, adapt: Callable[[Shape], ShapeFit | None]) -> ShapeFit | None:
        """How a tensor of the source fits; None if its groups are as wide as in the module.

        Args:
            target: The tensor of the module.
            old: Its shape in the source.
            adapt: Adapts positions or input channels to another shape; None for a tensor that has neither.

        Raises:
            TransferError: The function would not be kept, but has to be.
        """
        new = target.shape
        if len(old) != len(new):
            return self._other_rank(target.name, old, new)
        dims = [self._dim(target.name, d, old[d], new[d]) for d in range(len(new))]
        if all(dim.status == "loaded" for dim in dims):
            return None
        before, dims = _adapted_first(old, new, dims, adapt)
        problems = [dim.problem for dim in dims if dim.problem]
        if problems and self.wanted.strict:
            raise TransferError(
                f"Expected `{target.name}` to be widened from {old} to {new} with the function kept; {problems[0]}. "
                "Pass `approximate=True` to come as close as possible."
            )
        return _fit(target.tensor, old, before, dims, problems if self.wanted.widen else [])

    def _other_rank(self, name: str, old: Shape, new: Shape) -> ShapeFit:
        words = f"{old} in the source, {new} in the module: another number of dimensions"
        if self.wanted.strict:
            raise TransferError(f"Expected `{name}` to be widened, got {words}.")
        return ShapeFit("skipped", words)

    def _dim(self, name: str, dim: int, old: int, new: int) -> _Dim:
        place = (name, dim)
        row = self.rows.rows.get(place)
        if row is not None and old == sum(self.widths[s.group] * s.block for s in row):
            parts = [self.assigned[s.group] for s in row]
            status = _worst([part.status for part in parts])
            problem = next((part.problem for part in parts if part.problem), "")
            origin = origins(row, self.widths, self.assigned)
            return _Dim(origin, place_shares(place, self.rows, self.assigned), status, problem)
        moved = [g for g in self.rows.unordered.get(place, ()) if self.assigned[g].status != "loaded"]
        if old == new and row is None and not moved:
            return _Dim(torch.arange(new))
        return _Dim(_leading(old, new), None, "sliced", self._why(place, old, new))

    def _why(self, place: Place, old: int, new: int) -> str:
        words = f"dimension {place[1]} is {old} in the source and {new} in the module"
        if place in self.rows.unordered:
            return f"{words}, with channels in an order that is unknown for another width"
        if place in self.rows.rows:
            return f"{words}, which does not follow from the sizes of the layers around it"
        return f"{words}, and counts no channels"


def couple(
    module: nn.Module, example_inputs: object, pairing: Pairing, sources: Mapping[str, str], wanted: Wanted
) -> Coupling:
    """Trace a module and assign the channels of a source to its own.

    Args:
        module: The module.
        example_inputs: Inputs of its forward.
        pairing: The tensors of the module and the source.
        sources: First name in the module -> name in the source.
        wanted: What to do about groups of different widths.

    Raises:
        StructureError: The forward cannot be followed.
    """
    rows = rows_of(module, channel_groups(module, example_inputs))
    shapes = {name: pairing.shapes[source] for name, source in sources.items()}
    sizes = {(name, dim): shapes[name][dim] for name, dim in rows.rows if name in shapes and dim < len(shapes[name])}
    widths = _widths(rows, sizes)
    computed = {name for name, _ in module.named_buffers()}.difference(pairing.targets)
    assigned = {}
    for group, units in enumerate(rows.units):
        norms = importance(group, rows, widths, sources, pairing.source.state) if widths[group] > units.width else None
        missing = next((name for name, _ in units.roles if name in computed), "")
        assigned[group] = assign(units, widths[group], norms, missing, widen=wanted.widen)
    return Coupling(wanted, rows, widths, assigned, sources)


def _widths(rows: Rows, sizes: Mapping[Place, int]) -> dict[int, int]:
    """The width of each group in the source."""
    known: dict[int, int] = {}
    before = -1
    while before != (before := len(known)):
        for place, size in sizes.items():
            row = rows.rows[place]
            unknown = {s.group for s in row} - known.keys()
            rest = size - sum(known[s.group] * s.block for s in row if s.group in known)
            block = sum(s.block for s in row if s.group in unknown)
            if len(unknown) == 1 and rest > 0 and rest % block == 0:
                known[unknown.pop()] = rest // block
    return {group: known.get(group, units.width) for group, units in enumerate(rows.units)}


def _adapted_first(
    old: Shape, new: Shape, dims: list[_Dim], adapt: Callable[[Shape], ShapeFit | None]
) -> tuple[Callable[[Tensor], Tensor] | None, list[_Dim]]:
    """Adapt positions and input channels first, which are no channels of a group; then the other dimensions follow."""
    bad = [d for d, dim in enumerate(dims) if dim.problem and old[d] != new[d]]
    fit = adapt(tuple(new[d] if d in bad else old[d] for d in range(len(old)))) if bad else None
    if fit is None or fit.make is None:
        return None, dims
    return fit.make, [
        _Dim(torch.arange(new[d]), status="interpolated") if d in bad else dim for d, dim in enumerate(dims)
    ]


def _fit(
    target: Tensor, old: Shape, before: Callable[[Tensor], Tensor] | None, dims: list[_Dim], problems: list[str]
) -> ShapeFit:
    placed = [(dim.origin >= 0).nonzero()[:, 0] for dim in dims]
    taken = math.prod(map(len, placed))
    status = _worst([dim.status for dim in dims])
    if not taken:
        return ShapeFit("skipped", f"{old} in the source, {tuple(target.shape)} in the module: nothing in common")

    def make(tensor: Tensor) -> Tensor:
        tensor = tensor if before is None else before(tensor)
        for d, (dim, here) in enumerate(zip(dims, placed, strict=True)):
            tensor = tensor.index_select(d, dim.origin[here].to(tensor.device))
            if dim.shares is not None:
                shares = dim.shares[here].reshape([-1 if e == d else 1 for e in range(tensor.dim())])
                tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * shares.to(tensor)
        return tensor if taken == target.numel() else _scattered(target, placed, tensor)

    reason = f"{'x'.join(map(str, old))} to {'x'.join(map(str, target.shape))} by coupled channels"
    return ShapeFit(status, reason + (f"; approximate: {problems[0]}" if problems else ""), make, taken=taken)


def _scattered(target: Tensor, placed: list[Tensor], part: Tensor) -> Tensor:
    """The values of the target with a part of them replaced."""
    value = target.detach().clone()
    rank = value.dim()
    index = [here.to(value.device).reshape([-1 if e == d else 1 for e in range(rank)]) for d, here in enumerate(placed)]
    value[tuple(index)] = part.to(value)
    return value


def _leading(old: int, new: int) -> Tensor:
    here = torch.arange(new)
    return torch.where(here < old, here, -1)


def _worst(statuses: list[str]) -> str:
    return next(s for s in ("sliced", "widened", "interpolated", "loaded") if s in {*statuses, "loaded"})
