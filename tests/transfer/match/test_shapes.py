"""Tensors of another shape: input channels, positions, and channels by importance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.axes import Axis
from lightning_autoarch.transfer.match.shapes import repeat_channels
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_weights import transfer_weights


class TestFirstConvolution:
    @pytest.mark.parametrize("old", range(1, 8))
    @pytest.mark.parametrize("new", range(1, 8))
    def test_equal_channels_have_the_outputs_that_they_had(self, old: int, new: int) -> None:
        weight = torch.randn(4, old, 3, 3, dtype=torch.float64)
        repeated = repeat_channels(weight, new)
        assert repeated.shape == (4, new, 3, 3)
        x = torch.randn(2, 1, 5, 5, dtype=torch.float64)
        assert torch.allclose(
            conv2d(x.expand(-1, new, -1, -1), repeated), conv2d(x.expand(-1, old, -1, -1), weight), atol=1e-12
        )

    def test_by_hand(self) -> None:
        weight = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
        assert repeat_channels(weight, 1).flatten().tolist() == [6]
        assert repeat_channels(weight, 2).flatten().tolist() == [4, 2]
        assert repeat_channels(weight, 3).flatten().tolist() == [1, 2, 3]
        assert repeat_channels(weight, 4).flatten().tolist() == [0.5, 2, 3, 0.5]
        assert repeat_channels(weight, 6).flatten().tolist() == [0.5, 1, 1.5, 0.5, 1, 1.5]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
    def test_dtypes(self, dtype: torch.dtype) -> None:
        weight = torch.ones(1, 4, 1, dtype=dtype)
        assert repeat_channels(weight, 2).flatten().tolist() == [2, 2] and repeat_channels(weight, 8).dtype == dtype

    @pytest.mark.parametrize("on_mismatch", ["skip", "slice"])
    def test_in_a_net(self, on_mismatch: str) -> None:
        source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))
        report = transfer_weights(module, source, on_mismatch=on_mismatch)  # type: ignore[arg-type]
        x = torch.randn(1, 1, 8, 8)
        assert torch.allclose(module(x), source(x.expand(-1, 3, -1, -1)), atol=1e-5)
        assert report["0.weight"].status == "interpolated" and report.share == 1
        assert report["0.weight"].reason == "3 input channels repeated to 1"

    def test_narrower_too(self) -> None:
        source, module = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
        report = transfer_weights(module, {"0.weight": source.weight, "0.bias": source.bias}, on_mismatch="slice")
        assert torch.allclose(module[0].weight, source.weight[:2].sum(1, keepdim=True))
        assert report["0.weight"].status == "sliced"

    def test_only_the_first_and_not_in_groups(self) -> None:
        source = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
        module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1))
        assert "1.weight" in transfer_weights(module, source).names("skipped")
        source, module = (nn.Sequential(nn.Conv2d(4, 4, 1, groups=groups)) for groups in (2, 4))
        assert transfer_weights(module, source).names("skipped") == ["0.weight"]

    def test_error_is_strict(self) -> None:
        with pytest.raises(TransferError, match=r"`weight` to fit"):
            transfer_weights(nn.Conv2d(1, 4, 3), nn.Conv2d(3, 4, 3), on_mismatch="error")


class TestStacks:
    """What a net with its last hidden units dead computes, the narrower net computes."""

    @pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
    @pytest.mark.parametrize("both", [False, True])
    def test_recurrent(self, kind: type[nn.RNNBase], gates: int, both: bool) -> None:
        source, module = (kind(3, width, 2, bidirectional=both) for width in (5, 4))
        with torch.no_grad():
            for name, tensor in source.named_parameters():
                tensor.unflatten(0, (gates, 5))[:, 4] = 0  # no input and no state: the unit stays at tanh(0)
                if name.startswith("weight_ih_l1"):
                    tensor.unflatten(1, (-1, 5))[..., 4] = 0
                elif name.startswith("weight_hh"):
                    tensor[:, 4] = 0
        report = transfer_weights(module, source, on_mismatch="slice")
        x = torch.randn(6, 2, 3)
        expected = source(x)[0].unflatten(-1, (-1, 5))[..., :4].flatten(-2)
        assert torch.allclose(module(x)[0], expected, atol=1e-6)
        assert report.share == 1 and "missing" not in report.counts

    def test_wider(self) -> None:
        source, module = nn.LSTM(3, 4), nn.LSTM(3, 5)
        before = module.weight_hh_l0.detach().clone()
        transfer_weights(module, source, on_mismatch="slice")
        new, old = module.weight_hh_l0.unflatten(0, (4, 5)), source.weight_hh_l0.unflatten(0, (4, 4))
        assert torch.equal(new[:, :4, :4], old)
        assert torch.equal(new[:, 4], before.unflatten(0, (4, 5))[:, 4])

    def test_attention(self) -> None:
        source, module = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(4, 1)
        transfer_weights(module, source, on_mismatch="slice")
        for i in range(3):
            assert torch.equal(module.in_proj_weight[4 * i : 4 * i + 4], source.in_proj_weight[8 * i : 8 * i + 4, :4])

    def test_fused(self) -> None:
        source, module = (nn.ModuleDict({"qkv": nn.Linear(n, 3 * n), "out": nn.Linear(n, n)}) for n in (4, 2))
        transfer_weights(module, source, on_mismatch="slice")
        assert torch.equal(module["qkv"].weight[2:4], source["qkv"].weight[4:6, :2])


class TestImportantChannels:
    GROUPS = [[Axis("0.weight", 0), Axis("0.bias", 0), Axis("2.weight", 1, makes=False)]]

    def mlp(self, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

    def test_same_channels_where_they_are_made_and_read(self) -> None:
        source, module = self.mlp(6), self.mlp(4)
        with torch.no_grad():
            source[0].weight[[1, 4]] = 0
            source[0].bias[[1, 4]] = 0
        report = transfer_weights(module, source, on_mismatch="slice", matching=Matching(groups=self.GROUPS))
        x = torch.randn(5, 3)
        assert torch.allclose(module(x), source(x), atol=1e-6)  # what is left out was 0 everywhere
        assert report["2.weight"].reason == "most important 2x4 of 2x6"

    def test_leading_is_not_that(self) -> None:
        source, module = self.mlp(6), self.mlp(4)
        transfer_weights(module, source, on_mismatch="slice")
        assert torch.equal(module[2].weight, source[2].weight[:, :4])

    def test_ties_keep_the_first(self) -> None:
        source, module = self.mlp(6), self.mlp(4)
        for p in source.parameters():
            nn.init.ones_(p)
        transfer_weights(module, source, on_mismatch="slice", matching=Matching(groups=[[Axis("0.weight", 0)]]))
        assert torch.equal(module[0].weight, torch.ones(4, 3))

    def test_blocks_after_a_flatten(self) -> None:
        def conv(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(width * 4, 2))

        source, module = conv(4), conv(3)
        with torch.no_grad():
            source[0].weight[2] = 0
            source[0].bias[2] = 0
        groups = [[Axis("0.weight", 0), Axis("0.bias", 0), Axis("2.weight", 1, block=4, makes=False)]]
        transfer_weights(module, source, on_mismatch="slice", matching=Matching(groups=groups))
        x = torch.randn(2, 1, 4, 4)
        assert torch.allclose(module(x), source(x), atol=1e-6)

    def test_wider_is_leading(self) -> None:
        source, module = self.mlp(4), self.mlp(6)
        transfer_weights(module, source, on_mismatch="slice", matching=Matching(groups=self.GROUPS))
        assert torch.equal(module[0].weight[:4], source[0].weight)

    @pytest.mark.parametrize(
        ("axes", "message"),
        [
            ([Axis("0.weight", 0), Axis("2.weight", 0)], "Expected one number of channels"),
            ([Axis("0.weight", 0, block=4)], "Expected blocks of 4"),
            ([Axis("0.weigth", 0)], "names of the module in `groups`, got `0.weigth`. Did you mean `0.weight`?"),
            ([Axis("0.weight", 2)], r"a dimension of `0.weight` \(4, 3\) in `groups`, got 2"),
            (["0.weight", 0], "`groups` as lists of `Axis"),
        ],
    )
    def test_groups_that_cannot_be(self, axes: list[Any], message: str) -> None:
        with pytest.raises(TransferError, match=message):
            transfer_weights(self.mlp(4), self.mlp(6), on_mismatch="slice", matching=Matching(groups=[axes]))
