"""Every operation against `reference.py` on lists that hypothesis makes up: dtypes, shapes, strides, ties."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weight_lists import NAN, distinct, few_values, generator, same_bits, tensor_lists, twins

from lightning_autoarch.prune import (
    BitMask,
    apply_masks_,
    count_nonzero,
    density,
    group_masks,
    group_norms,
    group_soft_threshold_,
    magnitude_masks,
    magnitude_threshold,
    nm_masks,
    prune_,
    reference,
    regrow_masks,
    soft_threshold_,
)

fuzz = settings(max_examples=150)
AMOUNTS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1e-40, 1e30]) | st.floats(0, 1e38)


def drawn_masks(draw: st.DrawFn, tensors: list[Tensor]) -> list[Tensor]:
    """Boolean, equal for tied tensors."""
    share, seed = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])), draw(st.integers(0, 2**31))
    source = generator(seed)
    made = {id(t): torch.rand(t.shape, generator=source) < share for t in tensors}
    return [made[id(t)] for t in tensors]


@st.composite
def selections(draw: st.DrawFn) -> dict[str, Any]:
    """A list with masks, scores, NaN and a number to remove; `candidates` are what may be removed."""
    tensors = draw(tensor_lists())
    criterion = tensors
    scores = None
    if draw(st.booleans()):
        made = {id(t): few_values(*t.shape, dtype=torch.float32, seed=draw(st.integers(0, 99))) for t in tensors}
        scores = criterion = [made[id(t)] for t in tensors]
    keep = drawn_masks(draw, tensors) if draw(st.booleans()) else None
    regrow = draw(st.booleans()) if keep is not None else False
    with_nan = draw(st.booleans())
    for tensor in criterion if with_nan else []:
        if tensor.numel():
            index = draw(st.integers(0, tensor.numel() - 1))
            tensor[torch.unravel_index(torch.tensor(index), tensor.shape)] = NAN
    return {
        "tensors": tensors, "scores": scores, "criterion": criterion, "keep": keep, "regrow": regrow,
        "nan": "keep" if with_nan else "error", "threads": draw(st.sampled_from([1, 2, 3])),
        "share": draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1)),
    }  # fmt: skip


@fuzz
@given(selections())
def test_selection(case: dict[str, Any]) -> None:
    tensors, criterion, keep, regrow = case["tensors"], case["criterion"], case["keep"], case["regrow"]
    one_each = distinct(tensors)
    places = [next(i for i, t in enumerate(tensors) if t is one) for one in one_each]
    scores = [criterion[i] for i in places]
    given_keep = None if keep is None else [keep[i] for i in places]
    candidates = given_keep if not regrow or given_keep is None else [~k for k in given_keep]
    allowed = candidates or [torch.ones(t.shape, dtype=torch.bool) for t in one_each]
    numbers = sum(int((a & ~s.isnan()).sum()) for a, s in zip(allowed, scores, strict=True))
    n_candidates = sum(int(a.sum()) for a in allowed)
    n = sum(t.numel() for t in one_each)
    remove = round(case["share"] * numbers)
    gone = reference.removed(scores, candidates, remove)[0] if one_each else []
    if regrow:
        expected = [k | (a & ~g) for k, a, g in zip(given_keep or [], allowed, gone, strict=True)]
    else:
        expected = [a & ~g for a, g in zip(allowed, gone, strict=True)]

    options: dict[str, Any] = {"nan": case["nan"], "scores": case["scores"]}
    options["masks"] = None if keep is None else [BitMask.pack(k) for k in keep]
    options["k"] = n_candidates - remove if regrow else n - n_candidates + remove
    torch.set_num_threads(case["threads"])
    try:
        masks = (regrow_masks if regrow else magnitude_masks)(tensors, **options)
        pruned = twins(tensors)
        again = None if regrow else prune_(pruned, **options)
        threshold = None if regrow else magnitude_threshold(tensors, **options)
    finally:
        torch.set_num_threads(1)

    assert [masks[i] for i in places] == [BitMask.pack(e) for e in expected]
    assert all(masks[i] is masks[j] for i, a in enumerate(tensors) for j, b in enumerate(tensors) if a is b)
    if not regrow:
        assert again == masks
        for tensor, old, mask in zip(pruned, tensors, masks, strict=True):
            assert same_bits(tensor, torch.where(mask.unpack(), old, torch.zeros_like(old)))
        largest = [s[g].abs().double().max().item() for s, g in zip(scores, gone, strict=True) if g.any()]
        assert threshold == max(largest, default=0.0)


@fuzz
@given(tensor_lists(), st.data())
def test_apply_masks(tensors: list[Tensor], data: st.DataObject) -> None:
    keep = drawn_masks(data.draw, tensors)
    ours, expected = twins(tensors), twins(tensors)
    apply_masks_(ours, [BitMask.pack(k) for k in keep])
    for tensor, k in zip(expected, keep, strict=True):
        reference.zero_(tensor, k)
    assert all(map(same_bits, ours, expected))


@fuzz
@given(tensor_lists(), AMOUNTS)
def test_soft_threshold(tensors: list[Tensor], amount: float) -> None:
    ours, expected = twins(tensors), twins(tensors)
    soft_threshold_(ours, amount)
    for tensor in distinct(expected):
        reference.soft_threshold_(tensor, amount)
    assert all(map(same_bits, ours, expected))


@fuzz
@given(tensor_lists(dim=1), st.sampled_from([1, 2]), AMOUNTS, st.data())
def test_groups(tensors: list[Tensor], p: Any, amount: float, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, min((t.dim() for t in tensors), default=1) - 1))
    for tensor, norms in zip(tensors, group_norms(tensors, p, dim), strict=True):
        assert same_bits(norms, reference.group_norms(tensor, p, dim).to(norms.dtype))
    ours, expected = twins(tensors), twins(tensors)
    group_soft_threshold_(ours, amount, dim)
    for tensor in distinct(expected):
        reference.group_soft_threshold_(tensor, reference.group_norms(tensor, 2, dim), amount, dim)
    assert all(map(same_bits, ours, expected))


@fuzz
@given(tensor_lists(dim=1), st.floats(0, 1), st.data())
def test_group_masks(tensors: list[Tensor], amount: float, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, min((t.dim() for t in tensors), default=1) - 1))
    one_each = distinct(tensors)
    norms = [reference.group_norms(t, 2, dim) for t in one_each]
    remove = round(amount * sum(n.numel() for n in norms))
    gone = reference.removed(norms, None, remove)[0] if norms else []
    masks = group_masks(tensors, amount, dim=dim)
    for tensor, mask in zip(tensors, masks, strict=True):
        keep = ~next(g for t, g in zip(one_each, gone, strict=True) if t is tensor)
        shape = [-1 if d == dim else 1 for d in range(tensor.dim())]
        assert torch.equal(mask.unpack(), keep.view(shape).expand(tensor.shape))


@fuzz
@given(tensor_lists(dim=1), st.integers(1, 64), st.data())
def test_nm(tensors: list[Tensor], m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m))
    dim = data.draw(st.integers(0, min((t.dim() for t in tensors), default=1) - 1))
    repeats = [[m if d == dim else 1 for d in range(t.dim())] for t in tensors]
    tensors = [t.repeat(r).narrow(dim, 0, t.shape[dim] * m) for t, r in zip(tensors, repeats, strict=True)]
    for tensor, mask in zip(tensors, nm_masks(tensors, n, m, dim), strict=True):
        assert torch.equal(mask.unpack(), reference.nm_keep(tensor, n, m, dim))


@settings(max_examples=50)
@given(tensor_lists(dim=2))
def test_transposable(tensors: list[Tensor]) -> None:
    tensors = [t.repeat_interleave(4, -1).repeat_interleave(4, -2) for t in tensors if t.dim() >= 2]
    tensors = [torch.where(few_values(*t.shape).bool(), t, -t.flip(-1)) for t in tensors]
    for tensor, mask in zip(tensors, nm_masks(tensors, transposable=True), strict=True):
        assert torch.equal(mask.unpack(), reference.transposable_keep(tensor))


@fuzz
@given(tensor_lists())
def test_counts(tensors: list[Tensor]) -> None:
    counts = [int(torch.count_nonzero(t)) for t in distinct(tensors)]
    assert list(map(count_nonzero, distinct(tensors))) == counts
    n = sum(t.numel() for t in distinct(tensors))
    assert density(tensors) == (sum(counts) / n if n else 1.0)
