"""Exact selections: tensors that are compared with one another, and what is removed, by a kernel or `reference.py`.

SelectionRequest (what the caller asks for)  ─►  jobs, one for each comparison  ─►  masks of the distinct tensors
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import Tensor

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune import _ops, reference
from lightning_autoarch.prune.counts import as_int, as_number, count_of, one_or_each
from lightning_autoarch.prune.mask import BitMask, unwritten
from lightning_autoarch.prune.memory import readable
from lightning_autoarch.prune.tensors import TensorList, collect, listed

Scope: TypeAlias = Literal["global", "tensor"]
Nan: TypeAlias = Literal["error", "keep"]


@dataclass(frozen=True)
class SelectionRequest:
    """What is to be selected; see `magnitude_masks` for the meaning and `regrow_masks` for `regrow`."""

    sparsity: object = None
    k: object = None
    scope: Scope = "global"
    masks: Iterable[BitMask] | None = None
    scores: Iterable[Tensor] | None = None
    nan: Nan = "error"
    regrow: bool = False

    def __post_init__(self) -> None:
        if self.scope not in ("global", "tensor"):
            raise PruneValueError(f"Expected `scope` to be 'global' or 'tensor', got {self.scope!r}.")
        if self.nan not in ("error", "keep"):
            raise PruneValueError(f"Expected `nan` to be 'error' or 'keep', got {self.nan!r}.")


@dataclass(frozen=True)
class Job:
    """Tensors that are compared with one another (distinct, checked), and what is pruned already."""

    tensors: Sequence[Tensor]
    criterion: Sequence[Tensor]  # whose magnitudes are compared
    names: Sequence[str]  # of the criterion, for errors
    given: Sequence[BitMask] | None
    regrow: bool  # whether the candidates are what `given` prunes, else what it keeps
    nan: Nan
    nan_hint: str

    @property
    def whose(self) -> str:
        """Of which tensor, for errors: " of tensors[3]" where it is alone."""
        return f" of {self.names[0]}" if len(self.names) == 1 else ""

    def only(self, i: int) -> Job:
        """The job of the i-th tensor alone."""
        one = slice(i, i + 1)
        given = None if self.given is None else self.given[one]
        tensors, criterion, names = self.tensors[one], self.criterion[one], self.names[one]
        return replace(self, tensors=tensors, criterion=criterion, names=names, given=given)


def select_masks(weights: TensorList, choice: SelectionRequest, *, zero: bool = False) -> list[BitMask]:
    """Masks of the distinct tensors; with `zero` (and no scores), +0 is written where they prune.

    Raises:
        PruneTypeError, PruneValueError: as `magnitude_masks`. Nothing was written.
    """
    jobs = jobs_of(weights, choice)
    alike = choice.scope == "global"
    amounts = [(choice.sparsity, choice.k)] if alike else _each(weights, choice.sparsity, choice.k)
    removes = [n_removed(job, *amount) for job, amount in zip(jobs, amounts, strict=True)]
    if zero and len(jobs) > 1:  # nothing may be written if a later tensor has a NaN, or too few numbers beside them
        for job, remove in zip(jobs, removes, strict=True):
            run(job, remove if choice.nan == "keep" else 0)
    out = [unwritten(tensor) for tensor in weights.unique]
    masks = iter(out)
    for job, remove in zip(jobs, removes, strict=True):
        run(job, remove, out=[next(masks) for _ in job.tensors], zero=zero)
    return out


def jobs_of(weights: TensorList, choice: SelectionRequest) -> list[Job]:
    """One for all tensors, or one for each, by the scope."""
    criterion = _criterion(weights, choice.scores)
    given = None if choice.masks is None else checked_masks(weights, choice.masks)
    if choice.regrow and given is None:
        given = [BitMask.zeros(tensor.shape, tensor.device) for tensor in weights.unique]
    of_scores = choice.scores is not None and not weights.named
    names = [name.replace("tensors", "scores") for name in weights.names] if of_scores else weights.names
    hint = "" if weights.named else ", or pass nan='keep' to keep what is NaN"
    job = Job(weights.unique, criterion, names, given, choice.regrow, choice.nan, hint)
    return [job] if choice.scope == "global" else [job.only(i) for i in range(len(weights.unique))]


def n_removed(job: Job, sparsity: object, k: object) -> int:
    """How many of the candidates of a job are removed, of a share or a count of all that is to be pruned."""
    pruned = sum(mask.numel - mask.count() for mask in job.given or ())
    n = sum(tensor.numel() for tensor in job.tensors)
    of = f"weights{job.whose}"
    if not job.regrow:
        remove = count_of(n, sparsity, k, of=of)
        if remove < pruned:
            raise PruneValueError(
                f"Expected to prune at least the {pruned} {of} that `masks` prunes already, got {remove}: "
                "use `regrow_masks` to keep more."
            )
        return remove - pruned
    regrown = count_of(n, None, k, of=of) if sparsity is None else pruned - count_of(n, sparsity, k, of=of)
    if not 0 <= regrown <= pruned:
        raise PruneValueError(f"Expected to regrow between 0 and the {pruned} {of} that are pruned, got {regrown}.")
    return pruned - regrown


def checked_masks(weights: TensorList, masks: Iterable[BitMask]) -> list[BitMask]:
    """The masks of the distinct tensors: one for each tensor, of its shape and on its device."""
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


def run(job: Job, remove: int, *, out: Sequence[BitMask] | None = None, zero: bool = False) -> int:
    """Remove the `remove` smallest candidates: write the masks `out`, and +0 to the tensors with `zero`.

    Returns:
        Bits of the largest magnitude that was removed; 0 when none was.

    Raises:
        PruneValueError: a NaN among the candidates, or more to remove than there are numbers. Nothing was written.
    """
    if not job.criterion:
        return 0
    if not _ops.compiled(job.criterion[0].device):
        return _run_reference(job, remove, out=out, zero=zero)
    found = _ops.select(
        job.criterion,
        None if job.given is None else [mask.words for mask in job.given],
        None if out is None else [mask.words for mask in out],
        remove=remove,
        regrow=job.regrow,
        keep_nan=job.nan == "keep",
        zero=zero,
    )
    if found.nan_array >= 0:
        raise PruneValueError(_nan_message(job, found.nan_array))
    if remove > found.numbers:
        raise PruneValueError(_too_many(remove, found.numbers, job))
    return found.key


def _run_reference(job: Job, remove: int, *, out: Sequence[BitMask] | None, zero: bool) -> int:
    masks = None if job.given is None else [mask.unpack() for mask in job.given]
    candidates = masks if masks is None or not job.regrow else [~mask for mask in masks]
    numbers = 0
    for i, tensor in enumerate(job.criterion):
        chosen = tensor if candidates is None else tensor[candidates[i]]
        n_nan = int(chosen.isnan().sum())
        if n_nan and job.nan == "error":
            raise PruneValueError(_nan_message(job, i))
        numbers += chosen.numel() - n_nan
    if remove > numbers:
        raise PruneValueError(_too_many(remove, numbers, job))
    gone, key = reference.removed(job.criterion, candidates, remove)
    for i, mask in enumerate(out or ()):
        keep = ~gone[i] if masks is None or job.regrow else masks[i] & ~gone[i]
        mask.words.copy_(BitMask.pack(keep).words)
        if zero:
            reference.zero_(job.tensors[i], keep)
    return key


def _nan_message(job: Job, i: int) -> str:
    return f"Expected numbers, got NaN in {job.names[i]}: the training has diverged{job.nan_hint}."


def _too_many(remove: int, numbers: int, job: Job) -> str:
    return f"Expected to remove at most the {numbers} weights{job.whose} that are not NaN, got {remove}."


def _criterion(weights: TensorList, scores: Iterable[Tensor] | None) -> list[Tensor]:
    """The tensors whose magnitudes are compared, one for each distinct tensor."""
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


def _each(weights: TensorList, sparsity: object, k: object) -> list[tuple[float | None, int | None]]:
    """Sparsity and k of each distinct tensor."""
    nothing = [None] * len(weights.unique)
    sparsities = nothing if sparsity is None else one_or_each(weights, sparsity, "sparsity", as_number)
    ks = nothing if k is None else one_or_each(weights, k, "k", as_int)
    return list(zip(sparsities, ks, strict=True))


def _no_mask(item: object, i: int) -> PruneTypeError:
    hint = ": pass `BitMask.pack(mask.bool())`" if isinstance(item, Tensor) else ""
    return PruneTypeError(f"Expected a BitMask for tensors[{i}], got {type(item).__name__}{hint}.")
