"""Channels that are removed: which, how many, and what the module is afterwards."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from channel_nets import TiedLanguageModel
from reported_nets import NETS as REPORTED
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneValueError, StructureError
from lightning_autoarch.prune.channels import Reduction, Selection, prune_by_, prune_channels_
from lightning_autoarch.prune.load import load_pruned
from lightning_autoarch.prune.units import kept_units, rounded, unit_scores
from lightning_autoarch.structure.cost import cost_of, count_flops
from lightning_autoarch.structure.graph import ChannelGraph, remove_channels_
from lightning_autoarch.structure.groups import channel_groups


class Conv(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.head = nn.Linear(width * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.block(x)).flatten(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


NETS: dict[str, Any] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 2)), (3, 4)),
    "conv": (Conv, (2, 3, 4, 4)),
    "encoder": (Encoder, (2, 5, 32)),
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net, shape = NETS[name]
    return net(), torch.randn(shape)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("reduction", [Reduction(0.5), Reduction(0.5, "parameters"), Reduction(0.4, "flops")], ids=str)
def test_targets_are_met_and_costs_are_true(name: str, reduction: Reduction) -> None:
    module, x = make(name)
    removed = prune_by_(module, x, reduction)
    after = cost_of(module, x)
    assert after.parameters == removed.after.parameters == sum(p.numel() for p in module.parameters())
    assert (after.flops, after.parameters) < (removed.before.flops, removed.before.parameters)
    if reduction.of == "parameters":
        assert after.parameters <= 0.5 * removed.before.parameters
    if reduction.of == "flops":
        assert after.flops <= 0.6 * removed.before.flops
    assert all(new % 8 == 0 or new == old for old, new in removed.widths.values() if old >= 8)
    module(x).sum().backward()


def test_a_forward_that_looks_at_values() -> None:
    """As those of transformers do for padding, unless they are traced; on the meta device there are none."""

    class Looking(Conv):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if type(x) is not Tensor or bool((x != 0).any()) else x

    _, x = make("conv")
    torch.manual_seed(0)
    removed, plain = (prune_channels_(net, x, 0.4, of="flops") for net in (Looking(), make("conv")[0]))
    assert (removed.kept, removed.before, removed.after) == (plain.kept, plain.before, plain.after)


@pytest.mark.parametrize(
    ("net", "shape"),
    [(nn.LSTM(8, 16, 2), (5, 3, 8)), (nn.GRU(8, 16), (5, 3, 8)), (Encoder(), (2, 5, 32)), (Conv(), (2, 3, 4, 4))],
)
def test_flops_are_those_of_the_meta_device(net: nn.Module, shape: tuple[int, ...]) -> None:
    expected = count_flops(copy.deepcopy(net).to("meta").eval(), torch.empty(shape, device="meta"))
    assert count_flops(net.eval(), torch.randn(shape)) == expected > 0


def test_a_target_in_seconds() -> None:
    module, x = nn.Sequential(nn.Linear(256, 4096), nn.ReLU(), nn.Linear(4096, 256)), torch.randn(128, 256)
    removed = prune_channels_(module, x, 0.4, of="latency")
    assert removed.before.seconds is not None
    assert removed.after.seconds is not None
    assert module[0].out_features < 4096


def test_what_goes_is_what_is_small() -> None:
    module, x = make("mlp")
    with torch.no_grad():
        module[0].weight[8:] *= 1e-3  # type: ignore[index]
        module[2].weight[:, 8:] *= 1e-3  # type: ignore[index]
    removed = prune_channels_(module, x, 0.5, selection=Selection(targets="0"))
    assert removed.kept["0.weight"][:8] == list(range(8))


def test_the_rest_computes_what_it_did() -> None:
    """Removing equals setting to zero all that a channel is made of and read by."""
    module, x = make("conv")
    masked = copy.deepcopy(module)
    removed = prune_channels_(module, x, 0.5, selection=Selection(scope="layer"))
    with torch.no_grad():
        tensors = dict(masked.named_parameters())
        for group in channel_groups(masked, x):
            gone = set(range(group.width)) - set(removed.kept.get(group.name, range(group.width)))
            for member in group.members:
                if member.name in tensors:
                    places = [i for unit in gone for i in member.index[unit]]
                    tensors[member.name].index_fill_(member.dim, torch.tensor(places, dtype=torch.long), 0.0)
    torch.testing.assert_close(module.eval()(x), masked.eval()(x))


def test_heads_go_whole() -> None:
    module, x = make("encoder")
    removed = prune_channels_(module, x, 0.5, selection=Selection(scope="layer", targets="*.self_attn"))
    assert set(removed.widths.values()) == {(4, 2)}
    attention = module.body.layers[0].self_attn  # type: ignore[union-attr,index]
    assert (attention.num_heads, tuple(attention.in_proj_weight.shape)) == (2, (48, 32))


def test_a_recipe_is_json_and_rebuilds() -> None:
    module, x = make("conv")
    removed = prune_channels_(module, x, 0.5, of="flops")
    fresh, _ = make("conv")
    loaded = load_pruned(fresh, module.state_dict(), json.loads(json.dumps(removed.recipe)))
    assert torch.equal(loaded.eval()(x), module.eval()(x))


def test_optimizer_state_follows() -> None:
    module, x = make("mlp")
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    module(x).sum().backward()
    optimizer.step()
    moment = optimizer.state[module[0].weight]["exp_avg"].clone()  # type: ignore[index]
    removed = prune_channels_(module, x, 0.5, optimizers=[optimizer], selection=Selection(targets="0"))
    kept = removed.kept["0.weight"]
    assert torch.equal(optimizer.state[module[0].weight]["exp_avg"], moment[kept])  # type: ignore[index]
    module(x).sum().backward()
    optimizer.step()


def test_counts_are_rounded() -> None:
    assert [rounded(n, 64, 1, 8) for n in (0, 1, 3, 5, 12, 13, 60, 63)] == [8, 8, 8, 8, 16, 16, 64, 64]
    assert rounded(3, 7, 1, 8) == 7
    assert [rounded(n, 12, 4, 8) for n in (1, 3, 11)] == [2, 4, 12]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_group_keeps_a_unit(scope: Any) -> None:
    module, x = make("mlp")
    groups = [group for group in channel_groups(module, x) if group.fixed is None]
    kept = kept_units(groups, unit_scores(module, groups), 0.999, scope, round_to=1)
    assert all(units for units in kept.values())


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ratio": 0.5, "of": "share"}, "Expected `of` to be one of"),
            ({"ratio": 0.5, "of": None}, "Expected `of` to be one of"),
            ({"ratio": 0.0}, r"`ratio`.* in \(0, 1\)"),
            ({"ratio": 1.5, "of": "flops"}, r"`ratio`.* in \(0, 1\)"),
        ],
    )
    def test_reductions(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(PruneValueError, match=message):
            Reduction(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"targets": "hat"}, "`hat` of `targets` matches no group"),
            ({"exclude": "hat"}, "`hat` of `exclude` matches no group"),
            (
                {"targets": "4"},
                "Expected channels that may be removed, got `4.weight`: it is visible at the module's output",
            ),
            ({"exclude": ["0", "2"]}, "Nothing may be removed"),
            ({"round_to": 128}, "Nothing would be removed"),
        ],
    )
    def test_patterns(self, options: dict[str, Any], message: str) -> None:
        module, x = make("mlp")
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(PruneValueError, match=message):
            prune_channels_(module, x, 0.5, selection=Selection(**options))
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

    def test_out_of_reach(self) -> None:
        module, x = make("mlp")
        with pytest.raises(PruneValueError, match="out of reach"):
            prune_channels_(module, x, 0.99, of="parameters")

    def test_a_frozen_module_is_pruned_too(self) -> None:
        module, x = make("mlp")
        removed = prune_channels_(module.requires_grad_(False), x, 0.5)
        assert removed.after.parameters < removed.before.parameters
        assert not any(p.requires_grad for p in module.parameters())

    def test_nan(self) -> None:
        module, x = make("mlp")
        with torch.no_grad():
            module[0].weight[3, 1] = torch.nan  # type: ignore[index]
        with pytest.raises(PruneValueError, match=r"`0\.weight`"):
            prune_channels_(module, x, 0.5)

    def test_a_size_in_the_code(self) -> None:
        class Written(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.b(self.a(x).view(-1, 2, 8).flatten(1).view(-1, 16))

        module = Written()
        before = copy.deepcopy(module.state_dict())
        with pytest.raises((StructureError, PruneValueError)):
            prune_channels_(module, torch.randn(3, 4), 0.5, selection=Selection(round_to=1))
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

    def test_a_recipe_of_another_architecture(self) -> None:
        module, x = make("conv")
        removed = prune_channels_(module, x, 0.5)
        with pytest.raises(StructureError):
            load_pruned(Conv(24), module.state_dict(), removed.recipe)
        with pytest.raises(PruneValueError, match="without a recipe"):
            load_pruned(Conv(), {"state_dict": module.state_dict()})


def test_tied_weights_stay_tied_where_flops_are_counted() -> None:
    module = TiedLanguageModel()
    removed = prune_channels_(module, torch.randint(0, 9, (2, 5)), 0.4, of="flops", selection=Selection(round_to=1))
    assert module.decode.weight is module.embed.weight
    assert removed.after.flops <= 0.6 * removed.before.flops


def test_a_linear_layer_that_becomes_an_image() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8 * 4), nn.Unflatten(1, (8, 2, 2)), nn.ReLU(), nn.Conv2d(8, 2, 1))
    dense, x = copy.deepcopy(module), torch.randn(2, 3)
    removed = prune_channels_(module, x, 0.5, selection=Selection(round_to=1))
    assert removed.widths == {"0.weight": (8, 4)} and module[1].unflattened_size == (4, 2, 2)
    stay = torch.zeros(8, 1, 1)
    stay[removed.kept["0.weight"]] = 1
    torch.testing.assert_close(module(x), dense[3](dense[2](dense[1](dense[0](x))) * stay))


class Headed(nn.Module):
    """Heads of `channels // heads`."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.embed, self.qkv, self.out = nn.Linear(5, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.head = nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))
        return self.head(self.up(x).relu())


