"""Patterns, blocks, epochs and equations of fine-tuning, without a Trainer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.tune.blocks import blocks_of
from lightning_autoarch.transfer.tune.rates import (
    l2_sp_gradient_,
    l2_sp_value,
    layer_decay_factors,
    scale_factors,
    warm_up_factor,
)
from lightning_autoarch.transfer.tune.thawing import block_times, check_unfreeze, is_frozen, thaw_times
from lightning_autoarch.transfer.tune.trainable import HeldInEval, TrainableNames, keeps_statistics


def modules_of(net: nn.Module) -> list[list[str]]:
    """The modules of each block."""
    return [sorted({name.rpartition(".")[0] for name in block}) for block in blocks_of(net, TrainableNames(net))]


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3)
        self.shortcut = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Residual(4), Residual(4))
        self.layer2 = nn.Sequential(Residual(4), Residual(4))
        self.fc = nn.Linear(4, 2)


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls, self.positions = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        self.patches = nn.Conv2d(3, 8, 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)


RESNET = [["bn1", "conv1"]] + [
    [f"layer{i}.{j}.{leaf}" for leaf in ("conv", "shortcut.0", "shortcut.1")] for i in (1, 2) for j in (0, 1)
]


class TestBlocks:
    def test_resnet(self) -> None:
        assert modules_of(ResNet()) == [*RESNET, ["fc"]]

    def test_a_whole_net_in_a_sequential_or_an_attribute(self) -> None:
        inside = [[f"0.{path}" for path in block] for block in RESNET]
        assert modules_of(nn.Sequential(ResNet(), nn.Linear(2, 2))) == [*inside, ["0.fc"], ["1"]]
        module = nn.Module()
        module.model = nn.Module()  # a wrapper, and one more
        module.model.net = ResNet()
        assert len(modules_of(module)) == 6

    def test_vit(self) -> None:
        blocks = blocks_of(net := ViT(), TrainableNames(net))
        assert [len(block) for block in blocks] == [4, 12, 12, 14, 2]
        assert blocks[0] == ["cls", "positions", "patches.weight", "patches.bias"]
        assert "norm.weight" in blocks[3] and blocks[4] == ["head.weight", "head.bias"]

    def test_attributes_without_a_container(self) -> None:
        net = nn.Module()
        net.one, net.two, net.three = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        assert modules_of(net) == [["one"], ["two"], ["three"]]

    def test_a_head_that_is_registered_first(self) -> None:
        net = nn.Module()
        net.head, net.body = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        names = TrainableNames(net)
        assert blocks_of(net, names, names.named("head", "head"))[-1] == ["head.weight", "head.bias"]
        assert len(blocks_of(net, names, names.named("head", "head"))) == 3

    def test_a_norm_at_the_beginning_joins_what_follows(self) -> None:
        net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 1))
        assert modules_of(net) == [["0", "1", "2"], ["3"]]

    def test_tied_parameters_belong_to_their_first_place(self) -> None:
        net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5, bias=False))
        net[2].weight = net[0].weight
        assert blocks_of(net, TrainableNames(net)) == [["1.weight", "1.bias"], ["0.weight"]]

    def test_of_a_block_with_a_tied_matrix_only_that_is_the_head(self) -> None:
        net = nn.Module()
        net.embeddings = nn.ModuleDict({"tokens": nn.Embedding(5, 3), "positions": nn.Embedding(4, 3)})
        net.body, net.head = nn.Linear(3, 3), nn.Linear(3, 5)
        net.head.weight = net.embeddings.tokens.weight
        assert modules_of(net) == [["embeddings.positions"], ["body"], ["embeddings.tokens", "head"]]

    def test_embeddings_side_by_side_are_the_lowest_block(self) -> None:
        net = nn.Module()
        net.tokens, net.positions = nn.Embedding(5, 3), nn.Embedding(4, 3)
        net.layers, net.head = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)]), nn.Linear(3, 2)
        assert modules_of(net) == [["positions", "tokens"], ["layers.0"], ["layers.1"], ["head"]]

    def test_positions_of_an_encoder_go_with_the_patches_below_it(self) -> None:
        net = nn.Module()
        net.patches, net.encoder, net.head = nn.Conv2d(3, 8, 4), nn.Module(), nn.Linear(8, 2)
        net.encoder.positions = nn.Parameter(torch.zeros(1, 5, 8))
        net.encoder.layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        assert modules_of(net) == [["encoder", "patches"], ["encoder.layers.0"], ["encoder.layers.1"], ["head"]]

    def test_an_output_layer_whose_weight_is_computed(self) -> None:
        net = nn.Module()
        net.body, net.last = nn.Sequential(nn.Linear(4, 4)), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
        assert modules_of(net) == [["body.0"], ["last", "last.parametrizations.weight"]]

    @pytest.mark.parametrize(
        "net", [ResNet(), ViT(), nn.LSTM(3, 4, 2), nn.Linear(2, 2), nn.TransformerDecoderLayer(8, 2)]
    )
    def test_every_parameter_is_in_one_block(self, net: nn.Module) -> None:
        names = [name for block in blocks_of(net, TrainableNames(net)) for name in block]
        assert sorted(names) == sorted(name for name, _ in net.named_parameters())

    def test_no_parameters(self) -> None:
        assert blocks_of(nn.ReLU(), TrainableNames(nn.ReLU())) == []


class TestPatterns:
    def test_modules_parameters_and_globs(self) -> None:
        names = TrainableNames(ResNet())
        assert names.named("layer1.0.conv", "freeze") == {"layer1.0.conv.weight", "layer1.0.conv.bias"}
        assert len(names.named(["layer[12]"], "freeze")) == 4 * 6
        assert len(names.named("*.bias", "freeze")) == 1 + 4 * 3 + 2

    def test_no_match_names_what_is_near(self) -> None:
        with pytest.raises(TransferError, match=r"`layer3` of `freeze` matches no parameter.*Did you mean `layer[12]`"):
            TrainableNames(ResNet()).named("layer3", "freeze")

    @pytest.mark.parametrize("bad", [[3], [""], [None], 7])
    def test_what_is_no_pattern(self, bad: object) -> None:
        with pytest.raises(TransferError, match="`freeze` to be patterns of names"):
            TrainableNames(ResNet()).named(bad, "freeze")  # type: ignore[arg-type]

    def test_any_name_of_a_tied_parameter(self) -> None:
        net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
        net[1].weight = net[0].weight
        assert TrainableNames(net).named("1", "freeze") == {"0.weight"}
        assert TrainableNames(net).in_state_dict(["0.weight"]) == ["0.weight", "1.weight"]

    def test_compiled_modules_have_their_plain_names(self) -> None:
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        net[0] = torch.compile(net[0], backend="eager")
        names = TrainableNames(net)
        assert names.named("0", "freeze") == {"0.weight", "0.bias"}
        assert names.in_state_dict(["0.weight"]) == ["0._orig_mod.weight"]

    def test_norms_without_parameters(self) -> None:
        names = TrainableNames(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2)))
        assert names.named("1", "freeze") == {"1"}
        assert names.order == ["0.weight", "0.bias", "1", "2.weight", "2.bias"]
        assert {path: units for path, (_, units) in names.norms.items()} == {"1": ["1"], "2": ["2.weight", "2.bias"]}


class TestNorms:
    @pytest.mark.parametrize(
        ("norm", "keeps"),
        [
            (nn.BatchNorm2d(2), True),
            (nn.SyncBatchNorm(2), True),
            (nn.BatchNorm1d(2, track_running_stats=False), False),
            (nn.InstanceNorm1d(2), False),
            (nn.InstanceNorm1d(2, track_running_stats=True), True),
            (nn.LayerNorm(2), False),
            (nn.GroupNorm(1, 2), False),
        ],
    )
    def test_which_keep_statistics(self, norm: nn.Module, keeps: bool) -> None:
        assert keeps_statistics(norm) == keeps

    def test_held_against_any_train(self) -> None:
        torch.manual_seed(0)
        net, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(8, 3)
        expected = net.eval()(x)
        held = HeldInEval(net[1])
        net.train()
        assert torch.equal(net(x), expected) and net[1].training
        copied = pickle.loads(pickle.dumps(copy.deepcopy(net)))
        assert torch.equal(copied(x), expected)
        assert int(net[1].num_batches_tracked) == 0
        held.release()
        net.train()
        assert not torch.equal(net(x), expected)


class TestThawing:
    def test_epochs_of_strategies(self) -> None:
        assert block_times("full", 3, 5) == [0, 0, 0]
        assert block_times("linear_probe", 3, 5) == [None, None, 0]
        assert block_times("lp_ft", 3, 5) == [2, 2, 0]
        assert block_times("lp_ft", 3, None, every=1) == [1, 1, 0]
        assert block_times("gradual", 3, None) == [2, 1, 0]
        assert block_times("gradual", 3, 1) == [0, 0, 0]

    @given(blocks=st.integers(1, 300), epochs=st.integers(1, 300))
    def test_gradual_thaws_everything_within_the_fit(self, blocks: int, epochs: int) -> None:
        when = block_times("gradual", blocks, epochs)
        assert all(epoch is not None for epoch in when)
        assert when == sorted(when, reverse=True)  # type: ignore[type-var]
        assert when[-1] == 0 and max(when) == min(blocks, epochs) - 1  # type: ignore[type-var]

    @pytest.mark.parametrize(
        ("epochs", "probe", "message"),
        [(4, 4, "below the 4 epochs"), (1, None, "below the 1 epoch "), (None, None, "requires `probe_epochs`")],
    )
    def test_lp_ft_that_never_fine_tunes(self, epochs: int | None, probe: int | None, message: str) -> None:
        with pytest.raises(TransferError, match=message):
            block_times("lp_ft", 3, epochs, probe)

    def test_unfreeze_takes_what_is_held_back(self) -> None:
        base = {"a": None, "b": 0, "c": 0}
        assert thaw_times(base, {"b"}, {3: {"a", "c"}, 1: {"b"}}, 5) == {"a": 3, "b": 1, "c": 0}

    @pytest.mark.parametrize(
        ("freeze", "unfreeze", "message"),
        [
            (set(), {2: {"a"}}, r"`unfreeze\[2\]` to name something that is frozen.*`a`"),
            ({"a"}, {1: {"a"}, 2: {"a"}}, r"`unfreeze\[2\]` to name something that is frozen"),
            ({"a"}, {4: {"a"}}, "below 4, got 4"),
            ({"a"}, {0: {"a"}}, ">= 1, got 0"),
            ({"a"}, {1.5: {"a"}}, ">= 1, got 1.5"),
            ({"a", "b"}, {1: {"a"}}, "everything is frozen"),
        ],
    )
    def test_errors(self, freeze: set[str], unfreeze: dict[int, set[str]], message: str) -> None:
        with pytest.raises(TransferError, match=message):
            thaw_times({"a": 0, "b": 0}, freeze, unfreeze, 4)

    @pytest.mark.parametrize("bad", [[1], {True: "a"}, {"1": "a"}, {-1: "a"}])
    def test_what_is_no_unfreeze(self, bad: object) -> None:
        with pytest.raises(TransferError, match="unfreeze"):
            check_unfreeze(bad)

    def test_is_frozen(self) -> None:
        assert [is_frozen(2, epoch) for epoch in range(4)] == [True, True, False, False]
        assert is_frozen(None, 99)


class TestEquations:
    def test_layer_decay(self) -> None:
        blocks = [["a", "b"], ["c"], ["d"]]
        assert layer_decay_factors(blocks, 0.75) == {"a": 0.75**2, "b": 0.75**2, "c": 0.75, "d": 1.0}
        assert set(layer_decay_factors(blocks, None).values()) == {1.0}

    def test_the_first_scale_counts(self) -> None:
        names = TrainableNames(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
        assert scale_factors(names, {"0": 0.1, "*.weight": 2}) == {"0.weight": 0.1, "0.bias": 0.1, "1.weight": 2.0}

    def test_warm_up(self) -> None:
        assert [warm_up_factor(t, 2, 2.0) for t in (1.0, 2.5, 3.0, 4.0, 9.0)] == [0.0, 0.25, 0.5, 1.0, 1.0]
        assert warm_up_factor(2.0, 2, 0.0) == 1.0

    def test_l2_sp_gradient_is_that_of_its_value(self) -> None:
        torch.manual_seed(0)
        w, w_0 = torch.randn(5, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)
        loss = w.sin().sum()
        (expected,) = torch.autograd.grad(loss + 0.3 * (w - w_0).square().sum(), w)
        (gradient,) = torch.autograd.grad(w.sin().sum(), w)
        l2_sp_gradient_(gradient, w, w_0, 0.3)
        torch.testing.assert_close(gradient, expected)
        assert float(l2_sp_value([(w, w_0)], 0.3)) == pytest.approx(0.3 * float((w - w_0).detach().square().sum()))
        assert float(l2_sp_value([], 0.3)) == 0.0

    @pytest.mark.parametrize("bad", [0, -1, 1.5, True, "1", float("nan"), float("inf")])
    def test_numbers(self, bad: object) -> None:
        with pytest.raises(TransferError, match=r"Expected `layer_decay` to be a number in \(0, 1\] or None, got"):
            TransferLearning(layer_decay=bad)  # type: ignore[arg-type]
