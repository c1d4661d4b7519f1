"""Which unit of the source each unit of the module is made from.

    as many      itself
    fewer        the most important, by the squared norm of all that makes them; of equal ones the first
    more         "widen": unit j from unit floor(j w / W), for w units there and W here, consumers sharing what they had
                 else: the first w, the others as the module made them

Net2WiderNet (Chen, Goodfellow & Shlens 2016, equation 4) divides consumers by the number r of copies. Here copy c of r
gets the share (1 + (2 c - r + 1) / (2 r)) / r: they sum to 1 too, and copies with equal shares of an equal unit would
have equal gradients for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_autoarch.transfer.match.rows import Place, Row, Rows, Units
from lightning_autoarch.transfer.read.state import StateDict

PRODUCERS = ("producer", "tied")


@dataclass(frozen=True)
class Assignment:
    """What the units of a group come from."""

    origin: Tensor  # (W,) units of the source, -1: none
    status: str = "loaded"  # "widened" or "sliced" where it is not as it was
    problem: str = ""  # why the module's function is not the source's

    @property
    def shares(self) -> Tensor:  # (W,) of what the consumers had
        """Of each unit; the module's docstring has the formula."""
        if self.status != "widened":
            return torch.ones(len(self.origin), dtype=torch.float64)
        counts = torch.bincount(self.origin)[self.origin].double()
        first = torch.searchsorted(self.origin, self.origin)
        copy = torch.arange(len(self.origin)) - first
        return (1 + (2 * copy - counts + 1) / (2 * counts)) / counts


def assign(units: Units, width: int, importance: Tensor | None, missing: str, *, widen: bool) -> Assignment:
    """For a group of which the source has `width` units.

    Args:
        units: of the module.
        width: of the source.
        importance: (width,) of its units; None: unknown.
        missing: a tensor of the group that the source cannot have.
        widen: replicate where there are more.
    """
    here = torch.arange(units.width)
    if width == units.width:
        return Assignment(here)
    words = f"the {width} channels of `{units.name}` in the source become {units.width} here"
    if width > units.width:
        if units.fixed is not None:
            return Assignment(here, "sliced", f"{words}, but they have to stay: {units.fixed}")
        return Assignment(here if importance is None else _most(importance, units.width), "sliced")
    impossible = _impossible(units)
    if impossible or not widen:
        return Assignment(torch.where(here < width, here, -1), "sliced", f"{words}, but {impossible}")
    problem = _inexact(units, width, missing)
    return Assignment(here * width // units.width, "widened", f"{words}, but {problem}" if problem else "")


def _most(importance: Tensor, count: int) -> Tensor:  # (count,) ascending
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _impossible(units: Units) -> str:
    if units.fixed is not None:
        return f"they have to stay: {units.fixed}"
    if not units.replicable:
        return "they are summed where no parameter scales them, or shuffled"
    tied = [name for (name, _), role in units.roles.items() if role == "tied"]
    return f"`{tied[0]}` both makes and reads them" if tied else ""


def _inexact(units: Units, width: int, missing: str) -> str:
    if not units.exact and units.width % width:
        return "a norm or mean is taken over them, which stays for multiples alone"
    return f"`{missing}` is no weight that the source could have" if missing else ""


def importance(
    group: int, found: Rows, widths: Mapping[int, int], sources: Mapping[str, str], state: StateDict
) -> Tensor | None:  # (w,)
    """Squared norm of all that makes each unit of the source; None where nothing of it is there."""
    total = torch.zeros(widths[group], dtype=torch.float64)
    places = [p for p, role in found.units[group].roles.items() if role in PRODUCERS and p in found.rows]
    places = [place for place in places if place[0] in sources]
    for place in places:
        weight = state[sources[place[0]]].detach().movedim(place[1], 0).cpu()
        squares = weight.abs().double().square().reshape(len(weight), -1).sum(1)
        numbers = unit_numbers(found.rows[place], widths, group)
        if len(numbers) != len(squares):
            return None
        total.index_add_(0, numbers[numbers >= 0], squares[numbers >= 0])
    return total if places else None


def unit_numbers(row: Row, widths: Mapping[int, int], group: int) -> Tensor:
    """For each index of a dimension the unit of one group, -1 where another group's stand."""
    parts = [torch.arange(widths[s.group]).repeat_interleave(s.block) for s in row]
    return torch.cat(
        [part if s.group == group else torch.full_like(part, -1) for s, part in zip(row, parts, strict=True)]
    )


def origins(row: Row, widths: Mapping[int, int], assigned: Mapping[int, Assignment]) -> Tensor:
    """For each index of a dimension of the module its index in the source, -1: none."""
    parts, start = [], 0
    for segment in row:
        origin = assigned[segment.group].origin
        inside = torch.arange(segment.block)
        index = (origin[:, None] * segment.block + inside + start).reshape(-1)
        parts.append(torch.where((origin >= 0).repeat_interleave(segment.block), index, -1))
        start += widths[segment.group] * segment.block
    return torch.cat(parts)


def place_shares(place: Place, found: Rows, assigned: Mapping[int, Assignment]) -> Tensor | None:
    """What each index of a dimension is multiplied by where channels are read; None: by nothing."""
    row = found.rows[place]
    reads = [found.units[s.group].roles[place] == "consumer" and assigned[s.group].status == "widened" for s in row]
    if not any(reads):
        return None
    parts = [
        (assigned[s.group].shares if read else torch.ones(len(assigned[s.group].origin), dtype=torch.float64))
        .repeat_interleave(s.block)
        for s, read in zip(row, reads, strict=True)
    ]  # fmt: skip
    return torch.cat(parts)
