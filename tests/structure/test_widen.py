"""Widening: the same outputs before any training, for every kind of network."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from channel_nets import CONVOLUTIONAL, SEQUENTIAL, Case, call, randomised
from torch import Tensor, nn

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.groups import ChannelGroup, channel_groups
from lightning_autoarch.structure.widen import widen_

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


def two_layers(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def test_copies_and_shares_by_hand() -> None:
    module, dense = two_layers(), two_layers()
    done = widen_(module, torch.randn(5, 3), {"0.weight": 7}, torch.Generator().manual_seed(1), spread=0.0)
    source = torch.tensor(next(c for c in done.changes if c.name == "0.weight").index[0])
    count = torch.bincount(source)
    assert source.tolist() == sorted(source.tolist()) and count.min() >= 1 and count.sum() == 7
    assert torch.equal(module[0].weight, dense[0].weight[source]) and torch.equal(module[0].bias, dense[0].bias[source])
    torch.testing.assert_close(module[2].weight, nn.Parameter(dense[2].weight[:, source] / count[source]))
    assert torch.equal(module[2].bias, dense[2].bias)


def test_the_generator_decides() -> None:
    states = []
    for seed in (1, 1, 2):
        module = two_layers()
        widen_(module, torch.randn(5, 3), {"0.weight": 9}, torch.Generator().manual_seed(seed))
        states.append(module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    widen_(two_layers(), torch.randn(5, 3, generator=torch.Generator()), {"0.weight": 9}, torch.Generator())
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("spread", "alike"), [(0.0, True), (0.5, False)])
def test_unequal_shares_let_copies_become_different(spread: float, alike: bool) -> None:
    module = two_layers(1 + 1)
    widen_(module, torch.randn(5, 3), {"0.weight": 4}, torch.Generator().manual_seed(0), spread=spread)
    module(torch.randn(50, 3)).square().sum().backward()
    rows = module[0].weight
    pairs = [(i, j) for i in range(4) for j in range(i) if torch.equal(rows[i], rows[j]) and rows.grad[i].any()]
    assert pairs and all(torch.allclose(rows.grad[i], rows.grad[j]) == alike for i, j in pairs)


def test_batch_norm_in_training_too() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).train()
    dense, inputs = copy.deepcopy(module), torch.randn(3, 2, 5, 5)
    widen_(module, inputs, {"0.weight": 6})
    assert module[1].num_batches_tracked == 0 and module[1].running_mean.shape == (6,)
    torch.testing.assert_close(module(inputs), dense(inputs))


def test_widened_then_removed_is_what_it_was() -> None:
    module, dense, inputs = two_layers(), two_layers(), torch.randn(5, 3)
    done = widen_(module, inputs, {"0.weight": 8}, torch.Generator().manual_seed(0))
    source = next(c for c in done.changes if c.name == "0.weight").index[0]
    remove_channels_(module, inputs, {"0.weight": [source.index(unit) for unit in range(4)]})
    assert torch.equal(module[0].weight, dense[0].weight)


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), norm, nn.Linear(8, 2)).eval()


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(2, 8), nn.GroupNorm(1, 8)], ids=str)
def test_norms_over_channels_want_multiples(norm: nn.Module) -> None:
    module, inputs = normed(norm), torch.randn(5, 3)
    group = channel_groups(module, inputs)[0]
    want = module(inputs)
    with pytest.raises(StructureError, match="multiple of"):
        widen_(module, inputs, {group.name: group.width + 1})
    widen_(module, inputs, {group.name: 3 * group.width})
    torch.testing.assert_close(module(inputs), want)


class Summed(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(3, 4), nn.Linear(4, 2)
        self.tied = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.how == "sum":
            return self.last(y) + y.sum(-1, keepdim=True)
        if self.how == "softmax":
            return self.last(y.softmax(-1))
        if self.how == "product":
            return self.last(y) + (y @ y.mT).mean()
        return self.last(F.relu(x @ self.tied.T)) + (F.relu(x @ self.tied.T) @ self.tied).sum(-1, keepdim=True)


NO_SCALE = "summed where no parameter scales"


@pytest.mark.parametrize(
    ("how", "message"),
    [("sum", NO_SCALE), ("softmax", NO_SCALE), ("product", NO_SCALE), ("tied", "`tied` is tied")],
)
def test_what_cannot_be_exact_is_refused(how: str, message: str) -> None:
    module, inputs = Summed(how), torch.randn(5, 3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    names = [group.name for group in channel_groups(module, inputs) if group.fixed is None and group.width == 4]
    with pytest.raises(StructureError, match=message):
        widen_(module, inputs, dict.fromkeys(names, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("widths", "options", "message"),
    [
        ({"0.weight": 4}, {}, "above 4, got 4"),
        ({"0.weight": 3}, {}, "above 4, got 3"),
        ({"0.wight": 8}, {}, "Did you mean `0.weight`"),
        ({"2.weight": 8}, {}, "have to stay"),
        ({}, {}, "empty"),
        ({"0.weight": 8}, {"spread": 1.0}, r"`spread` in \[0, 1\)"),
    ],
)
def test_bad_requests(widths: dict[str, int], options: dict[str, float], message: str) -> None:
    module = two_layers()
    with pytest.raises(StructureError, match=message):
        widen_(module, torch.randn(5, 3), widths, **options)
    assert module[0].weight.shape == (4, 3)


def test_sizes_in_the_code_are_rolled_back() -> None:
    class Coded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).view(-1, 4))

    module = Coded()
    with pytest.raises(StructureError, match="nothing was changed"):
        widen_(module, torch.randn(5, 3), {"first.weight": 6})
    assert module.first.out_features == 4 and module.first.weight.shape == (4, 3)


class JoinedNorm(nn.Module):
    """A norm over two groups that are concatenated, or over one and the input."""

    def __init__(self, with_input: bool) -> None:
        super().__init__()
        self.with_input, self.a, self.b = with_input, nn.Linear(3, 4), nn.Linear(3, 6)
        self.norm, self.last = nn.LayerNorm(7 if with_input else 10), nn.Linear(7 if with_input else 10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.cat([self.a(x), x if self.with_input else self.b(x)], -1)))


def test_a_norm_over_several_groups_wants_one_factor() -> None:
    module, inputs = JoinedNorm(with_input=False), torch.randn(5, 3)
    want = module(inputs)
    for widths in ({"a.weight": 8}, {"a.weight": 8, "b.weight": 18}):
        with pytest.raises(StructureError, match=r"over `a\.weight` and `b\.weight` together"):
            widen_(module, inputs, widths)
    widen_(module, inputs, {"a.weight": 8, "b.weight": 12})
    torch.testing.assert_close(module(inputs), want)
    with pytest.raises(StructureError, match="together"):
        widen_(JoinedNorm(with_input=True), inputs, {"a.weight": 8})
