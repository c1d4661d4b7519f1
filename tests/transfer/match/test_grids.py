"""Position embeddings: grids are resampled as grids, sequences are not, and what cannot be known is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.positions import RowLayout, checked_grid, resample_grid, resample_rows
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_weights import transfer_weights


def coordinates(rows: int, columns: int) -> Tensor:  # (rows * columns, 2), each its row and its column
    y, x = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
    return torch.stack([y, x], -1).reshape(-1, 2)


class Patches(nn.Module):
    """As vision transformers of several libraries: patches by a convolution, tokens in front."""

    def __init__(self, positions: int, width: int = 2, **attributes: Any) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 4, 4)
        for name, value in attributes.items():
            setattr(self.patch_embed, name, value)
        self.head = nn.Linear(2, 2)


class Bare(nn.Module):
    """Nothing stands beside the positions that tells what they are."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, 2))
        self.head = nn.Linear(2, 2)


class Words(nn.Module):
    """Positions as a parameter beside a table of words."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, positions, 2))
        self.words = nn.Embedding(9, 2)


class Table(nn.Module):
    """As nanoGPT: two tables side by side."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(9, 2)
        self.position_embedding_table = nn.Embedding(positions, 2)


def filled(net: nn.Module, rows: int, columns: int, *tokens: float) -> nn.Module:
    values = [torch.full((1, 2), token) for token in tokens]
    net.pos_embed.data[0] = torch.cat([*values, coordinates(rows, columns)])
    return net


class TestImages:
    @pytest.mark.parametrize("tokens", [(), (9.0,), (9.0, 8.0)])
    def test_squares_are_known_beside_a_convolution(self, tokens: tuple[float, ...]) -> None:
        old, new = filled(Patches(16 + len(tokens)), 4, 4, *tokens), Patches(64 + len(tokens))
        report = transfer_weights(new, old)
        assert report["pos_embed"].status == "interpolated" and report.share == 1
        grid = new.pos_embed[0, len(tokens) :].reshape(8, 8, 2)
        assert [row[0].item() for row in new.pos_embed[0, : len(tokens)].detach()] == list(tokens)
        torch.testing.assert_close(grid[1:-1, 4, 0], torch.arange(1, 7) / 2 - 0.25, atol=0.09, rtol=0)
        torch.testing.assert_close(grid[..., 0], grid[..., 1].T)

    def test_registers_are_counted_where_the_module_has_them(self) -> None:
        def net(side: int) -> nn.Module:
            module = Patches(side * side + 5)
            module.cls_token, module.reg_token = nn.Parameter(torch.zeros(1, 1, 2)), nn.Parameter(torch.zeros(1, 4, 2))
            return module

        old, new = filled(net(3), 3, 3, 1.0, 2.0, 3.0, 4.0, 5.0), net(4)
        assert transfer_weights(new, old)["pos_embed"].reason == "positions 3x3 and 5 tokens to 4x4 and 5 tokens"
        assert new.pos_embed[0, :5, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]

    @pytest.mark.parametrize("attributes", [{"grid_size": (2, 6)}, {"img_size": [8, 24], "patch_size": 4}])
    def test_the_grid_that_the_module_declares(self, attributes: dict[str, Any]) -> None:
        new = Patches(13, **attributes)
        transfer_weights(new, filled(Patches(17), 4, 4, 9.0))
        grid = new.pos_embed.detach()[0, 1:].reshape(2, 6, 2)
        assert torch.allclose(grid[:, :, 0], grid[:, :1, 0].expand(2, 6), atol=1e-5)  # a row has one row number
        assert torch.allclose(grid[:, :, 1], grid[:1, :, 1].expand(2, 6), atol=1e-5)
        assert new.pos_embed[0, 0].tolist() == [9.0, 9.0]

    @pytest.mark.parametrize("net", [Patches, Bare])
    @pytest.mark.parametrize("positions", [1 + 16 * 12, 1 + 14 * 28])
    @pytest.mark.parametrize("on_mismatch", ["skip", "slice"])
    def test_what_cannot_be_known_is_left_alone(self, net: Any, positions: int, on_mismatch: Any) -> None:
        new = net(positions)
        report = transfer_weights(new, filled(net(197), 14, 14, 99.0), on_mismatch=on_mismatch)
        assert report["pos_embed"].status == "skipped" and "pass their grids as `grid`" in report["pos_embed"].reason
        assert not new.pos_embed.any()

    def test_squares_alone_may_be_anything(self) -> None:
        assert transfer_weights(Bare(64), Bare(256))["pos_embed"].status == "skipped"
        assert transfer_weights(Bare(26), Bare(17))["pos_embed"].status == "interpolated"

    def test_another_width_too(self) -> None:
        old, new = filled(Patches(17), 4, 4, 9.0), Patches(65, width=1)
        report = transfer_weights(new, old, on_mismatch="slice")
        assert report["pos_embed"].status == "sliced"
        torch.testing.assert_close(new.pos_embed[0, 1::8, 0][1:-1], torch.arange(1, 7) / 2 - 0.25, atol=0.09, rtol=0)

    def test_error_is_strict(self) -> None:
        with pytest.raises(TransferError, match="pos_embed"):
            transfer_weights(Patches(26), Patches(17), on_mismatch="error")

    @pytest.mark.parametrize(("old", "new"), [((2, 3, 4), (2, 6, 8)), ((3, 4, 2), (6, 8, 2))])
    def test_grids_that_are_written_as_such(self, old: Any, new: Any) -> None:
        def net(shape: Any) -> nn.Module:
            module = nn.Module()
            module.pos_embed = nn.Parameter(torch.full((1, *shape), 3.0))
            return module

        module = net(new)
        nn.init.zeros_(module.pos_embed)
        assert transfer_weights(module, net(old)).share == 1
        assert torch.allclose(module.pos_embed, torch.tensor(3.0))

    def test_half_precision_stays(self) -> None:
        rows = torch.full((5, 2), 3.0, dtype=torch.float16)
        made = resample_rows(rows, RowLayout((2, 2), 1), RowLayout((3, 3), 1), rows.new_zeros(10, 2))
        assert made.dtype == torch.float16 and made.flatten().tolist() == [3.0] * 20

    def test_shrinking_skips_no_position(self) -> None:
        board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(8, 8)[None, None]
        assert torch.allclose(resample_grid(board, (4, 4)), torch.tensor(0.5), atol=0.05)


