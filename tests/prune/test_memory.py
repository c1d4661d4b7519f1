"""Memory that is not what it seems: freed, fake, shared, changed by others. An error or the answer, never a crash."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_autoarch.prune import (
    BitMask,
    apply_masks_,
    group_masks,
    group_soft_threshold_,
    magnitude_masks,
    magnitude_threshold,
    nm_masks,
    prune_,
    soft_threshold_,
)


@pytest.mark.parametrize("freed", [0, 16])
@pytest.mark.parametrize("start", [0, 1])
def test_a_storage_that_was_freed(freed: int, start: int) -> None:
    weight = torch.ones(64, 64)[start:]
    weight.untyped_storage().resize_(freed)
    with pytest.raises(ValueError, match=r"`tensors\[1\]` to lie inside its storage"):
        prune_([torch.ones(3), weight], k=1)


def test_nothing_is_written_when_a_later_tensor_is_wrong() -> None:
    good, bad = torch.ones(2, 4), torch.ones(2, 4)
    bad.untyped_storage().resize_(0)
    for operation in (lambda: group_soft_threshold_([good, bad], 0.5), lambda: soft_threshold_([good, bad], 0.5)):
        with pytest.raises(ValueError, match=r"tensors\[1\]"):
            operation()
    assert (good == 1).all() and good._version == 0


def test_what_is_allocated_under_a_fake_mode_is_not_written_to() -> None:
    weight = torch.randn(4, 4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for operation in (prune_, magnitude_masks):
            with pytest.raises(TypeError, match="Expected real memory, got FakeTensor"):
                operation([weight], k=2)
        with pytest.raises(TypeError, match="Expected real memory, got FakeTensor"):
            nm_masks([weight])


def test_a_default_device_without_values() -> None:
    weight = torch.arange(1.0, 7.0).view(3, 2)
    with torch.device("meta"):
        assert magnitude_threshold([weight], k=1) == 1.0
        with pytest.raises(ValueError, match="memory of their own"):
            soft_threshold_([weight[:, :1], weight[1:]], 0.5)


@pytest.mark.parametrize(
    "write",
    [
        lambda tensors: prune_(tensors, k=2),
        lambda tensors: apply_masks_(tensors, [BitMask.zeros((4,))] * 2),
        lambda tensors: soft_threshold_(tensors, 0.5),
        lambda tensors: group_soft_threshold_(tensors, 0.5),
    ],
)
def test_every_tied_parameter_tells_autograd(write) -> None:  # type: ignore[no-untyped-def]
    first = torch.nn.Parameter(torch.tensor([3.0, 1.0, 2.0, 0.5]))
    second = torch.nn.Parameter(first.data)
    loss = (second**2).sum()
    write([first, second])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_weights_that_another_thread_writes_end_the_call() -> None:
    weight, stop = torch.ones(1 << 18), threading.Event()

    def write() -> None:
        value = 1.0
        while not stop.is_set():
            weight.fill_(value)
            value = 1001.0 - value

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            try:
                magnitude_masks([weight], k=1 << 17)
            except RuntimeError as error:
                assert "changed by somebody else" in str(error)  # noqa: PT017  # either outcome is right
    finally:
        stop.set()
        writer.join()


def test_a_mask_is_a_value() -> None:
    words = torch.full((8,), 255, dtype=torch.uint8)
    mask = BitMask((64,), words)
    digest = mask.digest()
    words.zero_()
    mask.state()["words"].zero_()
    assert mask.count() == 64 and mask.digest() == digest


class TestNorms:
    def test_slices_are_chosen_by_norms_that_are_not_rounded(self) -> None:
        assert group_masks([torch.tensor([[1.0, 0.0], [1.0, 1e-4]])], k=1)[0].unpack().tolist() == [
            [False] * 2,
            [True] * 2,
        ]
        big = torch.tensor([[3e38, 3e38], [2e38, 2e38]])
        assert group_masks([big], k=1, p=1)[0].unpack().tolist() == [[True] * 2, [False] * 2]

    def test_an_amount_of_0_changes_nothing(self) -> None:
        weight = torch.tensor([[1e-200, 2e-200], [1.0, 1.0]], dtype=torch.float64)
        before = weight.clone()
        group_soft_threshold_([weight], 0.0)
        assert torch.equal(weight, before)


def test_a_nan_in_the_scores_is_named_there() -> None:
    nan: Tensor = torch.tensor([1.0, float("nan")])
    with pytest.raises(ValueError, match=r"NaN in scores\[1\]"):
        prune_([torch.ones(2), torch.zeros(2)], k=1, scores=[torch.ones(2), nan])


def test_dimensions_that_cannot_be_merged() -> None:
    weight = torch.randn([2] * 17).permute(*range(16, -1, -1))
    with pytest.raises(ValueError, match=r"`tensors\[0\]` with at most 16 dimensions that cannot be merged"):
        magnitude_masks([weight], k=1)
