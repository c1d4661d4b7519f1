"""One exact selection: some tensors that are compared with one another, compiled or by `reference.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune import _ops, reference
from lightning_autoarch.prune.mask import BitMask

Scope: TypeAlias = Literal["global", "tensor"]
Nan: TypeAlias = Literal["error", "keep"]


@dataclass(frozen=True)
class Job:
    """Tensors (distinct, checked), what their magnitudes are taken from, and what is pruned already."""

    tensors: Sequence[Tensor]
    names: Sequence[str]
    criterion: Sequence[Tensor]
    given: Sequence[BitMask] | None
    regrow: bool  # the candidates are what `given` prunes, else what it keeps

    @property
    def whose(self) -> str:
        """Of which tensor, for errors: " of tensors[3]" where it is one by itself."""
        return f" of {self.names[0]}" if len(self.names) == 1 else ""

    def only(self, i: int) -> Job:
        """The i-th tensor by itself."""
        given = None if self.given is None else self.given[i : i + 1]
        return Job(self.tensors[i : i + 1], self.names[i : i + 1], self.criterion[i : i + 1], given, self.regrow)


def run(job: Job, remove: int, *, nan: Nan, out: Sequence[BitMask] | None = None, zero: bool = False) -> int:
    """Remove the `remove` smallest candidates: write the masks `out`, and +0 to the tensors with `zero`.

    Returns:
        Bits of the largest magnitude that was removed; 0 when none was.

    Raises:
        PruneValueError: a NaN among the candidates, or more to remove than there are numbers. Nothing was written.
    """
    if nan not in ("error", "keep"):
        raise PruneValueError(f"Expected `nan` to be 'error' or 'keep', got {nan!r}.")
    if not job.criterion:
        return 0
    if not _ops.compiled(job.criterion[0].device):
        return _run_reference(job, remove, nan=nan, out=out, zero=zero)
    found = _ops.select(
        job.criterion,
        None if job.given is None else [mask.words for mask in job.given],
        None if out is None else [mask.words for mask in out],
        remove=remove,
        regrow=job.regrow,
        keep_nan=nan == "keep",
        zero=zero,
    )
    if found.nan_array >= 0:
        raise PruneValueError(_nan_message(job.names[found.nan_array]))
    if remove > found.numbers:
        raise PruneValueError(_too_many(remove, found.numbers, job))
    return found.key


def _run_reference(job: Job, remove: int, *, nan: Nan, out: Sequence[BitMask] | None, zero: bool) -> int:
    masks = None if job.given is None else [mask.unpack() for mask in job.given]
    candidates = masks if masks is None or not job.regrow else [~mask for mask in masks]
    numbers = 0
    for i, (tensor, name) in enumerate(zip(job.criterion, job.names, strict=True)):
        chosen = tensor if candidates is None else tensor[candidates[i]]
        n_nan = int(chosen.isnan().sum())
        if n_nan and nan == "error":
            raise PruneValueError(_nan_message(name))
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


def _nan_message(name: str) -> str:
    return f"Expected numbers, got NaN in {name}: mend the training, or pass nan='keep' to keep what is NaN."


def _too_many(remove: int, numbers: int, job: Job) -> str:
    return f"Expected to remove at most the {numbers} weights{job.whose} that are not NaN, got {remove}."