class TestGivenGrids:
    def test_other_sides_of_a_grid(self) -> None:
        new = Bare(1 + 16 * 12)
        report = transfer_weights(new, filled(Bare(197), 14, 14, 99.0), matching=Matching(grid=((14, 14), (16, 12))))
        rows = new.pos_embed.detach()[0, 1:].reshape(16, 12, 2)
        assert report["pos_embed"].reason == "positions 14x14 and 1 token to 16x12 and 1 token"
        assert new.pos_embed[0, 0].tolist() == [99.0, 99.0]
        torch.testing.assert_close(rows[:, -1, 0], (torch.arange(16) + 0.5) * 14 / 16 - 0.5, atol=0.1, rtol=0)
        torch.testing.assert_close(rows[3, :, 1], (torch.arange(12) + 0.5) * 14 / 12 - 0.5, atol=0.1, rtol=0)

    def test_as_many_positions_lying_otherwise(self) -> None:
        old, new = filled(Bare(12), 3, 4), Bare(12)
        transfer_weights(new, old)
        assert torch.equal(new.pos_embed, old.pos_embed)
        transfer_weights(new, old, matching=Matching(grid=((3, 4), (4, 3))))
        grid = new.pos_embed.detach()[0].reshape(4, 3, 2)
        assert torch.allclose(grid[:, 0, 0], grid[:, 2, 0], atol=1e-5) and grid[0, 2, 1] > 2.5

    def test_tokens_that_only_one_side_has(self) -> None:
        new = Bare(2 + 9)
        nn.init.constant_(new.pos_embed, -1.0)
        transfer_weights(new, filled(Bare(5), 2, 2, 7.0), matching=Matching(grid=((2, 2), (3, 3))))
        assert new.pos_embed[0, :2, 0].tolist() == [7.0, -1.0]
        new = Bare(9)
        transfer_weights(new, filled(Bare(6), 2, 2, 7.0, 8.0), matching=Matching(grid=((2, 2), (3, 3))))
        assert float(new.pos_embed.detach().max()) < 2

    def test_three_dimensions(self) -> None:
        new, old = Bare(2 * 3 * 3), Bare(2 * 2 * 2)
        nn.init.constant_(old.pos_embed, 3.0)
        assert transfer_weights(new, old, matching=Matching(grid=((2, 2, 2), (2, 3, 3)))).share == 1
        assert torch.allclose(new.pos_embed, torch.tensor(3.0))

    def test_by_a_pattern(self) -> None:
        nets = [nn.ModuleDict({"small": Bare(a), "large": Bare(b)}) for a, b in ((4, 6), (9, 12))]
        report = transfer_weights(
            nets[1], nets[0], matching=Matching(grid={"small": ((2, 2), (3, 3)), "large": ((2, 3), (3, 4))})
        )
        assert report.counts["interpolated"] == 2
        with pytest.raises(
            TransferError, match=r"fit `large.pos_embed`, got 2x2 for 6 rows .* and 4x4 for 12 in the module"
        ):
            transfer_weights(
                nets[1], nets[0], matching=Matching(grid={"large": ((2, 2), (4, 4)), "small": ((2, 2), (3, 3))})
            )

    def test_one_that_nothing_has(self) -> None:
        new = Bare(193)
        with pytest.raises(TransferError, match=r"`grid` to be that of a position embedding, got 32x32 .* and 16x12"):
            transfer_weights(new, Bare(197), matching=Matching(grid=((32, 32), (16, 12))))
        assert not new.pos_embed.any()

    @pytest.mark.parametrize(
        "grid",
        [14, "14x14", ((14, 14),), ((14, 14), (16,)), ((0, 2), (2, 2)), ((2.0, 2), (2, 2)), ((1,) * 4, (1,) * 4),
         {"a": (14, 14)}, ((True, 2), (2, 2))],
    )  # fmt: skip
    def test_what_is_none(self, grid: Any) -> None:
        with pytest.raises(TransferError, match="Expected `grid` as"):
            checked_grid(grid)
        with pytest.raises(TransferError, match="regular expression in `grid`"):
            checked_grid({"re:(": ((1,), (1,))})


