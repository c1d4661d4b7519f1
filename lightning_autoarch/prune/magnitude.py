"""Exact magnitude pruning of a list of tensors: choose the k smallest |w|, write 1-bit masks, zero the weights.

Magnitudes are ordered by their bits. Among equal ones, the lowest flat index is kept; -0 equals 0; infinity is the
largest. The result has the same bits on CPU and GPU, with any number of threads and in any memory format.
`csrc/prune.h` is the contract.

    magnitude_masks   candidates: all, or those that `masks` keeps ─► remove k - (already pruned) of them ─► masks
    regrow_masks      candidates: those that `masks` prunes        ─► keep the k largest of them   ─► masks | kept
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsFloat, SupportsIndex, TypeAlias

import torch
from torch import Tensor

from lightning_autoarch.prune import _ops, reference
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.operation import announce, operation
from lightning_autoarch.prune.selection import (
    Nan,
    Scope,
    SelectionRequest,
    checked_masks,
    jobs_of,
    n_removed,
    run,
    select_masks,
)
from lightning_autoarch.prune.tensors import TensorList, collect

Share: TypeAlias = SupportsFloat | Sequence[SupportsFloat]
Count: TypeAlias = SupportsIndex | Sequence[SupportsIndex]


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
    """The k-th smallest magnitude: the largest that is removed when all tensors are pruned together.

    Every |w| below it is removed and every one above it is kept; of those equal to it, the highest indices are removed.
    It is 0.0 if nothing is removed, or nothing but what `masks` already prunes.

    Args, Raises: as `magnitude_masks`. On CUDA the call waits for the device.

    >>> import torch
    >>> magnitude_threshold([torch.tensor([3.0, -1.0, 2.0, 0.5])], sparsity=0.5)
    1.0
    """
    (job,) = jobs_of(collect(tensors), SelectionRequest(sparsity, k, "global", masks, scores, nan))
    return _value(run(job, n_removed(job, sparsity, k)), job.criterion)


@operation
def magnitude_masks(
    tensors: Iterable[Tensor],
    *,
    sparsity: Share | None = None,
    k: Count | None = None,
    scope: Scope = "global",
    masks: Iterable[BitMask] | None = None,
    scores: Iterable[Tensor] | None = None,
    nan: Nan = "error",
) -> list[BitMask]:
    """Masks that prune exactly k weights, those of the smallest magnitude; no weight is changed.

    Args:
        tensors: tensors or parameters of one dtype (float32, float64, bfloat16, float16) on one device. The same
            memory passed twice (same shape and strides) counts once and gets one mask. Views that overlap otherwise
            count separately, and are refused where weights are written. On CPU and CUDA kernels run, and
            `reference.py` on other devices.
        sparsity: share of the weights that is pruned, in [0, 1]: k = round(sparsity * n), always of the dense list.
        k: how many weights are pruned. Exactly one of `sparsity` and `k` is given, as a number of Python or NumPy or a
            CPU tensor without dimensions.
        scope: "global", the default, compares all tensors with one another; "tensor" compares each with itself, and
            `sparsity` or `k` may then be one number for each tensor.
        masks: what is pruned already. It is among the k, whatever the weights are.
        scores: compared by magnitude in place of the tensors, such as |w * gradient|: one for each tensor and of its
            shape, of one dtype.
        nan: "error", the default, or "keep": a NaN is larger than infinity and never pruned.

    Returns:
        One mask for each tensor, on its device.

    Raises:
        PruneTypeError: an argument has the wrong type.
        PruneValueError: an argument is out of range, there is a NaN (the tensor is named), or k is less than `masks`
            already prunes. Nothing was changed.
        TracingError: called inside of `torch.jit.trace`, `make_fx` or `torch.export`.

    On CUDA the call waits for the device.

    >>> import torch
    >>> mask, = magnitude_masks([torch.tensor([3.0, -1.0, 1.0, 0.5])], k=2)
    >>> mask.unpack()  # of the two ones, the first is kept
    tensor([ True,  True, False, False])
    """
    weights = collect(tensors)
    return weights.spread(select_masks(weights, SelectionRequest(sparsity, k, scope, masks, scores, nan)))


@operation
def named_masks(tensors: Sequence[Tensor], names: Sequence[str], choice: SelectionRequest) -> list[BitMask]:
    """`magnitude_masks` or `regrow_masks` of named parameters, whose names are in the errors."""
    weights = collect(tensors, names=names)
    return weights.spread(select_masks(weights, choice))


@operation
def regrow_masks(
    tensors: Iterable[Tensor],
    masks: Iterable[BitMask] | None = None,
    *,
    k: Count | None = None,
    sparsity: Share | None = None,
    scores: Iterable[Tensor] | None = None,
    scope: Scope = "global",
    nan: Nan = "error",
) -> list[BitMask]:
    """Masks that keep k weights more than `masks` does: of those it prunes, the k of the largest magnitude.

    Args:
        tensors: as in `magnitude_masks`.
        masks: what is pruned. None: everything.
        k: how many weights are regrown, in [0, the number that is pruned].
        sparsity: the share of the dense weights that remains pruned, in place of `k`.
        scores, scope, nan: as in `magnitude_masks`.

    Returns, Raises: as `magnitude_masks`. On CUDA the call waits for the device.

    >>> import torch
    >>> mask, = regrow_masks([torch.tensor([3.0, -1.0, 2.0])], [BitMask.pack(torch.tensor([False, True, False]))], k=1)
    >>> mask.unpack()
    tensor([ True,  True, False])
    """
    weights = collect(tensors)
    return weights.spread(select_masks(weights, SelectionRequest(sparsity, k, scope, masks, scores, nan, regrow=True)))


@operation
def prune_(
    tensors: Iterable[Tensor],
    *,
    sparsity: Share | None = None,
    k: Count | None = None,
    masks: Iterable[BitMask] | None = None,
    scores: Iterable[Tensor] | None = None,
    scope: Scope = "global",
    nan: Nan = "error",
) -> list[BitMask]:
    """Prune in place: compute the masks of `magnitude_masks` and write +0 where they prune, in two passes over memory.

    The version counters of the tensors are incremented, so that a backward pass through an old value fails. Parameters
    that require gradients need no `torch.no_grad`.

    Neither torch nor this function knows of read-only memory: a read-only NumPy array that was passed to
    `torch.from_numpy` is changed, and a write to a file that is mapped read-only ends the process.

    Args, Returns, Raises: as `magnitude_masks`; tensors must not overlap in memory. On CUDA it waits for the device.

    >>> import torch
    >>> weight = torch.tensor([3.0, -1.0, 2.0, 0.5])
    >>> masks = prune_([weight], sparsity=0.5)
    >>> weight
    tensor([3., 0., 2., 0.])
    """
    weights = collect(tensors, writing=True)
    chosen = select_masks(weights, SelectionRequest(sparsity, k, scope, masks, scores, nan), zero=scores is None)
    if scores is not None:
        _apply(weights, chosen)
    announce(weights.passed)
    return weights.spread(chosen)


@operation
def apply_masks_(tensors: Iterable[Tensor], masks: Iterable[BitMask]) -> None:
    """Write +0 where a mask prunes. On CUDA it does not wait for the device, and can be captured in a CUDA graph.

    Args:
        tensors: as in `prune_`, not overlapping in memory.
        masks: one for each tensor, of its shape and on its device.

    Raises:
        PruneTypeError, PruneValueError: the arguments are anything else. Nothing was changed.

    >>> import torch
    >>> weight = torch.tensor([3.0, -1.0])
    >>> apply_masks_([weight], [BitMask.pack(torch.tensor([True, False]))])
    >>> weight
    tensor([3., 0.])
    """
    weights = collect(tensors, writing=True)
    _apply(weights, checked_masks(weights, masks))
    announce(weights.passed)


@operation
def _apply_checked(weights: TensorList, masks: Sequence[BitMask]) -> None:
    _apply(weights, masks)
    announce(weights.passed)


class MaskApplier:
    """`apply_masks_` for the same tensors and masks again and again, as after every optimizer step.

    Everything is checked the first time, and again if a tensor has other memory, another dtype or another shape.

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
        self._checked: tuple[TensorList, list[BitMask]] | None = None

    def apply_(self) -> None:
        """Raises: as `apply_masks_`."""
        where: list[tuple[object, ...]] = [(t.data_ptr(), t.dtype, t.shape, t.stride()) for t in self._tensors]
        if self._checked is None or where != self._where:
            weights = collect(self._tensors, writing=True)
            self._checked, self._where = (weights, checked_masks(weights, self._masks)), where
        _apply_checked(*self._checked)


@operation
def density(tensors: Iterable[Tensor]) -> float:
    """Share of the elements that are not zero, with tied tensors counted once; 1.0 for no elements.

    Args, Raises: as `magnitude_masks`. On CUDA the call waits for the device.

    >>> import torch
    >>> density([torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])])
    0.25
    """
    weights = collect(tensors)
    return sum(map(_ops.count, weights.unique)) / weights.numel if weights.numel else 1.0


def _apply(weights: TensorList, masks: Sequence[BitMask]) -> None:
    if weights.unique and not _ops.compiled(weights.unique[0].device):
        for tensor, mask in zip(weights.unique, masks, strict=True):
            reference.zero_(tensor, mask.unpack())
        return
    _ops.apply_masks(weights.unique, [mask.words for mask in masks])


def _value(key: int, criterion: Sequence[Tensor]) -> float:
    """The magnitude with these bits."""
    if not criterion:
        return 0.0
    bits = torch.tensor(key, dtype=reference.INTEGERS[criterion[0].element_size()], device="cpu")
    return float(bits.view(criterion[0].dtype))
