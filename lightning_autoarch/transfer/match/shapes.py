"""How a tensor of one shape becomes the value of a tensor of another shape.

equal                       itself
first convolution           (O, N, ...) -> (O, M, ...), see `repeat_channels`
position embedding          resampled or skipped, see positions.py
output layer                its rows are classes: mapped if `classes` says so, otherwise left as initialised
a stack, "slice"            as below, for each of its parts separately (see module_tensors.py)
any other, "slice"          the part that both have: leading rows and columns, or given ones; the rest as initialised
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lightning_autoarch.transfer.read.state_dicts import Shape


@dataclass(frozen=True)
class ShapeFit:
    """How a tensor of the source becomes the value of a tensor of the module. Nothing is read before `make` is called.

    Attributes:
        status: What is reported about the tensor.
        reason: Why, in words.
        make: Computes the value from the tensor of the source; None if the module's tensor keeps its values.
        place: The part of the module's tensor that is written; `()` is all of it.
        taken: Number of elements that are written.
        parts: Dimensions of the module's tensor that are split before `place` is applied.
    """

    status: str
    reason: str = ""
    make: Callable[[Tensor], Tensor] | None = None
    place: tuple[slice, ...] = ()
    taken: int = 0
    parts: Mapping[int, int] = field(default_factory=dict)

    def destination(self, target: Tensor) -> Tensor:
        """The view of the target that is written."""
        split = unflattened(target, self.parts)
        return split[self.place] if self.place else split


def equal(shape: Shape) -> ShapeFit:
    """The tensor itself."""
    return ShapeFit("loaded", make=lambda tensor: tensor, taken=_numel(shape))


def repeated(old: Shape, new: Shape) -> ShapeFit | None:
    """A first convolution for another number of input channels; None if anything else differs."""
    if len(old) == len(new) and old[:1] + old[2:] == new[:1] + new[2:] and 0 not in (*old, *new):
        reason = f"{old[1]} input channels repeated to {new[1]}"
        return ShapeFit("interpolated", reason, lambda tensor: repeat_channels(tensor, new[1]), taken=_numel(new))
    return None


def then_sliced(fit: ShapeFit, made: Shape, new: Shape) -> ShapeFit:
    """The result of a fit, sliced to the shape of the module.

    Args:
        fit: The first step.
        made: Shape of its result.
        new: Shape in the module.
    """
    cut, first = sliced(made, new), fit.make
    then = cut.make
    if first is None or then is None:
        return fit
    return replace(cut, reason=f"{fit.reason}; {cut.reason}", make=lambda tensor: then(first(tensor)))


def sliced(old: Shape, new: Shape, chosen: Mapping[int, Tensor] | None = None) -> ShapeFit:
    """The part that source and module both have.

    Args:
        old: Shape in the source.
        new: Shape in the module.
        chosen: Dimension -> indices of the source to keep instead of the leading ones.
    """
    if len(old) != len(new):
        return ShapeFit(
            "skipped", f"{_text(old)} in the source, {_text(new)} in the module: another number of dimensions"
        )
    kept = tuple(min(a, b) for a, b in zip(old, new, strict=True))
    if not _numel(kept):
        return ShapeFit("skipped", f"{_text(old)} in the source, {_text(new)} in the module: nothing in common")
    chosen = {dim: index for dim, index in (chosen or {}).items() if new[dim] < old[dim]}
    which = "most important" if chosen else "leading"
    reason = f"{which} {_text(kept)} of {_text(old)}" + (f", {_text(new)} in the module" if kept != new else "")
    place = () if kept == new else tuple(slice(0, size) for size in kept)
    return ShapeFit("sliced", reason, lambda tensor: _taken(tensor, kept, chosen), place, _numel(kept))


def sliced_parts(old: Shape, new: Shape, parts: Mapping[int, int]) -> ShapeFit:
    """Like `sliced`, for each part of a stack separately."""
    if len(old) != len(new) or any(size[dim] % count for dim, count in parts.items() for size in (old, new)):
        return sliced(old, new)
    split_old, split_new = _split(old, parts), _split(new, parts)
    fit = sliced(split_old, split_new)
    make = fit.make
    if make is None:
        return fit
    return replace(fit, make=lambda tensor: make(unflattened(tensor, parts)), parts=parts)


def unflattened(tensor: Tensor, parts: Mapping[int, int]) -> Tensor:
    """A view with some dimensions split into (parts, rest)."""
    for dim in sorted(parts, reverse=True):
        tensor = torch.unflatten(tensor, dim, (parts[dim], tensor.shape[dim] // parts[dim]))
    return tensor


def _split(shape: Shape, parts: Mapping[int, int]) -> Shape:
    split: list[int] = []
    for dim, size in enumerate(shape):
        split += [parts[dim], size // parts[dim]] if dim in parts else [size]
    return tuple(split)


def sliced_first(old: Shape, new: Shape, chosen: Mapping[int, Tensor] | None = None) -> ShapeFit:
    """Like `sliced`, for a first convolution, whose input channels are repeated instead of cut."""
    if len(old) != len(new) or 0 in (*old, *new):
        return sliced(old, new, chosen)
    outputs = {dim: index for dim, index in (chosen or {}).items() if dim != 1}
    fit = sliced((old[0], new[1], *old[2:]), new, outputs)
    make = fit.make
    if make is None or old[1] == new[1]:
        return fit
    reason = f"{fit.reason}; {old[1]} input channels repeated to {new[1]}"
    return replace(fit, reason=reason, make=lambda tensor: make(repeat_channels(tensor, new[1])))


def mapped(classes: Mapping[int, int], old: Shape, target: Tensor) -> ShapeFit:
    """Rows of an output layer, by class. Rows of new classes keep their values."""
    rows = torch.tensor(list(classes.values()))
    sources = torch.tensor(list(classes))

    def make(tensor: Tensor) -> Tensor:
        value = target.detach().clone()
        value[rows.to(value.device)] = tensor[sources].to(value)
        return value

    reason = f"{len(classes)} of {old[0]} classes in the source, of {target.shape[0]} in the module"
    return ShapeFit("sliced", reason, make, taken=len(classes) * _numel(tuple(target.shape[1:])))


def repeat_channels(weight: Tensor, channels: int) -> Tensor:  # (O, N, ...) -> (O, M, ...)
    """The weight of a convolution for another number of input channels, by repetition.

    From N to M channels, with r_i the number of j < M for which j = i mod N:

        M >= N    W'[:, j] = W[:, j mod N] / r_(j mod N)
        M <  N    W'[:, j] = sum of W[:, i] over i = j mod M

    The sum over input channels is preserved: an input with equal channels gives the same output as before.
    """
    before = weight.shape[1]
    if channels >= before:
        index = torch.arange(channels, device=weight.device) % before
        counts = torch.bincount(index, minlength=before).to(weight.real.dtype if weight.is_complex() else weight.dtype)
        shape = (1, channels, *[1] * (weight.dim() - 2))
        return weight.index_select(1, index) / counts[index].view(shape)
    work = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
    folded = work.new_zeros((weight.shape[0], channels, *weight.shape[2:]))
    return folded.index_add_(1, torch.arange(before, device=weight.device) % channels, work).to(weight.dtype)


def _taken(tensor: Tensor, kept: Shape, chosen: Mapping[int, Tensor]) -> Tensor:
    for dim, index in chosen.items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor[tuple(slice(0, size) for size in kept)]


def _numel(shape: Shape) -> int:
    return torch.Size(shape).numel()


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"
