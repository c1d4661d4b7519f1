"""Groups: who belongs together, where each unit lies, what has to stay and why."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from channel_nets import (
    CONVOLUTIONAL,
    SEQUENTIAL,
    Chunked,
    CrossAttention,
    Dense,
    Grouped,
    GroupedQueries,
    HandWritten,
    Recurrent,
    Residual,
    Reused,
    SelfAttention,
    Separable,
    TiedLanguageModel,
    UNet,
    encoder,
    flatten_net,
    group_normed,
)
from torch import Tensor, nn

from lightning_autoarch.structure.groups import ChannelGroup, channel_groups

WIDTHS = {  # of what may go; every other group is fixed
    "residual": {"stem.weight": 8, "a.weight": 12, "down.weight": 10},
    "dense": {"layers.0.weight": 4, "layers.1.weight": 4, "layers.2.weight": 4},
    "unet": {"down1.weight": 6, "down2.weight": 8, "up.weight": 5, "merge.weight": 7},
    "separable": {"stem.weight": 6, "expand.weight": 12, "squeeze.weight": 4},
    "grouped": {"stem.weight": 4},
    "flatten": {"0.weight": 6, "4.weight": 10},
    "conv1d": {"0.weight": 6, "3.weight": 5},
    "conv3d": {"0.weight": 4, "3.weight": 6},
    "group_norm": {"0.weight": 6, "3.weight": 4},
    "reused": {"first.weight": 8, "left.weight": 6},
    "chunked": {"up.weight": 6, "keep.weight": 5},
    "attention": {"embed.weight": 12, "attend.in_proj_weight": 4},
    "attention_padded": {"embed.weight": 12, "attend.in_proj_weight": 4},
    "attention_time_first": {"embed.weight": 12, "attend.in_proj_weight": 4},
    "attention_unbatched": {"embed.weight": 12, "attend.in_proj_weight": 4},
    "attention_extended": {"embed.weight": 12, "attend.in_proj_weight": 4},
    "cross_attention": {
        "q.weight": 8, "k.weight": 6, "v.weight": 10, "attend.q_proj_weight": 2, "attend.out_proj.weight": 8,
    },
    "hand_written": {"embed.weight": 8, "qkv.weight": 4, "up.weight": 16},
    "grouped_queries": {"embed.weight": 8, "q.weight": 2},
    "encoder": {
        "0.weight": 12, "1.layers.0.self_attn.in_proj_weight": 4, "1.layers.0.linear1.weight": 20,
        "1.layers.1.self_attn.in_proj_weight": 4, "1.layers.1.linear1.weight": 20,
    },
    "encoder_norm_first": {
        "0.weight": 12, "1.layers.0.self_attn.in_proj_weight": 4, "1.layers.0.linear1.weight": 20,
        "1.layers.1.self_attn.in_proj_weight": 4, "1.layers.1.linear1.weight": 20,
    },
    "decoder": {
        "memory.weight": 8, "decoder.self_attn.in_proj_weight": 2, "decoder.multihead_attn.in_proj_weight": 2,
        "decoder.linear1.weight": 12,
    },
    "lstm": {"embed.weight": 6, "rnn.weight_ih_l0": 8},
    "lstm_deep": {"embed.weight": 6, "rnn.weight_ih_l0": 8},
    "gru": {"embed.weight": 6, "rnn.weight_ih_l0": 8},
    "gru_bidirectional": {"embed.weight": 6, "rnn.weight_ih_l0": 8},
    "rnn": {"embed.weight": 6, "rnn.weight_ih_l0": 8},
    "cells": {"lstm.weight_ih": 8, "gru.weight_ih": 5},
    "tied": {"embed.weight#2": 6, "hidden.weight": 10},
}  # fmt: skip


def groups_of(module: nn.Module, inputs: object) -> dict[str, ChannelGroup]:
    return {group.name: group for group in channel_groups(module, inputs)}


def places(group: ChannelGroup) -> dict[tuple[str, int], tuple[tuple[int, ...], ...]]:
    return {(m.name, m.dim): m.index for m in group.members}


def roles(group: ChannelGroup) -> dict[tuple[str, int], str]:
    return {(m.name, m.dim): m.role for m in group.members}


@pytest.mark.parametrize("name", CONVOLUTIONAL | SEQUENTIAL)
def test_what_may_go(name: str) -> None:
    build, sample = (CONVOLUTIONAL | SEQUENTIAL)[name]
    groups = groups_of(build(), sample())
    assert {g.name: g.width for g in groups.values() if g.fixed is None} == WIDTHS[name]


@pytest.mark.parametrize("name", CONVOLUTIONAL | SEQUENTIAL)
def test_every_index_is_in_one_group(name: str) -> None:
    build, sample = (CONVOLUTIONAL | SEQUENTIAL)[name]
    module = build()
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    found: dict[tuple[str, int], list[int]] = {}
    for group in channel_groups(module, sample()):
        for member in group.members:
            assert len(member.index) == group.width
            found.setdefault((member.name, member.dim), []).extend(i for unit in member.index for i in unit)
    for (tensor, dim), index in found.items():
        assert sorted(index) == list(range(tensors[tensor].shape[dim]))


def test_a_group_is_a_value() -> None:
    first, second = (channel_groups(Residual(), torch.randn(2, 3, 6, 6)) for _ in range(2))
    assert first == second and hash(first[0]) == hash(second[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        first[0].width = 1  # type: ignore[misc]


def test_a_residual_stream_is_one_group() -> None:
    stream = groups_of(Residual(), torch.randn(2, 3, 6, 6))["stem.weight"]
    assert roles(stream) == {
        ("stem.weight", 0): "producer",
        ("stem.bias", 0): "producer",
        ("b.weight", 0): "producer",
        ("norm.weight", 0): "along",
        ("norm.bias", 0): "along",
        ("norm.running_mean", 0): "along",
        ("norm.running_var", 0): "along",
        ("nb.weight", 0): "along",
        ("nb.bias", 0): "along",
        ("nb.running_mean", 0): "along",
        ("nb.running_var", 0): "along",
        ("a.weight", 1): "consumer",
        ("down.weight", 1): "consumer",
    }


def test_flatten_gives_a_block_of_columns() -> None:
    groups = groups_of(flatten_net(), torch.randn(2, 3, 8, 8))
    index = places(groups["0.weight"])["4.weight", 1]
    assert index == tuple(tuple(range(9 * c, 9 * c + 9)) for c in range(6))
    assert places(groups["0.weight"])["1.weight", 0] == tuple((c,) for c in range(6))


def test_concatenation_gives_an_offset() -> None:
    groups = groups_of(UNet(), torch.randn(2, 1, 8, 8))
    assert places(groups["up.weight"])["merge.weight", 1] == tuple((c,) for c in range(5))
    assert places(groups["down1.weight"])["merge.weight", 1] == tuple((5 + c,) for c in range(6))
    dense = groups_of(Dense(), torch.randn(2, 3, 5, 5))
    assert places(dense["layers.1.weight"])["head.weight", 1] == tuple((7 + c,) for c in range(4))


def test_depthwise_and_its_multiplier() -> None:
    group = groups_of(Separable(), torch.randn(2, 3, 6, 6))["expand.weight"]
    assert places(group)["depth.weight", 0] == tuple((c,) for c in range(12))
    assert places(group)["twice.weight", 0] == tuple((2 * c, 2 * c + 1) for c in range(12))
    assert places(group)["excite.weight", 0] == places(group)["twice.weight", 0]
    assert not any(name == "depth.weight" and dim == 1 for name, dim in places(group))


def test_groups_of_a_convolution_go_whole() -> None:
    group = groups_of(Grouped(), torch.randn(2, 3, 6, 6))["stem.weight"]
    assert group.unit == 3
    assert places(group)["grouped.weight", 0] == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert places(group)["back.weight", 0] == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert places(group)["back.bias", 0] == ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11))


def test_group_norm_whole_groups_or_equally_many() -> None:
    fine = groups_of(group_normed(), torch.randn(2, 3, 6, 6))["0.weight"]
    assert fine.exact and places(fine)["1.weight", 0] == tuple((2 * c, 2 * c + 1) for c in range(6))
    net = nn.Sequential(nn.Conv2d(3, 12, 1), nn.GroupNorm(2, 12), nn.Conv2d(12, 2, 1))
    coarse = groups_of(net, torch.randn(2, 3, 4, 4))["0.weight"]
    assert not coarse.exact and places(coarse)["1.weight", 0] == tuple((c, 6 + c) for c in range(6))


def test_heads_take_their_rows_of_queries_keys_and_values() -> None:
    group = groups_of(SelfAttention(), torch.randn(2, 5, 3))["attend.in_proj_weight"]
    rows = tuple(tuple(12 * part + 3 * head + i for part in range(3) for i in range(3)) for head in range(4))
    assert places(group)["attend.in_proj_weight", 0] == rows
    assert places(group)["attend.in_proj_bias", 0] == rows
    assert places(group)["attend.out_proj.weight", 1] == tuple(tuple(range(3 * h, 3 * h + 3)) for h in range(4))
    assert group.unit == 9 and group.exact and group.replicable


def test_hand_written_heads_are_as_those_of_torch() -> None:
    group = groups_of(HandWritten(), torch.randint(0, 11, (2, 5)))["qkv.weight"]
    assert places(group)["out.weight", 1] == tuple(tuple(range(3 * h, 3 * h + 3)) for h in range(4))


def test_grouped_queries_go_with_their_key() -> None:
    group = groups_of(GroupedQueries(), torch.randn(2, 5, 3))["q.weight"]
    assert places(group)["q.weight", 0] == (tuple(range(8)), tuple(range(8, 16)))
    assert places(group)["k.weight", 0] == (tuple(range(4)), tuple(range(4, 8)))


def test_separate_projections() -> None:
    mask = torch.zeros(4, 5)
    inputs = (torch.randn(4, 2, 3), torch.randn(5, 2, 4), torch.randn(5, 2, 5), mask)
    groups = groups_of(CrossAttention(), inputs)
    heads = groups["attend.q_proj_weight"]
    assert {name for name, _ in places(heads)} == {
        "attend.q_proj_weight", "attend.k_proj_weight", "attend.v_proj_weight", "attend.in_proj_bias",
        "attend.out_proj.weight",
    }  # fmt: skip
    assert places(groups["v.weight"])["attend.v_proj_weight", 1] == tuple((c,) for c in range(10))


def test_a_hidden_unit_has_four_gates_in_every_layer_and_direction() -> None:
    module = Recurrent(num_layers=2, bidirectional=True)
    group = groups_of(module, torch.randn(2, 5, 3))["rnn.weight_ih_l0"]
    gates = tuple(tuple(u + 8 * gate for gate in range(4)) for u in range(8))
    where = places(group)
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            assert where[f"rnn.{kind}_{suffix}", 0] == gates
        assert where[f"rnn.weight_hh_{suffix}", 1] == tuple((u,) for u in range(8))
    assert where["rnn.weight_ih_l1", 1] == tuple((u, 8 + u) for u in range(8))
    assert where["head.weight", 1] == tuple((u, 8 + u) for u in range(8))


def test_layers_used_twice_and_tied_weights() -> None:
    groups = groups_of(Reused(), torch.randn(5, 4))
    assert ("again.weight", 0) in places(groups["first.weight"]) and ("again.weight", 1) in places(
        groups["first.weight"]
    )
    assert set(places(groups["left.weight"])) == {
        ("left.weight", 0), ("left.bias", 0), ("right.bias", 0), ("end.weight", 1),
    }  # fmt: skip
    tied = groups_of(TiedLanguageModel(), torch.randint(0, 9, (2, 5)))
    assert roles(tied["embed.weight#2"])["embed.weight", 1] == "tied"
    assert "index" in (tied["embed.weight"].fixed or "")


def test_gates_of_halves() -> None:
    group = groups_of(Chunked(), torch.randn(5, 4))["up.weight"]
    assert places(group)["up.weight", 0] == tuple((c, 6 + c) for c in range(6))


def test_norms_over_channels_are_not_exact() -> None:
    groups = groups_of(encoder(), torch.randn(2, 5, 3))
    assert {name for name, group in groups.items() if not group.exact} == {"0.weight"}


class Ends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.unused = nn.Linear(5, 6)
        self.register_buffer("scale", torch.ones(8))
        self.constant = torch.ones(8)

    def forward(self, x: Tensor, how: str) -> Tensor:
        y = self.first(x) * self.scale
        y = y + self.constant if how == "constant" else torch.softmax(y, 1) if how == "softmax" else y
        y = y.sum(1, keepdim=True) + y if how == "sum" else y
        return self.second(y)


def test_fixed_has_a_reason() -> None:
    groups = groups_of(Ends(), (torch.randn(3, 4), "plain"))
    assert groups["first.weight"].fixed is None and ("scale", 0) in places(groups["first.weight"])
    assert "given from outside at `addmm` in `first`" in (groups["first.weight:1"].fixed or "")
    assert groups["second.weight"].fixed == "it is visible at the module's output"
    assert groups["unused.weight:0"].fixed == "no forward touches it"


def test_an_attribute_that_is_no_buffer_cannot_shrink() -> None:
    groups = groups_of(Ends(), (torch.randn(3, 4), "constant"))
    assert "given from outside at `add`" in (groups["first.weight"].fixed or "")


def test_softmax_and_sums_over_channels() -> None:
    soft = groups_of(Ends(), (torch.randn(3, 4), "softmax"))["first.weight"]
    assert (soft.fixed, soft.exact, soft.replicable) == (None, False, False)
    total = groups_of(Ends(), (torch.randn(3, 4), "sum"))["first.weight"]
    assert (total.fixed, total.exact, total.replicable) == (None, True, False)


def test_one_channel_cannot_go() -> None:
    net = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2))
    assert {group.name for group in channel_groups(net, torch.randn(3, 4)) if group.fixed is None} == set()


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(24, 8)
        self.gamma, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        return self.head((x + (self.gamma * y).permute(0, 3, 1, 2)).mean((-2, -1)))


class Window(nn.Module):
    """Attention with a table of relative positions, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.table = 4, nn.Parameter(torch.randn(9, 4))
        self.register_buffer("index", torch.randint(0, 9, (5, 5)))
        self.qkv, self.out = nn.Linear(3, 24), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, 2).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(t, t, -1).permute(2, 0, 1)
        return self.out(((q @ k.mT + bias).softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8)
        self.tokens, self.back, self.head = nn.Linear(9, 12), nn.Linear(12, 9), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        x = x + self.back(F.gelu(self.tokens(self.norm(x).mT))).mT
        return self.head(x.mean(1))


def test_parametrized_weights() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 6, 3)), nn.ReLU(), nn.Conv1d(6, 2, 1))
    group = groups_of(net, torch.randn(2, 2, 9))["0.bias"]
    originals = {f"0.parametrizations.weight.original{i}" for i in range(2)}
    assert {name for name, _ in places(group)} == {"0.bias", "2.weight", *originals}
    assert (group.fixed, group.width, group.exact) == (None, 6, True)


def test_known_architectures() -> None:
    convnext = groups_of(ConvNeXt(), torch.randn(2, 3, 6, 6))
    assert {g.name: g.width for g in convnext.values() if g.fixed is None} == {"stem.weight": 8, "up.weight": 24}
    window = groups_of(Window(), torch.randn(2, 5, 3))
    heads = next(g for g in window.values() if ("qkv.weight", 0) in places(g))
    assert heads.fixed is None and heads.width == 4 and places(heads)["table", 1] == ((0,), (1,), (2,), (3,))
    mixer = groups_of(Mixer(), torch.randn(2, 3, 6, 6))
    assert {g.name: g.width for g in mixer.values() if g.fixed is None} == {"embed.weight": 8, "tokens.weight": 12}
