"""Every compiled operation on the CPU against its few lines of plain torch, in the instruction set that runs.

`python every_operation.py` prints the instruction set and a digest of all results, or raises.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_autoarch.prune import (
    BitMask,
    _ops,
    apply_masks_,
    density,
    group_norms,
    group_soft_threshold_,
    magnitude_masks,
    nm_masks,
    prune_,
    reference,
    regrow_masks,
    soft_threshold_,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = (1, 64, 65, 5000, 70_000)  # two of the last are sampled, and go through whole batches


def tensors(dtype: torch.dtype) -> Iterator[list[Tensor]]:
    """Two of each size: normal numbers, and few distinct ones with zeros of both signs, infinities and denormals."""
    generator = torch.Generator().manual_seed(0)
    smallest = torch.finfo(dtype).smallest_normal / 2
    few = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0, torch.inf, smallest], dtype=dtype)
    for n in SIZES:
        yield [
            torch.randn(n, generator=generator).to(dtype),
            few[torch.randint(len(few), (n,), generator=generator)],
        ]


def expect(right: bool, what: str, dtype: torch.dtype, n: int) -> None:
    if not right:
        raise AssertionError(f"{what} differs from plain torch at n = {n}, {dtype}, {_ops.instruction_set()}")


def same(a: Tensor, b: Tensor) -> bool:
    width = reference.INTEGERS[a.element_size()]
    return torch.equal(a.view(width), b.view(width))


def check(dtype: torch.dtype, seen: hashlib._Hash) -> None:
    for pair in tensors(dtype):
        n = pair[0].numel()
        for share in (0.5, 1.0):
            k = round(share * 2 * n)
            gone, _ = reference.removed(pair, None, k)
            work = [tensor.clone() for tensor in pair]
            masks = prune_(work, k=k)
            expect([m.unpack().tolist() for m in masks] == [(~g).tolist() for g in gone], "prune_", dtype, n)
            expect(all(same(w, t.masked_fill(g, 0)) for w, t, g in zip(work, pair, gone, strict=True)), "0", dtype, n)
            nonzero = sum(int(w.count_nonzero()) for w in work)
            expect(round(density(work) * 2 * n) == nonzero, "density", dtype, n)
            expect(sum(mask.count() for mask in masks) == 2 * n - k, "count", dtype, n)
            further = magnitude_masks(pair, k=k + (2 * n - k) // 2, masks=masks)
            expected, _ = reference.removed(pair, [~g for g in gone], (2 * n - k) // 2)
            keep = [~g & ~e for g, e in zip(gone, expected, strict=True)]
            expect(further == [BitMask.pack(each) for each in keep], "masks of masks", dtype, n)
            regrown = regrow_masks(pair, k=k // 2, masks=masks)
            lost, _ = reference.removed(pair, gone, k - k // 2)
            expect(regrown == [BitMask.pack(~each) for each in lost], "regrowth", dtype, n)
            applied = [tensor.clone() for tensor in pair]
            apply_masks_(applied, further)
            zeroed = [t.masked_fill(~each, 0) for t, each in zip(pair, keep, strict=True)]
            expect(all(same(a, z) for a, z in zip(applied, zeroed, strict=True)), "apply_masks_", dtype, n)
            for mask in (*masks, *further, *regrown):
                seen.update(bytes(mask.words.numpy()))
        others(pair[0], dtype, n, seen)


def others(tensor: Tensor, dtype: torch.dtype, n: int, seen: hashlib._Hash) -> None:
    """What is not selected by rank."""
    if n % 4 == 0:
        (mask,) = nm_masks([tensor.view(-1, 4)], 2, 4)
        expect(mask.unpack().equal(reference.nm_keep(tensor.view(-1, 4), 2, 4, 1)), "nm_masks", dtype, n)
        seen.update(bytes(mask.words.numpy()))
    ours, theirs = tensor.clone(), tensor.clone()
    soft_threshold_([ours], 0.25)
    reference.soft_threshold_(theirs, 0.25)
    expect(same(ours, theirs), "soft_threshold_", dtype, n)
    rows = tensor[: n // 2 * 2].view(2, -1)
    if rows.numel():
        norms = group_norms([rows])[0]
        expect(norms.equal(reference.group_norms(rows, 2, 0).to(norms.dtype)), "group_norms", dtype, n)
        ours, theirs = rows.clone(), rows.clone()
        group_soft_threshold_([ours], 0.5)
        reference.group_soft_threshold_(theirs, reference.group_norms(rows, 2, 0), 0.5, 0)
        expect(same(ours, theirs), "group_soft_threshold_", dtype, n)


def main() -> None:
    seen = hashlib.blake2b(digest_size=16)
    for dtype in DTYPES:
        check(dtype, seen)
    sys.stdout.write(f"{_ops.instruction_set()} {seen.hexdigest()}\n")


if __name__ == "__main__":
    main()