def test_whole_heads_go_with_the_same_share_of_the_stream() -> None:
    module, x = Headed(), torch.randn(2, 3, 5)
    removed = prune_channels_(module, x, 0.3, of="flops", selection=Selection(round_to=1))
    before, after = removed.widths["embed.weight"], removed.widths["qkv.weight"]
    assert (before, after) in [((16, 12), (4, 3)), ((16, 8), (4, 2))] and module.heads == after[1]
    assert removed.left == {}


def test_a_group_that_does_not_follow_is_left_and_named() -> None:
    module, x = Headed(), torch.randn(2, 3, 5)
    with pytest.warns(UserWarning, match=r"`qkv\.weight` stay as they are"):
        removed = prune_channels_(module, x, 0.5, selection=Selection(exclude="embed", round_to=1))
    assert removed.widths == {"qkv.weight": (4, 4), "up.weight": (8, 4)}
    assert "view" in removed.left["qkv.weight"] and module.heads == 4


def test_counts_of_the_trace_are_those_of_the_module() -> None:
    module, x = REPORTED["LSTM"][0]().eval(), REPORTED["LSTM"][1]()
    graph = ChannelGraph.of(module, x)
    keep = {"embed.weight": [0, 3, 5], "rnn.weight_ih_l0": list(range(7))}
    counted = (graph.parameters(keep), graph.flops(keep))
    assert (graph.parameters({}), graph.flops({})) == (cost_of(module, x).parameters, cost_of(module, x).flops)
    graph.remove_(keep)
    assert counted == (cost_of(module, x).parameters, cost_of(module, x).flops)


