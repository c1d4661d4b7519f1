"""Nets of the kinds that public reports say break pruning of channels: half of their FLOPs, and the right outputs."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from channel_nets import randomised
from channel_oracles import dense_without
from reported_nets import NETS
from torch.utils._pytree import tree_leaves

from lightning_autoarch.prune.channels import Selection, prune_channels_
from lightning_autoarch.structure.calls import run_on

LEFT = {"LeNet, sizes in the code": {"b.weight"}}  # groups that the forward does not follow


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_the_dense_net_without_these_channels(name: str) -> None:
    build, sample = NETS[name]
    torch.manual_seed(0)
    module, inputs = randomised(build()).eval(), sample()
    dense = copy.deepcopy(module)
    with warnings.catch_warnings(action="ignore" if name in LEFT else "error", category=UserWarning):
        removed = prune_channels_(module, inputs, 0.5, of="flops", selection=Selection(round_to=1))
    assert removed.after.flops <= 0.5 * removed.before.flops
    assert set(removed.left) == LEFT.get(name, set())
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would read the weights of norms past their forward
    try:
        with torch.no_grad():
            got, want = run_on(module, inputs), run_on(dense_without(dense, inputs, removed.kept), inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
