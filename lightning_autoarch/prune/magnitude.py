"""Exact magnitude pruning of a list of tensors: choose the k smallest |w|, write 1-bit masks, zero the weights.

Order: |w| by its bits, among equals the lowest flat index is kept; -0 equals 0, infinity is largest. The result is the
same bits on CPU and GPU, with any number of threads and in any memory format. `csrc/prune.h` is the contract.

    tensors ─► candidates: all, or those that `masks` keeps ─► remove k - (already pruned) of them ─► masks
    regrowth (`largest`):     those that `masks` prunes     ─► keep the k largest of them          ─► masks | kept
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_autoarch.prune import _ops, reference
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.weights import Weights, collect, overlaps_itself
from lightning_autoarch.prune.written import announce, operation

Scope = Literal["global", "tensor"]
Nan = Literal["error", "keep"]
FORMATS = {8: ("<Q", "<d"), 4: ("<I", "<f")}


@operation
def magnitude_threshold(
    tensors: Iterable[Tensor],
    *,
    sparsity: float | None = None,
    k: int | None = None,
    masks: Iterable[BitMask] | None = None,
    scores: Iterable[Tensor] | None = None,
    nan: Nan = "error",
) -> float:
    """The k-th smallest magnitude: what a pruning of all tensors together removes at most.

    Every |w| below it is removed and every one above it is kept; of those equal to it the highest indices are removed.
    0.0 when nothing is removed, or nothing but what `masks` has pruned.

    Args, Raises: as `magnitude_masks`. On CUDA the call waits for the device.

    >>> import torch
    >>> magnitude_threshold([torch.tensor([3.0, -1.0, 2.0, 0.5])], sparsity=0.5)
    1.0
    """
    weights, criterion = _collect(tensors, scores, writing=False)
    given = _given(weights, masks)
    remove = _to_remove(weights.numel, _pruned(given), sparsity, k)
    return _value(_run(weights, criterion, given, remove, nan=nan, regrow=False, out=None), criterion)


@operation
def magnitude_masks(
    tensors: Iterable[Tensor],
    *,
    sparsity: float | Sequence[float] | None = None,
    k: int | Sequence[int] | None = None,
    scope: Scope = "global",
    masks: Iterable[BitMask] | None = None,
    scores: Iterable[Tensor] | None = None,
    largest: bool = False,
    nan: Nan = "error",
) -> list[BitMask]:
    """Masks that prune exactly k weights, those of the smallest magnitude; no weight is changed.

    Args:
        tensors: tensors or parameters of one dtype (float32, float64, bfloat16, float16) on one device. The same memory
            passed twice counts once and gets one mask. CPU and CUDA run compiled; other devices run `reference.py`.
        sparsity: share of the weights that is pruned, in [0, 1]: k = round(sparsity * n). Always of the dense list.
        k: how many are pruned. Exactly one of the two is given.
        scope: "global" compares all tensors with one another; "tensor" each with itself, then `sparsity` or `k` may be
            one for each tensor.
        masks: what is pruned already. It is among the k and goes first, whatever the weights are.
        scores: compared instead of the tensors by their magnitude, e.g. |w * gradient|; the same shapes, one dtype.
        largest: regrow instead. `k` more weights are kept beside those of `masks` (None: beside none): of what is pruned
            those of the largest magnitude. `sparsity` is what is left pruned.
        nan: "error", or "keep": a NaN is larger than infinity and never pruned.

    Returns:
        One mask for each tensor, on its device.

    Raises:
        TypeError, ValueError: the arguments are not that; a NaN (the tensor is named); k is smaller than what `masks`
            prunes already, or larger than what there is to choose from. Nothing was changed.

    On CUDA the call waits for the device.

    >>> import torch
    >>> mask, = magnitude_masks([torch.tensor([3.0, -1.0, 1.0, 0.5])], k=2)
    >>> mask.unpack()  # of the two ones the first is kept
    tensor([ True,  True, False, False])
    """
    weights, criterion = _collect(tensors, scores, writing=False)
    given = _given(weights, masks)
    return _masks(weights, criterion, given, sparsity, k, scope=scope, largest=largest, nan=nan, zero=False)


@operation
def prune_(
    tensors: Iterable[Tensor],
    *,
    sparsity: float | Sequence[float] | None = None,
    k: int | Sequence[int] | None = None,
    scope: Scope = "global",
    masks: Iterable[BitMask] | None = None,
    scores: Iterable[Tensor] | None = None,
    nan: Nan = "error",
) -> list[BitMask]:
    """Prune in place: the masks of `magnitude_masks`, and +0 where they prune, in two passes over the weights.

    The version counters of the tensors are raised, so a backward pass through a value from before fails; parameters that
    require gradients need no `no_grad`.

    Args, Returns, Raises: as `magnitude_masks`; tensors must not overlap in memory. On CUDA the call waits for the device.

    >>> import torch
    >>> weight = torch.tensor([3.0, -1.0, 2.0, 0.5])
    >>> masks = prune_([weight], sparsity=0.5)
    >>> weight
    tensor([3., 0., 2., 0.])
    """
    weights, criterion = _collect(tensors, scores, writing=True)
    given = _given(weights, masks)
    chosen = _masks(weights, criterion, given, sparsity, k, scope=scope, largest=False, nan=nan, zero=scores is None)
    if scores is not None:
        _apply(weights, weights.distinct(chosen, "masks"))
    announce(weights.unique)
    return chosen


@operation
def apply_masks_(tensors: Iterable[Tensor], masks: Iterable[BitMask]) -> None:
    """Write +0 where a mask prunes. On CUDA it does not wait for the device, and can be captured in a CUDA graph.

    Args:
        tensors: as in `magnitude_masks`, without overlap in memory.
        masks: one for each tensor, of its shape, on its device.

    Raises:
        TypeError, ValueError: the arguments are not that. Nothing was changed.

    >>> import torch
    >>> weight = torch.tensor([3.0, -1.0])
    >>> apply_masks_([weight], [BitMask.pack(torch.tensor([True, False]))])
    >>> weight
    tensor([3., 0.])
    """
    weights = collect(tensors, writing=True)
    given = _given(weights, masks)
    assert given is not None
    _apply(weights, given)
    announce(weights.unique)


def density(tensors: Iterable[Tensor]) -> float:
    """Share of the elements that are not zero, tied tensors counted once; 1.0 of nothing. On CUDA it waits for the device.

    >>> import torch
    >>> density([torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])])
    0.25
    """
    weights = collect(tensors)
    return sum(map(_ops.count_nonzero, weights.unique)) / weights.numel if weights.numel else 1.0


def _collect(
    tensors: Iterable[Tensor], scores: Iterable[Tensor] | None, *, writing: bool
) -> tuple[Weights, list[Tensor]]:
    """The tensors, and what their magnitudes are taken from, one for each distinct tensor."""
    weights = collect(tensors, writing=writing)
    if scores is None:
        return weights, [_readable(tensor) for tensor in weights.unique]
    criterion = weights.distinct(scores, "scores")
    collect(criterion, "scores")
    for tensor, score, name in zip(weights.unique, criterion, weights.names, strict=True):
        if score.shape != tensor.shape or score.device != tensor.device:
            raise ValueError(
                f"Expected scores of shape {tuple(tensor.shape)} on {tensor.device} for {name}, "
                f"got {tuple(score.shape)} on {score.device}."
            )
    return weights, [_readable(score) for score in criterion]


def _readable(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous() if overlaps_itself(tensor) else tensor


def _given(weights: Weights, masks: Iterable[BitMask] | None) -> list[BitMask] | None:
    if masks is None:
        return None
    given = weights.distinct(masks, "masks")
    for tensor, mask, name in zip(weights.unique, given, weights.names, strict=True):
        if not isinstance(mask, BitMask):
            raise TypeError(f"Expected a BitMask for {name}, got {type(mask).__name__}.")
        if mask.shape != tuple(tensor.shape) or mask.device != tensor.device:
            raise ValueError(
                f"Expected a mask of shape {tuple(tensor.shape)} on {tensor.device} for {name}, "
                f"got {mask.shape} on {mask.device}."
            )
    return given


def _pruned(given: Sequence[BitMask] | None) -> int:
    return sum(mask.numel - mask.count() for mask in given or ())


def _to_remove(n: int, pruned: int, sparsity: float | None, k: int | None) -> int:
    """How many of what is kept yet are to go."""
    wanted = _wanted(n, sparsity, k)
    if wanted < pruned:
        raise ValueError(
            f"Expected to prune at least the {pruned} weights that `masks` prunes already, got {wanted}: "
            "pass `largest=True` to regrow."
        )
    return wanted - pruned


def _to_regrow(n: int, pruned: int, sparsity: float | None, k: int | None) -> int:
    """How many of what is pruned are to be kept again."""
    wanted = pruned - _wanted(n, sparsity, None) if k is None else _wanted(n, None, k)
    if not 0 <= wanted <= pruned:
        raise ValueError(f"Expected to regrow between 0 and the {pruned} weights that are pruned, got {wanted}.")
    return wanted


def _wanted(n: int, sparsity: float | None, k: int | None) -> int:
    if (sparsity is None) == (k is None):
        raise ValueError("Expected exactly one of `sparsity` and `k`.")
    if sparsity is not None:
        if isinstance(sparsity, bool) or not isinstance(sparsity, int | float):
            raise TypeError(f"Expected `sparsity` to be a number, got {sparsity!r}.")
        if not 0 <= sparsity <= 1:
            raise ValueError(f"Expected `sparsity` in [0, 1], got {sparsity}.")
        return round(sparsity * n)
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"Expected `k` to be a whole number, got {k!r}.")
    if not 0 <= k <= n:
        raise ValueError(f"Expected `k` in [0, {n}], the number of weights, got {k}.")
    return k


def _each(weights: Weights, value: float | Sequence[float] | None, name: str) -> list[float | None]:
    if value is None or isinstance(value, int | float):
        return [value] * len(weights.unique)
    return list(weights.distinct(value, name))


def _masks(
    weights: Weights,
    criterion: list[Tensor],
    given: list[BitMask] | None,
    sparsity: float | Sequence[float] | None,
    k: int | Sequence[int] | None,
    *,
    scope: Scope,
    largest: bool,
    nan: Nan,
    zero: bool,
) -> list[BitMask]:
    if scope not in ("global", "tensor"):
        raise ValueError(f"Expected `scope` to be 'global' or 'tensor', got {scope!r}.")
    if largest and given is None:
        given = [BitMask.zeros(tensor.shape, tensor.device) for tensor in weights.unique]
    parts = [range(len(weights.unique))] if scope == "global" else [range(i, i + 1) for i in range(len(criterion))]
    wanted: list[tuple[float | None, int | None]]
    if scope == "global":
        wanted = [(sparsity, k)]  # type: ignore[list-item]  # a sequence is refused where it is read
    else:
        wanted = list(zip(_each(weights, sparsity, "sparsity"), _each(weights, k, "k"), strict=True))  # type: ignore[arg-type]
    removes = [
        _remove_of([weights.unique[i] for i in part], None if given is None else [given[i] for i in part], *want, largest)
        for part, want in zip(parts, wanted, strict=True)
    ]
    if len(parts) > 1:  # nothing may be written when a later tensor has a NaN
        for part in parts:
            _look_for_nan(weights, criterion, given, part, nan, largest)
    out = [BitMask.empty(tensor.shape, tensor.device) for tensor in weights.unique]
    for part, remove in zip(parts, removes, strict=True):
        some = Weights([weights.unique[i] for i in part], [weights.names[i] for i in part], list(range(len(part))))
        its = None if given is None else [given[i] for i in part]
        _run(
            some,
            [criterion[i] for i in part],
            its,
            remove,
            nan=nan,
            regrow=largest,
            out=[out[i] for i in part],
            zero=zero,
        )
    return weights.spread(out)


def _remove_of(
    tensors: Sequence[Tensor],
    given: Sequence[BitMask] | None,
    sparsity: float | None,
    k: int | None,
    largest: bool,
) -> int:
    n, pruned = sum(tensor.numel() for tensor in tensors), _pruned(given)
    if largest:
        return pruned - _to_regrow(n, pruned, sparsity, k)
    return _to_remove(n, pruned, sparsity, k)


def _look_for_nan(
    weights: Weights, criterion: list[Tensor], given: list[BitMask] | None, part: range, nan: Nan, largest: bool
) -> None:
    some = Weights([weights.unique[i] for i in part], [weights.names[i] for i in part], list(range(len(part))))
    its = None if given is None else [given[i] for i in part]
    _run(some, [criterion[i] for i in part], its, 0, nan=nan, regrow=largest, out=None)


def _run(
    weights: Weights,
    criterion: Sequence[Tensor],
    given: Sequence[BitMask] | None,
    remove: int,
    *,
    nan: Nan,
    regrow: bool,
    out: Sequence[BitMask] | None,
    zero: bool = False,
) -> int:  # key of the threshold
    if nan not in ("error", "keep"):
        raise ValueError(f"Expected `nan` to be 'error' or 'keep', got {nan!r}.")
    if not criterion:
        return 0
    if not _ops.compiled(criterion[0].device):
        return _run_reference(weights, criterion, given, remove, nan=nan, regrow=regrow, out=out, zero=zero)
    found = _ops.select(
        criterion,
        None if given is None else [mask.words for mask in given],
        None if out is None else [mask.words for mask in out],
        remove=remove,
        regrow=regrow,
        keep_nan=nan == "keep",
        zero=zero,
    )
    if found.nan_array >= 0:
        raise ValueError(_nan_message(weights.names[found.nan_array]))
    if remove > found.numbers:
        raise ValueError(_too_many(remove, found.numbers))
    return found.key


def _run_reference(
    weights: Weights,
    criterion: Sequence[Tensor],
    given: Sequence[BitMask] | None,
    remove: int,
    *,
    nan: Nan,
    regrow: bool,
    out: Sequence[BitMask] | None,
    zero: bool,
) -> int:
    masks = None if given is None else [mask.unpack() for mask in given]
    candidates = masks if masks is None or not regrow else [~mask for mask in masks]
    numbers = 0
    for i, tensor in enumerate(criterion):
        chosen = tensor if candidates is None else tensor[candidates[i]]
        n_nan = int(chosen.isnan().sum())
        if n_nan and nan == "error":
            raise ValueError(_nan_message(weights.names[i]))
        numbers += chosen.numel() - n_nan
    if remove > numbers:
        raise ValueError(_too_many(remove, numbers))
    gone, key = reference.removed(criterion, candidates, remove)
    for i, mask in enumerate(out or ()):
        keep = ~gone[i] if masks is None or regrow else masks[i] & ~gone[i]
        mask.words.copy_(BitMask.pack(keep).words)
        if zero:
            reference.zero_(weights.unique[i], keep)
    return key


def _apply(weights: Weights, masks: Sequence[BitMask]) -> None:
    if weights.unique and not _ops.compiled(weights.unique[0].device):
        for tensor, mask in zip(weights.unique, masks, strict=True):
            reference.zero_(tensor, mask.unpack())
        return
    _ops.apply_masks(weights.unique, [mask.words for mask in masks])


def _value(key: int, criterion: Sequence[Tensor]) -> float:
    """The magnitude that has these bits."""
    if not criterion:
        return 0.0
    tensor = criterion[0]
    if tensor.element_size() == 2:
        return float(torch.tensor(key, dtype=torch.int16).view(tensor.dtype))
    integer, number = FORMATS[tensor.element_size()]
    value: float = struct.unpack(number, struct.pack(integer, key))[0]
    return value if not math.isnan(value) else math.nan


def _nan_message(name: str) -> str:
    return f"Expected numbers, got NaN in {name}: mend the training, or pass nan='keep' to keep what is NaN."


def _too_many(remove: int, numbers: int) -> str:
    return f"Expected to prune at most the {numbers} weights that are not NaN, got {remove}."
