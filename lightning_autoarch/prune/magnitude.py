"""Exact magnitude pruning of a list of tensors: choose the k smallest |w|, write 1-bit masks, zero the weights.

Order: |w| by its bits, among equals the lowest flat index is kept; -0 equals 0, infinity is largest. The result is the
same bits on CPU and GPU, with any number of threads and in any memory format. `csrc/prune.h` is the contract.

    tensors ─► candidates: all, or those that `masks` keeps ─► remove k - (already pruned) of them ─► masks
    regrowth (`largest`):     those that `masks` prunes     ─► keep the k largest of them          ─► masks | kept
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune import _ops, reference
from lightning_autoarch.prune.amounts import one_or_each, real, wanted, whole
from lightning_autoarch.prune.lists import listed
from lightning_autoarch.prune.mask import BitMask, unwritten
from lightning_autoarch.prune.overlap import readable
from lightning_autoarch.prune.selection import Job, Nan, Scope, run
from lightning_autoarch.prune.weights import Weights, collect
from lightning_autoarch.prune.written import announce, operation


@operation
def magnitude_threshold(
    tensors: Iterable[Tensor],
    *,
    sparsity: SupportsFloat | None = None,
    k: SupportsIndex | None = None,
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
    weights = collect(tensors)
    job = _jobs(weights, scores, masks, "global", False)[0]
    return _value(run(job, _remove_of(job, sparsity, k), nan=nan), job.criterion)


@operation
def magnitude_masks(
    tensors: Iterable[Tensor],
    *,
    sparsity: SupportsFloat | Sequence[SupportsFloat] | None = None,
    k: SupportsIndex | Sequence[SupportsIndex] | None = None,
    scope: Scope = "global",
    masks: Iterable[BitMask] | None = None,
    scores: Iterable[Tensor] | None = None,
    largest: bool = False,
    nan: Nan = "error",
) -> list[BitMask]:
    """Masks that prune exactly k weights, those of the smallest magnitude; no weight is changed.

    Args:
        tensors: tensors or parameters of one dtype (float32, float64, bfloat16, float16) on one device. The same
            memory passed twice (same shape and strides) counts once and gets one mask; views that overlap otherwise
            count each, and are refused where weights are written. CPU and CUDA run compiled; others run `reference.py`.
        sparsity: share of the weights that is pruned, in [0, 1]: k = round(sparsity * n). Always of the dense list.
        k: how many are pruned. Exactly one of the two is given. Either may be NumPy's or a 0-dimensional CPU tensor.
        scope: "global" compares all tensors with one another; "tensor" each with itself, then `sparsity` or `k` may be
            one for each tensor.
        masks: what is pruned already. It is among the k and goes first, whatever the weights are.
        scores: compared instead of the tensors by their magnitude, e.g. |w * gradient|: a list, one for each tensor and
            of its shape, of one dtype.
        largest: regrow instead. `k` more weights are kept beside those of `masks` (None: beside none): of what is
            pruned those of the largest magnitude. `sparsity` is what is left pruned.
        nan: "error", or "keep": a NaN is larger than infinity and never pruned.

    Returns:
        One mask for each tensor, on its device.

    Raises:
        PruneTypeError, PruneValueError: the arguments are not that; a NaN (the tensor is named); k is smaller than what
            `masks` prunes already, or larger than what there is to choose from. Nothing was changed.
        TracingError: called inside of `torch.jit.trace`, `make_fx` or `torch.export`.

    On CUDA the call waits for the device.

    >>> import torch
    >>> mask, = magnitude_masks([torch.tensor([3.0, -1.0, 1.0, 0.5])], k=2)
    >>> mask.unpack()  # of the two ones the first is kept
    tensor([ True,  True, False, False])
    """
    weights = collect(tensors)
    jobs = _jobs(weights, scores, masks, scope, largest)
    return weights.spread(_choose(weights, jobs, sparsity, k, scope=scope, nan=nan, zero=False))


@operation
def prune_(
    tensors: Iterable[Tensor],
    *,
    sparsity: SupportsFloat | Sequence[SupportsFloat] | None = None,
    k: SupportsIndex | Sequence[SupportsIndex] | None = None,
    scope: Scope = "global",
    masks: Iterable[BitMask] | None = None,
    scores: Iterable[Tensor] | None = None,
    nan: Nan = "error",
) -> list[BitMask]:
    """Prune in place: the masks of `magnitude_masks`, and +0 where they prune, in two passes over the weights.

    The version counters of the tensors are raised, so a backward pass through a value from before fails. Parameters
    that require gradients need no `no_grad`.

    Memory that may not be written to is not known to torch, nor seen here: a read-only NumPy array that was passed to
    `torch.from_numpy` changes, and a write to a file that is mapped read-only ends the process.

    Args, Returns, Raises: as `magnitude_masks`; tensors must not overlap in memory. On CUDA it waits for the device.

    >>> import torch
    >>> weight = torch.tensor([3.0, -1.0, 2.0, 0.5])
    >>> masks = prune_([weight], sparsity=0.5)
    >>> weight
    tensor([3., 0., 2., 0.])
    """
    weights = collect(tensors, writing=True)
    jobs = _jobs(weights, scores, masks, scope, False)
    chosen = _choose(weights, jobs, sparsity, k, scope=scope, nan=nan, zero=scores is None)
    if scores is not None:
        _apply(weights, chosen)
    announce(weights.passed)
    return weights.spread(chosen)


@operation
def apply_masks_(tensors: Iterable[Tensor], masks: Iterable[BitMask]) -> None:
    """Write +0 where a mask prunes. On CUDA it does not wait for the device, and can be captured in a CUDA graph.

    Args:
        tensors: as in `prune_`, without overlap in memory.
        masks: one for each tensor, of its shape, on its device.

    Raises:
        PruneTypeError, PruneValueError: the arguments are not that. Nothing was changed.

    >>> import torch
    >>> weight = torch.tensor([3.0, -1.0])
    >>> apply_masks_([weight], [BitMask.pack(torch.tensor([True, False]))])
    >>> weight
    tensor([3., 0.])
    """
    weights = collect(tensors, writing=True)
    _apply(weights, _masks(weights, masks))
    announce(weights.passed)


@operation
def _apply_checked(weights: Weights, masks: Sequence[BitMask]) -> None:
    _apply(weights, masks)
    announce(weights.passed)


class MaskApplier:
    """`apply_masks_` of the same tensors and masks again and again, as after every optimizer step.

    All is checked the first time, and again when a tensor has got other memory, dtype or shape.

    >>> import torch
    >>> weight = torch.tensor([3.0, -1.0])
    >>> applier = MaskApplier([weight], [BitMask.pack(torch.tensor([True, False]))])
    >>> for _ in range(2):
    ...     weight += 1
    ...     applier.apply_()
    >>> weight
    tensor([5., 0.])
    """

    def __init__(self, tensors: Iterable[Tensor], masks: Iterable[BitMask]) -> None:
        self._tensors, self._masks = list(tensors), list(masks)
        self._where: list[tuple[object, ...]] = []
        self._checked: tuple[Weights, list[BitMask]] | None = None

    def apply_(self) -> None:
        """Raises: as `apply_masks_`."""
        where: list[tuple[object, ...]] = [(t.data_ptr(), t.dtype, t.shape, t.stride()) for t in self._tensors]
        if self._checked is None or where != self._where:
            weights = collect(self._tensors, writing=True)
            self._checked, self._where = (weights, _masks(weights, self._masks)), where
        _apply_checked(*self._checked)


@operation
def density(tensors: Iterable[Tensor]) -> float:
    """Share of the elements that are not zero, tied tensors counted once; 1.0 of nothing. On CUDA it waits.

    Args, Raises: as `magnitude_masks`.

    >>> import torch
    >>> density([torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])])
    0.25
    """
    weights = collect(tensors)
    return sum(map(_ops.count, weights.unique)) / weights.numel if weights.numel else 1.0


def _jobs(
    weights: Weights,
    scores: Iterable[Tensor] | None,
    masks: Iterable[BitMask] | None,
    scope: Scope,
    regrow: bool,
) -> list[Job]:
    if scope not in ("global", "tensor"):
        raise PruneValueError(f"Expected `scope` to be 'global' or 'tensor', got {scope!r}.")
    criterion, given = _criterion(weights, scores), _given(weights, masks)
    if regrow and given is None:
        given = [BitMask.zeros(tensor.shape, tensor.device) for tensor in weights.unique]
    names = weights.names if scores is None else [name.replace("tensors", "scores") for name in weights.names]
    whole = Job(weights.unique, names, criterion, given, regrow)
    return [whole] if scope == "global" else [whole.only(i) for i in range(len(weights.unique))]


def _criterion(weights: Weights, scores: Iterable[Tensor] | None) -> list[Tensor]:
    """What magnitudes are taken from, one for each distinct tensor."""
    if scores is None:
        return [readable(tensor) for tensor in weights.unique]
    passed = collect(scores, "scores").passed
    criterion = weights.distinct(passed, "scores")
    for tensor, score, name in zip(weights.unique, criterion, weights.names, strict=True):
        if score.shape != tensor.shape or score.device != tensor.device:
            raise PruneValueError(
                f"Expected scores of shape {tuple(tensor.shape)} on {tensor.device} for {name}, "
                f"got {tuple(score.shape)} on {score.device}."
            )
    return [readable(score) for score in criterion]


def _given(weights: Weights, masks: Iterable[BitMask] | None) -> list[BitMask] | None:
    return None if masks is None else _masks(weights, masks)


def _masks(weights: Weights, masks: Iterable[BitMask]) -> list[BitMask]:
    """One for each distinct tensor, of its shape and on its device."""
    passed = listed(masks, "masks", "BitMask")
    for i, mask in enumerate(passed):
        if not isinstance(mask, BitMask):
            raise _no_mask(mask, i)
    given = weights.distinct(passed, "masks")
    for tensor, mask, name in zip(weights.unique, given, weights.names, strict=True):
        if mask.shape != tuple(tensor.shape) or mask.device != tensor.device:
            raise PruneValueError(
                f"Expected a mask of shape {tuple(tensor.shape)} on {tensor.device} for {name}, "
                f"got {mask.shape} on {mask.device}."
            )
    return given


def _no_mask(item: object, i: int) -> PruneTypeError:
    hint = ": pass `BitMask.pack(mask.bool())`" if isinstance(item, Tensor) else ""
    return PruneTypeError(f"Expected a BitMask for tensors[{i}], got {type(item).__name__}{hint}.")


def _choose(
    weights: Weights,
    jobs: Sequence[Job],
    sparsity: object,
    k: object,
    *,
    scope: Scope,
    nan: Nan,
    zero: bool,
) -> list[BitMask]:
    """Masks of the distinct tensors."""
    amounts = [(sparsity, k)] if scope == "global" else _each(weights, sparsity, k)
    removes = [_remove_of(job, *amount) for job, amount in zip(jobs, amounts, strict=True)]
    if zero and len(jobs) > 1:  # nothing may be written when a later tensor has a NaN, or too few numbers beside them
        for job, remove in zip(jobs, removes, strict=True):
            run(job, remove if nan == "keep" else 0, nan=nan)
    out = [unwritten(tensor) for tensor in weights.unique]
    masks = iter(out)
    for job, remove in zip(jobs, removes, strict=True):
        run(job, remove, nan=nan, out=[next(masks) for _ in job.tensors], zero=zero)
    return out


def _remove_of(job: Job, sparsity: object, k: object) -> int:
    """How many of the job's candidates are to go."""
    pruned = sum(mask.numel - mask.count() for mask in job.given or ())
    n = sum(tensor.numel() for tensor in job.tensors)
    of = f"weights{job.whose}"
    if not job.regrow:
        remove = wanted(n, sparsity, k, of=of)
        if remove < pruned:
            raise PruneValueError(
                f"Expected to prune at least the {pruned} {of} that `masks` prunes already, got {remove}: "
                "pass `largest=True` to regrow."
            )
        return remove - pruned
    regrown = wanted(n, None, k, of=of) if sparsity is None else pruned - wanted(n, sparsity, k, of=of)
    if not 0 <= regrown <= pruned:
        raise PruneValueError(f"Expected to regrow between 0 and the {pruned} {of} that are pruned, got {regrown}.")
    return pruned - regrown


def _each(weights: Weights, sparsity: object, k: object) -> list[tuple[float | None, int | None]]:
    """Both for each distinct tensor."""
    nothing = [None] * len(weights.unique)
    sparsities = nothing if sparsity is None else one_or_each(weights, sparsity, "sparsity", real)
    ks = nothing if k is None else one_or_each(weights, k, "k", whole)
    return list(zip(sparsities, ks, strict=True))


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
    bits = torch.tensor(key, dtype=reference.INTEGERS[criterion[0].element_size()], device="cpu")
    return float(bits.view(criterion[0].dtype))
