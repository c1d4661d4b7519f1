"""Removal: against the dense network that does not read the channels, of every kind; and what must not change."""

from __future__ import annotations

import copy

import pytest
import torch
from channel_nets import CONVOLUTIONAL, SEQUENTIAL, Case, call, half, randomised, unproduced, unread
from torch import nn

from lightning_autoarch.structure import channel_groups, remove_channels_

CASES = CONVOLUTIONAL | SEQUENTIAL
EXACT_WHEN_ZERO = ("residual", "unet", "grouped", "separable", "reused", "chunked")  # of 0 every activation is 0


def built(case: Case) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    module = randomised(case[0]()).eval()
    return module, case[1]()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_all_groups_at_once_as_if_not_read(name: str, seed: int) -> None:
    module, inputs = built(CASES[name])
    groups = channel_groups(module, inputs)
    keep = {group.name: half(group, seed) for group in groups if group.fixed is None and group.exact}
    assert keep
    want = call(unread(module, groups, keep), inputs)
    before = parameters(module)
    remove_channels_(module, inputs, keep)
    torch.testing.assert_close(call(module, inputs), want, rtol=1e-4, atol=1e-5)
    assert parameters(module) < before


@pytest.mark.parametrize("name", CASES)
def test_each_group_alone(name: str) -> None:
    dense, inputs = built(CASES[name])
    groups = channel_groups(dense, inputs)
    for group in groups:
        if group.fixed is None and group.exact:
            module = copy.deepcopy(dense)
            keep = {group.name: half(group, 1)}
            remove_channels_(module, inputs, keep)
            torch.testing.assert_close(
                call(module, inputs), call(unread(dense, groups, keep), inputs), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", EXACT_WHEN_ZERO)
def test_as_if_the_channels_were_zero(name: str) -> None:
    dense, inputs = built(CASES[name])
    groups = channel_groups(dense, inputs)
    keep = {group.name: half(group, 2) for group in groups if group.fixed is None and group.exact}
    module = copy.deepcopy(dense)
    remove_channels_(module, inputs, keep)
    torch.testing.assert_close(
        call(module, inputs), call(unproduced(dense, groups, keep), inputs), rtol=1e-4, atol=1e-5
    )
