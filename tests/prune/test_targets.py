"""Which parameters are targets: defaults, patterns, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.core.patterns import match_values
from lightning_autoarch.prune.targets import examine_targets, find_targets


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.conv = nn.Sequential(nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.PReLU(8))
        self.attention = nn.MultiheadAttention(8, 2)
        self.cross = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
        self.lstm = nn.LSTM(8, 8, num_layers=2, bidirectional=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight  # tied


def test_defaults_are_the_matrices_and_each_once() -> None:
    found = find_targets(Net())
    lstm = {
        f"lstm.weight_{kind}_l{layer}{end}" for kind in ("ih", "hh") for layer in (0, 1) for end in ("", "_reverse")
    }
    attention = {"attention.in_proj_weight", "attention.out_proj.weight", "cross.out_proj.weight"}
    cross = {f"cross.{x}_proj_weight" for x in "qkv"}
    assert set(found) == {"embed.weight", "conv.0.weight", *lstm, *attention, *cross}
    assert all(isinstance(parameter, nn.Parameter) for parameter in found.values())


def test_layers_of_others_with_a_matrix() -> None:
    class Holder(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape[-1]))

    net = nn.ModuleDict(
        {"conv1d": Holder(4, 8), "scale": Holder(1, 8, 1, 1), "rms": Holder(8), "norm": nn.LayerNorm((4, 8))}
    )
    assert list(find_targets(net)) == ["conv1d.weight"]
    assert list(find_targets(net, "conv1d")) == ["conv1d.weight"]


@pytest.mark.parametrize(
    ("targets", "exclude", "expected"),
    [
        ("head", (), {"embed.weight"}),  # a tied parameter has its first name
        ("conv", (), {"conv.0.weight"}),
        ("conv.*", (), {"conv.0.weight", "conv.0.bias", "conv.1.weight", "conv.1.bias", "conv.2.weight"}),
        ("*.in_proj_weight", (), {"attention.in_proj_weight"}),
        (["norm.weight", "head"], (), {"norm.weight", "embed.weight"}),
        (["conv", "head"], "embed", {"conv.0.weight"}),
    ],
)
def test_patterns(targets: str, exclude: str, expected: set[str]) -> None:
    assert set(find_targets(Net(), targets, exclude)) == expected


@pytest.mark.parametrize(("targets", "exclude"), [("heat", ()), (None, "heat"), ("norm", ()), (["conv", "x*"], ())])
def test_a_pattern_without_a_match(targets: str | None, exclude: str) -> None:
    with pytest.raises(PruneValueError, match="matches no weight"):
        find_targets(Net(), targets, exclude)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(PruneValueError, match=r"Did you mean `head`\?"):
        find_targets(Net(), "heat")


def test_what_is_frozen() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    assert list(find_targets(net)) == ["1.weight"]
    with pytest.raises(PruneValueError, match=r"`0\.weight`, which does not require"):
        find_targets(net, "0")
    with pytest.raises(PruneValueError, match="2 of its weights are frozen"):
        find_targets(net.requires_grad_(False))


def test_nothing_to_prune() -> None:
    with pytest.raises(PruneValueError, match="no layer with a weight"):
        find_targets(nn.LayerNorm(3))
    with pytest.raises(PruneValueError, match="initialised"):
        find_targets(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(PruneTypeError, match="patterns of names"):
        find_targets(nn.Linear(2, 2), [3])  # type: ignore[list-item]


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own, on importing the compiler
def test_compiled_modules_have_plain_names() -> None:
    net = nn.Sequential(torch.compile(nn.Linear(2, 2)), nn.Linear(2, 2))  # compiled late: nothing is compiled here
    assert list(find_targets(net)) == ["0.weight", "1.weight"]


def test_values_by_pattern() -> None:
    names = ["a.0.weight", "a.1.weight", "b.weight"]
    assert match_values({"a.1": 0.5, "a": 0.9}, names, "scope", PruneValueError) == {
        "a.0.weight": 0.9,
        "a.1.weight": 0.5,
    }
    with pytest.raises(PruneValueError, match="`c` of `scope` matches none"):
        match_values({"c": 0.5}, names, "scope", PruneValueError)


class Experts(nn.Module):
    """As mixtures of experts store them: a matrix for each expert, stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.ones(4, 8, 16))
        self.down_proj = nn.Parameter(torch.ones(4, 8, 8))
        self.gate_up_proj_bias = nn.Parameter(torch.ones(4, 16))
        self.pos_embed = nn.Parameter(torch.ones(2, 4, 8))
        self.lora_A = nn.Parameter(torch.ones(4, 2, 8))
        self.table = nn.Parameter(torch.ones(3, 5))
        self.scale = nn.Parameter(torch.ones(8))


def test_stacked_experts_are_targets_and_the_rest_is_named() -> None:
    found = examine_targets(Experts())
    assert list(found.parameters) == ["gate_up_proj", "down_proj"]
    assert found.not_chosen == ("gate_up_proj_bias", "pos_embed", "lora_A", "table")
    assert list(find_targets(Experts(), ["table", "lora_A"])) == ["lora_A", "table"]
    assert examine_targets(Experts(), "table").not_chosen == ()
    assert "table" not in examine_targets(Experts(), exclude="table").not_chosen


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 8)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 8, bias=False)})


def test_adapters_are_left_out_unless_named() -> None:
    net = nn.ModuleDict({"q": Adapted(), "head": nn.Linear(8, 2)})
    net["q"].base_layer.requires_grad_(False)  # type: ignore[union-attr, operator]
    found = examine_targets(net)
    assert list(found.parameters) == ["head.weight"]
    assert found.not_chosen == ("q.lora_A.default.weight", "q.lora_B.default.weight")
    assert list(find_targets(net, "*.lora_A")) == ["q.lora_A.default.weight"]
    assert list(find_targets(net, "*.lora_?.*.weight")) == ["q.lora_A.default.weight", "q.lora_B.default.weight"]
    with pytest.raises(PruneValueError, match=r"2 adapter weights such as `lora_A.default.weight` are left out"):
        find_targets(only())


def only() -> nn.Module:
    net = Adapted()
    net.base_layer = nn.Identity()  # type: ignore[assignment]
    return net


def test_a_layer_without_such_a_weight_is_said_to_be_one() -> None:
    with pytest.raises(PruneValueError, match=r"names a LayerNorm that has no weight .* such as `norm.weight`"):
        find_targets(Net(), "norm")