class GraphHeads(nn.Module):
    """Attention over a graph: scores of a vector for each head, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 4, 8
        self.first, self.value, self.last = nn.Linear(6, 16), nn.Linear(16, 32), nn.Linear(32, 3)
        self.vector = nn.Parameter(torch.randn(1, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.value(self.first(x).relu()).view(-1, self.heads, self.size)
        scores = (y * self.vector).sum(-1)
        mixed = torch.einsum("ijh,jhd->ihd", (scores[:, None] + scores[None]).softmax(1), y)
        return self.last(mixed.flatten(1))


@pytest.mark.parametrize("reduction", [Reduction(0.4, "flops"), Reduction(0.4)])
def test_a_choice_that_cannot_be_made_does_not_end_the_search(reduction: Reduction) -> None:
    """With a single head left `einsum` runs other operations; the search looks at that and goes on."""
    torch.manual_seed(0)
    module, x = GraphHeads(), torch.randn(7, 6)
    with pytest.raises(StructureError):
        remove_channels_(copy.deepcopy(module), x, {"value.weight": [0]})
    removed = prune_by_(module, x, reduction, Selection(round_to=1))
    assert removed.left == {} and module.heads > 1 and removed.widths["value.weight"][1] == module.heads
    assert reduction.of != "flops" or removed.after.flops <= 0.6 * removed.before.flops
