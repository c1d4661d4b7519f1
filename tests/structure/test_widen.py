"""Widening: the same outputs before any training, for every kind of network."""

from __future__ import annotations

import pytest
import torch
from channel_nets import CONVOLUTIONAL, SEQUENTIAL, Case, call, randomised
from torch import nn

from lightning_autoarch.structure import ChannelGroup, channel_groups, widen_

CASES = CONVOLUTIONAL | SEQUENTIAL


def built(case: Case) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    module = randomised(case[0]()).eval()
    return module, case[1]()


def can_grow(group: ChannelGroup) -> bool:
    return group.fixed is None and group.replicable and all(m.role != "tied" for m in group.members)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_outputs_stay(name: str, spread: float) -> None:
    module, inputs = built(CASES[name])
    groups = [group for group in channel_groups(module, inputs) if can_grow(group)]
    assert groups
    with torch.no_grad():
        want = call(module, inputs)
    widths = {group.name: group.width * 3 // 2 if group.exact else group.width * 2 for group in groups}
    widen_(module, inputs, widths, torch.Generator().manual_seed(0), spread=spread)
    with torch.no_grad():
        torch.testing.assert_close(call(module, inputs), want, rtol=1e-4, atol=1e-5)
    now = {group.name: group.width for group in channel_groups(module, inputs)}
    assert now.items() >= widths.items()
