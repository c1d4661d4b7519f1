"""What the tensors of a source leave open: it is asked of a source that is a module, and refused otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import wide_nets as nets
from channel_nets import randomised
from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_weights import transfer_weights

Make = Callable[[], nn.Module]
ATTENDING = {
    "as many heads": (nets.Attending, partial(nets.Attending, 16, 2)),
    "heads of one size": (nets.Attending, partial(nets.Attending, 16, 4)),
    "both other": (partial(nets.Attending, 8, 1), partial(nets.Attending, 24, 6)),
}
NORMED = {
    "as many groups": (partial(nets.group_normed, 8, 2), partial(nets.group_normed, 16, 2)),
    "groups of one size": (partial(nets.group_normed, 8, 2), partial(nets.group_normed, 16, 4)),
}
PAIRS: dict[str, tuple[Make, Make, Callable[[], Tensor], str]] = {
    **{name: (*pair, nets.sequence, "`attend.in_proj_weight`") for name, pair in ATTENDING.items()},
    **{name: (*pair, nets.image, "`0.weight`") for name, pair in NORMED.items()},
    **{name: (*nets.PAIRS[name], "`.*weight`") for name in nets.DIVIDED},
}
SAME = {"heads of one size", "as many groups"}  # what `approximate` assumes


def built(narrow: Make, wide: Make) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return randomised(narrow()).eval(), randomised(wide()).eval()


def assert_refused(module: nn.Module, source: nn.Module | dict[str, Tensor], inputs: Tensor, message: str) -> None:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(TransferError, match=message):
        transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=inputs))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


class TestDivisions:
    @pytest.mark.parametrize("name", sorted(PAIRS))
    def test_tensors_do_not_say_it(self, name: str) -> None:
        narrow, wide, inputs, group = PAIRS[name]
        source, module = built(narrow, wide)
        assert_refused(module, source.state_dict(), inputs(), f"how many heads or groups the channels of {group}")

    @pytest.mark.parametrize("name", sorted(SAME | nets.DIVIDED))
    def test_assumed(self, name: str) -> None:
        narrow, wide, inputs, _ = PAIRS[name]
        (source, module), x = built(narrow, wide), inputs()
        transfer_weights(
            module, source.state_dict(), on_mismatch="widen", matching=Matching(example_inputs=x, approximate=True)
        )
        torch.testing.assert_close(module(x), source(x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", [*ATTENDING, *NORMED])
    def test_outputs_of_a_module(self, name: str) -> None:
        narrow, wide, inputs, _ = PAIRS[name]
        (source, module), x = built(narrow, wide), inputs()
        if name not in SAME:
            assert_refused(module, source, x, "number of heads or groups|is 8 in the source|got other outputs")
            return
        transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=x))
        torch.testing.assert_close(module(x), source(x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("heads", [2, 4])
    def test_module_with_another_output_layer(self, heads: int) -> None:
        """Its outputs cannot be compared; its forward is followed."""
        (source, module), x = built(nets.Attending, partial(nets.Attending, 16, heads, classes=5)), nets.sequence()
        if heads == 2:
            assert_refused(module, source, x, "divides the channels of `attend.in_proj_weight` as this module does")
            return
        report = transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=x))
        assert report.names("initialised") == ["head.weight", "head.bias"]
        module.head, source.head = nn.Identity(), nn.Identity()
        torch.testing.assert_close(module(x), source(x)[..., torch.arange(8).repeat_interleave(2)])

    @pytest.mark.parametrize("groups", [2, 4])
    def test_norm_of_a_module_with_another_output_layer(self, groups: int) -> None:
        source, module = built(partial(nets.group_normed, 8, 2), partial(nets.group_normed, 16, groups))
        module[4] = nn.Linear(36 * 16, 5)
        x = nets.image()
        if groups == 4:
            assert_refused(module, source, x, "divides the channels of `0.weight` as this module does")
            return
        transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=x))
        wanted = source[:3](x)[:, torch.arange(8).repeat_interleave(2)]
        torch.testing.assert_close(module[:3](x), wanted, rtol=1e-4, atol=1e-5)

    def test_a_grouped_convolution_says_it(self) -> None:
        source, module = built(nets.grouped, partial(nets.grouped, 16, 2))
        assert_refused(module, source.state_dict(), nets.image(), "dimension 1 is 4 in the source and 8 in the module")


class TestConstants:
    @pytest.mark.parametrize("how", ["number", "buffer", "closure"])
    def test_made_of_a_width(self, how: str) -> None:
        source, module = nets.Scaled(9, how), nets.Scaled(36, how)
        place = "the buffer `scale`" if how == "buffer" else "in `(mul|div)` in the forward of the module itself"
        assert_refused(module, source.state_dict(), torch.randn(2, 3), rf"{place}: `embed.weight` is 36 wide")

    @pytest.mark.parametrize("scale", [6.5, 1.0, 0.9])
    def test_of_another_kind(self, scale: float) -> None:
        source, module = built(partial(nets.Scaled, 9, scale=scale), partial(nets.Scaled, 36, scale=scale))
        x = torch.randn(2, 3)
        transfer_weights(module, source.state_dict(), on_mismatch="widen", matching=Matching(example_inputs=x))
        torch.testing.assert_close(module(x), source(x))

    @pytest.mark.parametrize("scale", [6.0, None])
    def test_of_a_module_with_another_output_layer(self, scale: float | None) -> None:
        source, module = built(partial(nets.Scaled, 9, scale=scale), partial(nets.Scaled, 36, scale=scale, classes=5))
        x = torch.randn(2, 3)
        if scale is None:
            assert_refused(module, source, x, "no constant that may depend on a width, got 6 in")
            return
        report = transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=x))
        assert report.names("widened") == ["embed.weight", "embed.bias"]
