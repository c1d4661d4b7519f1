"""Channels replicated or chosen by the graph of the target: the same outputs where it has more of them."""

from __future__ import annotations

import copy

import pytest
import torch
import wide_nets as nets
from channel_nets import CONVOLUTIONAL, SEQUENTIAL, call, randomised
from torch import Tensor, nn

from lightning_autoarch.core.errors import StructureError, TransferError
from lightning_autoarch.structure.groups import ChannelGroup, channel_groups
from lightning_autoarch.structure.widen import widen_
from lightning_autoarch.transfer.match.axes import Axis
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_report import TransferReport
from lightning_autoarch.transfer.transfer_weights import transfer_weights

ANY = CONVOLUTIONAL | SEQUENTIAL


def built(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A narrow net, a wide one, and inputs of theirs."""
    narrow, wide, inputs = nets.PAIRS[name]
    torch.manual_seed(0)
    return randomised(narrow()).eval(), randomised(wide()).eval(), inputs()


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_untouched(module: nn.Module, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def widened(module: nn.Module, source: nn.Module, inputs: Tensor, **options: bool) -> TransferReport:
    """By the state_dict: the source itself is not run."""
    return transfer_weights(
        module, source.state_dict(), on_mismatch="widen", matching=Matching(example_inputs=inputs, **options)
    )


def assert_same_outputs(module: nn.Module, source: nn.Module, inputs: object, tolerance: float = 1e-5) -> None:
    with torch.no_grad():
        torch.testing.assert_close(call(module, inputs), call(source, inputs), rtol=tolerance, atol=tolerance)


class TestSameFunction:
    @pytest.mark.parametrize("name", nets.PAIRS)
    def test_outputs(self, name: str) -> None:
        source, module, inputs = built(name)
        given = source if name in nets.DIVIDED else source.state_dict()
        report = transfer_weights(module, given, on_mismatch="widen", matching=Matching(example_inputs=inputs))
        assert_same_outputs(module, source, inputs)
        assert set(report.counts) <= {"loaded", "widened"} and report.counts["widened"] and report.share == 1
        assert not any(tensor.reason.count("approximate") for tensor in report)

    @pytest.mark.parametrize("name", nets.PAIRS)
    def test_held_against_the_source(self, name: str) -> None:
        source, module, inputs = built(name)
        before, modes = bits(source), [each.training for each in module.train().modules()]
        transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=inputs))
        assert_untouched(source, before)
        assert [each.training for each in module.modules()] == modes

    @pytest.mark.parametrize("name", [name for name in ANY if name != "group_norm"])
    def test_any_net(self, name: str) -> None:
        """Into a net of doubled widths, which `widen_` has made, and that has forgotten all."""
        torch.manual_seed(0)
        source, inputs = randomised(ANY[name][0]()).eval(), ANY[name][1]()
        module = randomised(copy.deepcopy(source))
        groups = [group for group in channel_groups(module, inputs) if group.fixed is None and group.replicable]
        free = [group for group in groups if all(member.role != "tied" for member in group.members)]
        widen_(module, inputs, {group.name: 2 * group.width for group in free})
        randomised(module)
        transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=inputs))
        assert_same_outputs(module, source, inputs, 1e-4)

    def test_parameters_are_the_same_objects(self) -> None:
        source, module, inputs = built("residual")
        parameters = list(module.parameters())
        widened(module, source, inputs)
        assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))

    def test_by_hand(self) -> None:
        source, module = nets.mlp(2, 3), nets.mlp(5, 3)
        widened(module, source, torch.randn(2, 3))
        origin = [0, 0, 0, 1, 1]
        assert torch.equal(module[0].weight, source[0].weight[origin])
        assert torch.equal(module[0].bias, source[0].bias[origin])
        shares = module[2].weight / source[2].weight[:, origin]
        expected = torch.tensor([2 / 9, 3 / 9, 4 / 9, 3 / 8, 5 / 8])
        torch.testing.assert_close(shares, expected.expand(3, 5))
        assert torch.equal(module[4].weight, source[4].weight)

    def test_copies_become_different(self) -> None:
        source, module, inputs = built("mlp, one layer")
        widened(module, source, inputs)
        module(inputs).square().sum().backward()
        weight = module[0].weight
        live = [j for j in range(0, 8, 2) if weight.grad[j].any()]
        assert live and all(torch.equal(weight[j], weight[j + 1]) for j in live)
        assert not any(torch.allclose(weight.grad[j], weight.grad[j + 1]) for j in live)

    def test_twice_the_same(self) -> None:
        source, module, inputs = built("residual")
        other = copy.deepcopy(module)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        widened(module, source, inputs), widened(other, source, inputs)
        assert_untouched(module, bits(other))
        assert torch.equal(torch.get_rng_state(), before)

    def test_deeper_too(self) -> None:
        def net(width: int, depth: int) -> nn.Module:
            blocks = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]
            return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Sequential(*blocks), nn.Linear(width, 2))

        source, module, inputs = net(4, 1).eval(), net(6, 3).eval(), torch.randn(5, 3)
        report = transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=inputs))
        assert_same_outputs(module, source, inputs)
        assert report.counts["identity"]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_dtypes(self, dtype: torch.dtype) -> None:
        source, module, inputs = built("mlp")
        widened(module, source.to(dtype), inputs)
        assert_same_outputs(module, source.float(), inputs, 1e-4)

    def test_same_shapes_need_no_forward(self) -> None:
        report = transfer_weights(
            nets.mlp(), nets.mlp(), on_mismatch="widen", matching=Matching(example_inputs=torch.randn(2, 99))
        )
        assert set(report.counts) == {"loaded"}

    def test_names_of_another_net_around_it(self) -> None:
        class Outer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = nets.mlp(8)

            def forward(self, x: Tensor) -> Tensor:
                return self.net(x)

        source, module = nets.mlp(4), Outer()
        widened(module, source, torch.randn(2, 3))
        assert_same_outputs(module, source, torch.randn(4, 3))

    def test_other_classes(self) -> None:
        source, module = nets.mlp(4, 3), nets.mlp(8, 6)
        module[4] = nn.Linear(6, 5)
        report = widened(module, source, torch.randn(2, 3))
        x = torch.randn(4, 3)
        torch.testing.assert_close(module[:3](x), source[:3](x)[:, [0, 0, 1, 1, 2, 2]])
        assert report["2.weight"].status == "widened" and report.names("initialised") == ["4.weight", "4.bias"]

    def test_input_channels_too(self) -> None:
        source, module = nets.flattened(2), nets.flattened(4)
        module[0] = nn.Conv2d(1, 4, 3)
        x = torch.randn(2, 1, 6, 6)
        report = widened(module, source, x)
        torch.testing.assert_close(module(x), source(x.expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-5)
        assert report["0.weight"].status == "widened"


Impossible = tuple[nn.Module, nn.Module, Tensor, str]
CASES: dict[str, Impossible] = {
    "layer norm": (nets.Encoder(8), nets.Encoder(12), nets.sequence(), "8 channels of `embed.weight`.*12.*multiple"),
    "group norm": (nets.group_normed(8), nets.group_normed(12), nets.image(), "`0.weight`.*multiple"),
    "computed": (nets.Located(4), nets.Located(8), nets.sequence(), "`places` is not a weight"),
    "tied": (
        nets.Tied(4),
        nets.Tied(8),
        torch.randint(0, 7, (2, 3)),
        "`embed.weight` is tied, it both produces and reads",
    ),
    "inputs": (nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(4, 2)), torch.randn(2, 4), "number is fixed"),
}


class TestImpossible:
    """An error that names the group, and nothing written; or near, and said so."""

    @pytest.mark.parametrize("name", CASES)
    def test_error(self, name: str) -> None:
        source, module, inputs, message = CASES[name]
        before = bits(module)
        with pytest.raises(TransferError, match=message):
            widened(module, source, inputs)
        assert_untouched(module, before)

    @pytest.mark.parametrize("name", CASES)
    def test_approximate(self, name: str) -> None:
        source, module, inputs, _ = CASES[name]
        module = copy.deepcopy(module)
        report = widened(module, source, inputs, approximate=True)
        assert report.taken and any("approximate: " in tensor.reason for tensor in report)
        assert module(inputs).isfinite().all()

    @pytest.mark.parametrize("given", ["module", "state"])
    @pytest.mark.parametrize("grid", [(2, -1), (-1, 2), (-1, 4)])
    def test_order_in_the_code(self, grid: tuple[int, int], given: str) -> None:
        source, module = nets.Shuffled(4, grid), nets.Shuffled(8, grid)
        before = bits(module)
        with pytest.raises(TransferError, match=r"function kept; .* or shuffled"):
            transfer_weights(module, source if given == "module" else source.state_dict(), on_mismatch="widen",
            matching=Matching(example_inputs=nets.image()))  # fmt: skip
        assert_untouched(module, before)
        assert module.first.out_channels == 8

    def test_scale_in_the_code(self) -> None:
        source, module = (nets.Encoder(width, scaled=True).eval() for width in (8, 16))
        before, inputs = bits(module), nets.sequence()
        with pytest.raises(TransferError, match="got other outputs"):
            transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=inputs))
        assert_untouched(module, before)
        report = transfer_weights(
            module, source, on_mismatch="widen", matching=Matching(example_inputs=inputs, approximate=True)
        )
        assert report.share == 1

    def test_group_norm_of_groups_of_one_size(self) -> None:
        """Groups that grow in number: names and shapes say nothing of it."""
        source, module = randomised(nets.group_normed(8, 2)).eval(), nets.group_normed(16, 4).eval()
        with pytest.raises(TransferError, match="heads or groups"):
            transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=nets.image()))

    def test_source_that_does_not_run(self) -> None:
        source, module = nets.mlp(4), nets.mlp(8)
        source[1].forward = lambda x: x.nothing  # type: ignore[method-assign]
        with pytest.raises(TransferError, match=r"run with `example_inputs`.*`state_dict\(\)`"):
            transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=torch.randn(2, 3)))
        assert widened(module, source, torch.randn(2, 3)).share == 1

    def test_forward_that_cannot_be_followed(self) -> None:
        class Peeking(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.net = nets.mlp(width)

            def forward(self, x: Tensor) -> Tensor:
                return self.net(x) if float(x.sum()) > 0 else self.net(-x)

        module = Peeking(8)
        before = bits(module)
        with pytest.raises(StructureError, match="reads values"):
            widened(module, Peeking(4), torch.randn(2, 3))
        assert_untouched(module, before)


class TestArguments:
    def test_widen_asks_for_inputs(self) -> None:
        with pytest.raises(TransferError, match='`example_inputs` for `on_mismatch="widen"`'):
            transfer_weights(nets.mlp(8), nets.mlp(4), on_mismatch="widen")

    def test_groups_are_found_or_given(self) -> None:
        groups, inputs = [[Axis("0.weight", 0)]], torch.randn(2, 3)
        with pytest.raises(TransferError, match="got both"):
            transfer_weights(
                nets.mlp(), nets.mlp(), on_mismatch="slice", matching=Matching(groups=groups, example_inputs=inputs)
            )

    def test_approximate_is_of_widen(self) -> None:
        with pytest.raises(TransferError, match="`approximate` requires"):
            transfer_weights(nets.mlp(), nets.mlp(), on_mismatch="slice", matching=Matching(approximate=True))


class TestFewer:
    """The same channels in every member."""

    @pytest.mark.parametrize("on_mismatch", ["slice", "widen"])
    def test_most_important_by_hand(self, on_mismatch: str) -> None:
        source, module = nets.mlp(4, 3), nets.mlp(2, 3)
        with torch.no_grad():
            source[0].weight.copy_(torch.tensor([1.0, 5.0, 2.0, 4.0])[:, None].expand(4, 3))
            source[0].bias.zero_()
        inputs = torch.randn(2, 3)
        report = transfer_weights(module, source, on_mismatch=on_mismatch, matching=Matching(example_inputs=inputs))  # type: ignore[arg-type]
        assert torch.equal(module[0].weight, source[0].weight[[1, 3]])
        assert torch.equal(module[2].weight, source[2].weight[:, [1, 3]])
        assert report.names("sliced") == ["0.weight", "0.bias", "2.weight"]

    @pytest.mark.parametrize("name", [n for n in nets.PAIRS if "norm" not in n and "encoder" not in n])
    def test_net_hidden_in_a_wider_one_is_found(self, name: str) -> None:
        source, module, inputs = built(name)
        state = hidden(source, module, inputs)
        back = randomised(nets.PAIRS[name][0]()).eval()
        transfer_weights(back, state, on_mismatch="slice", matching=Matching(example_inputs=inputs))
        assert_same_outputs(back, source, inputs)

    def test_some_wider_some_narrower(self) -> None:
        source, module = nets.Residual(4, 6, 2), nets.Residual(8, 3, 2)
        report = transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=nets.image()))
        assert report["stem.weight"].status == "widened" and report["a.weight"].status == "sliced"
        assert report["na.running_mean"].status == "sliced" and report.share == 1

    def test_more_of_them_are_left_as_they_are(self) -> None:
        source, module = nets.mlp(2), nets.mlp(4)
        before = bits(module)
        report = transfer_weights(
            module, source, on_mismatch="slice", matching=Matching(example_inputs=torch.randn(2, 3))
        )
        assert torch.equal(module[0].weight, torch.cat([source[0].weight, before["0.weight"][2:]]))
        assert torch.equal(module[2].weight[:, :2], source[2].weight)
        assert torch.equal(module[2].weight[:, 2:], before["2.weight"][:, 2:])
        assert report["0.weight"].taken == 6


def hidden(source: nn.Module, module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The state of a wide net whose other channels are zero; its units moved on by one, so that none leads."""
    transfer_weights(module, source, on_mismatch="slice", matching=Matching(example_inputs=inputs))
    narrow = {group.name: group.width for group in channel_groups(source, inputs)}
    state = bits(module)
    for group in channel_groups(module, inputs):
        for member in group.members:
            extra = [i for unit in range(narrow[group.name], group.width) for i in member.index[unit]]
            if not member.name.endswith("running_var"):
                state[member.name].index_fill_(member.dim, torch.tensor(extra, dtype=torch.long), 0.0)
    for group in channel_groups(module, inputs):
        if group.fixed is None:
            move_on(group, state)
    return state


def move_on(group: ChannelGroup, state: dict[str, Tensor]) -> None:
    for member in group.members:
        order = list(range(state[member.name].shape[member.dim]))
        for unit, here in enumerate(member.index):
            for old, new in zip(here, member.index[(unit + 1) % group.width], strict=True):
                order[new] = old
        state[member.name] = state[member.name].index_select(member.dim, torch.tensor(order))