class TestRelativePositions:
    def attention(self, rows: int, window: Any = None, index: int = 4) -> nn.Module:
        module = nn.Module()
        module.relative_position_bias_table = nn.Parameter(torch.zeros(rows, 2))
        module.register_buffer("relative_position_index", torch.full((index, index), 7))
        module.qkv = nn.Linear(2, 6)
        module.window_size = window
        return module

    def test_square_windows(self) -> None:
        old, new = self.attention(49, index=16), self.attention(169, index=49)
        old.relative_position_bias_table.data = coordinates(7, 7) - 3
        report = transfer_weights(new, old, on_mismatch="slice")
        table = new.relative_position_bias_table.detach().reshape(13, 13, 2)
        assert report["relative_position_bias_table"].status == "interpolated"
        assert torch.allclose(table[6, 6], torch.zeros(2), atol=1e-5) and torch.allclose(
            table, -table.flip(0, 1), atol=1e-4
        )
        # The index belongs to the window: a part of another one's would mix up the positions.
        assert report[
            "relative_position_index"
        ].status == "skipped" and new.relative_position_index.unique().tolist() == [7]

    def test_the_rows_of_a_class_token_are_kept_apart(self) -> None:
        old, new = self.attention(9 + 3), self.attention(25 + 3)
        old.relative_position_bias_table.data[9:] = 5.0
        transfer_weights(new, old)
        assert new.relative_position_bias_table[25:].tolist() == [[5.0, 5.0]] * 3
        assert not new.relative_position_bias_table[:25].any()

    def test_a_window_that_is_none(self) -> None:
        old, new = self.attention(49), self.attention(3 * 13, window=(2, 7))
        assert transfer_weights(new, old).share == 1
        assert transfer_weights(self.attention(3 * 13), old).names("skipped") == ["relative_position_bias_table"]
        assert transfer_weights(self.attention(3 * 13), old, matching=Matching(grid=((4, 4), (2, 7)))).share == 1

    def test_along_one_axis(self) -> None:
        def net(rows: int) -> nn.Module:
            module = nn.Module()
            module.rel_pos_h = nn.Parameter(torch.linspace(-1, 1, rows)[:, None].repeat(1, 2))
            return module

        new = net(9)
        expected = new.rel_pos_h.detach().clone()
        nn.init.zeros_(new.rel_pos_h)
        transfer_weights(new, net(5), on_mismatch="slice")
        torch.testing.assert_close(new.rel_pos_h.detach(), expected)


