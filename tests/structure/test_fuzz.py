"""Random graphs: whatever is offered can be removed and widened, and the result is the one that was asked for."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from channel_nets import call, half, randomised, unread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.groups import channel_groups
from lightning_autoarch.structure.recipe import apply_recipe_, recipe_of
from lightning_autoarch.structure.widen import widen_

SIZE = 4  # pixels a side, of every node
OPERATIONS = (
    "conv", "grouped", "depthwise", "transposed", "batch", "group", "layer", "relu", "prelu", "add", "multiply", "cat",
    "halves", "gate", "excite", "mean", "token", "attend", "permute", "norm",
)  # fmt: skip


class RandomGraph(nn.Module):
    """A list of operations on earlier nodes, each (N, C, SIZE, SIZE); the head reads the last one or several."""

    def __init__(self, program: list[tuple[str, int, int, int]], channels: int = 4, flat: bool = True) -> None:
        super().__init__()
        self.program, self.flat = program, flat
        self.layers = nn.ModuleList()
        widths = [channels]
        self.stem = nn.Conv2d(2, channels, 1)
        for operation, a, b, size in program:
            i, j = a % len(widths), b % len(widths)
            layer, width = self._layer(operation, widths[i], widths[j], size)
            self.layers.append(layer)
            widths.append(width)
        ends = sum(widths[-2:])
        self.head = nn.Linear(ends * SIZE**2 if flat else ends, 3)

    def _layer(self, operation: str, c: int, d: int, size: int) -> tuple[nn.Module, int]:
        if operation == "conv":
            return nn.Conv2d(c, size, 3, padding=1), size
        if operation == "transposed":
            return nn.ConvTranspose2d(c, size, 3, padding=1, bias=False), size
        if operation == "grouped":
            groups = math.gcd(c, 2 * size)
            return nn.Conv2d(c, 2 * size, 1, groups=groups), 2 * size
        if operation == "depthwise":
            return nn.Conv2d(c, 2 * c, 3, padding=1, groups=c), 2 * c
        if operation == "batch":
            return nn.BatchNorm2d(c), c
        if operation == "group":
            return nn.GroupNorm(math.gcd(c, size), c), c
        if operation in ("layer", "norm"):
            return nn.LayerNorm(c), c
        if operation == "prelu":
            return nn.PReLU(c), c
        if operation == "excite":
            return nn.Sequential(nn.Conv2d(c, size, 1), nn.ReLU(), nn.Conv2d(size, c, 1)), c
        if operation == "token":
            return nn.Sequential(nn.Linear(SIZE**2, 5), nn.GELU(), nn.Linear(5, SIZE**2)), c
        if operation == "attend":
            return nn.MultiheadAttention(c, math.gcd(c, size), batch_first=True), c
        if operation in ("add", "multiply", "mean") and c != d:
            return nn.Conv2d(d, c, 1), c
        if operation in ("halves", "gate"):
            return (nn.ReLU(), c) if c % 2 else (nn.Identity(), c // 2)
        return nn.Identity(), c + d if operation == "cat" else c

    def forward(self, x: Tensor) -> Tensor:
        nodes = [self.stem(x)]
        for (operation, a, b, _), layer in zip(self.program, self.layers, strict=True):
            nodes.append(self._run(operation, layer, nodes[a % len(nodes)], nodes[b % len(nodes)]))
        end = torch.cat(nodes[-2:], 1)
        return self.head(end.flatten(1) if self.flat else end.mean((2, 3)))

    def _run(self, operation: str, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        n = x.shape[0]
        if operation in ("add", "multiply", "mean"):
            z = layer(y)
            return (
                x + z
                if operation == "add"
                else x * z.sigmoid()
                if operation == "multiply"
                else torch.stack([x, z]).mean(0)
            )
        if operation == "relu":
            return x.relu()
        if operation == "cat":
            return torch.cat([x, y], 1)
        if operation in ("halves", "gate"):
            if isinstance(layer, nn.ReLU):
                return layer(x)
            first, second = x.chunk(2, 1)
            return first * second.tanh() if operation == "gate" else first + F.avg_pool2d(second, 3, 1, 1)
        if operation == "excite":
            return x * layer(x.mean((2, 3), keepdim=True)).sigmoid()
        if operation == "layer":
            return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if operation == "norm":
            return layer(x.flatten(2).mT).mT.reshape(n, -1, SIZE, SIZE)
        if operation == "token":
            return x + layer(x.flatten(2)).view_as(x)
        if operation == "attend":
            tokens = x.flatten(2).mT
            return x + layer(tokens, tokens, tokens)[0].mT.view_as(x)
        if operation == "permute":
            return x.permute(2, 0, 1, 3).contiguous().transpose(0, 1).transpose(1, 2)
        return layer(x)


programs = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9), st.integers(0, 9), st.sampled_from([2, 3, 4, 6])),
    min_size=1,
    max_size=7,
)
examples = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])


def built(program: list[tuple[str, int, int, int]], flat: bool, seed: int) -> tuple[RandomGraph, Any]:
    torch.manual_seed(seed)
    module = RandomGraph(program, flat=flat).double()
    randomised(module)
    return module.eval(), torch.randn(2, 2, SIZE, SIZE, dtype=torch.double)


@pytest.mark.slow
@given(programs, st.booleans(), st.integers(0, 99))
@examples
def test_what_is_offered_can_be_removed(program: list[tuple[str, int, int, int]], flat: bool, seed: int) -> None:
    dense, inputs = built(program, flat, seed)
    groups = channel_groups(dense, inputs)
    everything = {g.name: half(g, seed + i) for i, g in enumerate(groups) if g.fixed is None}
    exact = {g.name: everything[g.name] for g in groups if g.name in everything and g.exact}
    if exact:
        module = copy.deepcopy(dense)
        remove_channels_(module, inputs, exact)
        torch.testing.assert_close(call(module, inputs), call(unread(dense, groups, exact), inputs))
    if everything:
        module, fresh = copy.deepcopy(dense), copy.deepcopy(dense)
        apply_recipe_(fresh, recipe_of(module, remove_channels_(module, inputs, everything)))
        fresh.load_state_dict(module.state_dict())
        torch.testing.assert_close(call(module, inputs), call(fresh, inputs))


@pytest.mark.slow
@given(programs, st.booleans(), st.integers(0, 99))
@examples
def test_what_is_offered_can_be_widened(program: list[tuple[str, int, int, int]], flat: bool, seed: int) -> None:
    module, inputs = built(program, flat, seed)
    groups = [
        g for g in channel_groups(module, inputs)
        if g.fixed is None and g.replicable and all(m.role != "tied" for m in g.members)
    ]  # fmt: skip
    widths = {g.name: g.width + 1 + (seed + i) % 3 if g.exact else 2 * g.width for i, g in enumerate(groups)}
    if not all(g.exact for g in groups) or any(not g.exact for g in channel_groups(module, inputs)):
        widths = {g.name: 2 * g.width for g in groups}  # one factor, wherever a norm is taken over several groups
    if widths:
        want = call(module, inputs)
        widen_(module, inputs, widths, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(call(module, inputs), want)