class TestSequences:
    @pytest.mark.parametrize("net", [Words, Table])
    @pytest.mark.parametrize("count", [16, 64, 256, 300])
    def test_slice_takes_the_first_rows(self, net: Any, count: int) -> None:
        """Lengths are squares, which those of texts often are."""
        old, new = net(64), net(count)
        (name,) = [name for name, tensor in new.state_dict().items() if len(tensor.reshape(-1, 2)) == count]
        before = new.state_dict()[name].clone().reshape(-1, 2)
        transfer_weights(new, old, on_mismatch="slice")
        rows, shared = new.state_dict()[name].reshape(-1, 2), min(count, 64)
        assert torch.equal(rows[:shared], old.state_dict()[name].reshape(-1, 2)[:shared])
        assert torch.equal(rows[shared:], before[shared:])

    @pytest.mark.parametrize("net", [Words, Table])
    def test_skip_leaves_them(self, net: Any) -> None:
        assert transfer_weights(net(16), net(64)).counts["skipped"] == 1

    def test_stretched_where_it_is_asked(self) -> None:
        old, new = Table(5), Table(9)
        old.position_embedding_table.weight.data = torch.arange(5.0)[:, None] @ torch.tensor([[1.0, -2.0]])
        transfer_weights(new, old, matching=Matching(grid={"position_embedding_table": ((5,), (9,))}))
        rows = new.position_embedding_table.weight.detach()
        assert torch.allclose(rows[:, 0], torch.arange(9.0) / 2) and torch.allclose(rows[:, 1], -torch.arange(9.0))

    @pytest.mark.parametrize("on_mismatch", ["skip", "slice"])
    @pytest.mark.parametrize("shape", [(1, -1, 2), (-1, 2), (-1, 1, 2)])
    def test_what_the_module_computes_stays(self, on_mismatch: Any, shape: Any) -> None:
        def net(count: int, scale: float) -> nn.Module:
            module = nn.Sequential(nn.Module(), nn.Linear(2, 2))
            table = scale * torch.arange(2.0 * count).reshape(shape)
            module[0].register_buffer("pe", table)
            return module

        new = net(20, 1.0)
        report = transfer_weights(new, net(10, -1.0), on_mismatch=on_mismatch)
        assert report["0.pe"].status == "initialised"
        assert torch.equal(new[0].pe, torch.arange(40.0).reshape(shape))

    def test_a_text_tower_beside_an_image_tower(self) -> None:
        def clip(side: int, length: int) -> nn.Module:
            module = nn.Module()
            module.visual = nn.Module()
            module.visual.conv1 = nn.Conv2d(3, 2, 4)
            module.visual.class_embedding = nn.Parameter(torch.zeros(2))
            module.visual.positional_embedding = nn.Parameter(torch.randn(side * side + 1, 2))
            module.token_embedding = nn.Embedding(9, 2)
            module.positional_embedding = nn.Parameter(torch.randn(length, 2))
            return module

        old, new = clip(3, 17), clip(4, 10)
        report = transfer_weights(new, old, on_mismatch="slice")
        assert report["visual.positional_embedding"].reason == "positions 3x3 and 1 token to 4x4 and 1 token"
        assert torch.equal(new.positional_embedding, old.positional_embedding[:10])
