"""Networks of many kinds, small, and the oracle of channel removal: the dense network whose channels are not read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_autoarch.structure.groups import ChannelGroup

Case = tuple[Callable[[], nn.Module], Callable[[], object]]


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.a, self.na = nn.Conv2d(width, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.b, self.nb = nn.Conv2d(12, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.down, self.head = nn.Conv2d(width, 10, 1, stride=2), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))
        return self.head(F.relu(self.down(x)).mean((2, 3)))


class Dense(nn.Module):
    """Each layer reads all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * (i + 1)) for i in range(3))
        self.head = nn.Linear(15, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(torch.cat([x, F.relu(layer(x))], 1))
        return self.head(x.amax((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up, self.merge = nn.ConvTranspose2d(8, 5, 2, stride=2), nn.Conv2d(11, 7, 3, padding=1)
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        b = b + F.interpolate(F.avg_pool2d(b, 2), scale_factor=2)
        return self.out(F.relu(self.merge(torch.cat([self.up(b), a], 1))))


class Separable(nn.Module):
    """Inverted residual with squeeze and excitation, and a depth multiplier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.expand, self.norm = nn.Conv2d(6, 12, 1), nn.BatchNorm2d(12)
        self.depth, self.twice = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 24, 3, groups=12)
        self.squeeze, self.excite = nn.Conv2d(24, 4, 1), nn.Conv2d(4, 24, 1)
        self.project, self.head = nn.Conv2d(24, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.hardswish(self.twice(F.relu6(self.depth(F.relu6(self.norm(self.expand(x)))))))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))).sigmoid()
        return self.head((x[..., 1:-1, 1:-1] + self.project(y * gate)).flatten(2).sum(-1))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 3, groups=4)
        self.back, self.head = nn.ConvTranspose2d(8, 12, 3, groups=4), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.back(F.relu(self.grouped(F.relu(self.stem(x)))))))


def flatten_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 10), nn.BatchNorm1d(10),
        nn.Tanh(), nn.Linear(10, 3),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.GELU(), nn.ConvTranspose1d(6, 5, 3),
        nn.InstanceNorm1d(5, affine=True), nn.ELU(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(10, 2),
    )  # fmt: skip


def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.ConvTranspose3d(4, 6, 2), nn.ReLU(), nn.MaxPool3d(2),
        nn.Flatten(), nn.Linear(6 * 8, 2),
    )  # fmt: skip


def group_normed() -> nn.Module:
    """Fine groups: whole ones go, which is exact."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.GroupNorm(6, 12), nn.ReLU(), nn.Conv2d(12, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    )  # fmt: skip


class Reused(nn.Module):
    """One layer used twice, and two that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)
        self.right.weight = self.left.weight
        self.end = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(F.relu(self.again(F.relu(self.first(x)))))
        return self.last(x) + self.end(F.relu(self.left(x)) * self.right(x))


class Chunked(nn.Module):
    """Gated units, halves by chunk, and a split that is unequal."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 8)
        self.keep, self.rest = nn.Linear(3, 5), nn.Linear(5, 2)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, -1)
        y = self.down(value * F.silu(gate))
        return self.head(F.relu(self.keep(y[..., :3]))) + self.rest(y[..., 3:])


CONVOLUTIONAL: dict[str, Case] = {
    "residual": (Residual, lambda: torch.randn(3, 3, 6, 6)),
    "dense": (Dense, lambda: torch.randn(2, 3, 5, 5)),
    "unet": (UNet, lambda: torch.randn(2, 1, 8, 8)),
    "separable": (Separable, lambda: torch.randn(2, 3, 6, 6)),
    "grouped": (Grouped, lambda: torch.randn(2, 3, 6, 6)),
    "flatten": (flatten_net, lambda: torch.randn(3, 3, 8, 8)),
    "conv1d": (one_dimensional, lambda: torch.randn(3, 2, 9)),
    "conv3d": (three_dimensional, lambda: torch.randn(2, 1, 5, 5, 5)),
    "group_norm": (group_normed, lambda: torch.randn(2, 3, 6, 6)),
    "reused": (Reused, lambda: torch.randn(5, 4)),
    "chunked": (Chunked, lambda: torch.randn(5, 4)),
}


class SelfAttention(nn.Module):
    """nn.MultiheadAttention on a residual stream without norms."""

    def __init__(self, batch_first: bool = True, need_weights: bool = True, **options: object) -> None:
        super().__init__()
        self.embed, self.need_weights = nn.Linear(3, 12), need_weights
        self.attend = nn.MultiheadAttention(12, 4, batch_first=batch_first, **options)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        x = self.embed(x)
        y, _ = self.attend(x, x, x, key_padding_mask=padding, need_weights=self.need_weights)
        return self.head(x + y)


class CrossAttention(nn.Module):
    """Keys and values of other sizes than the queries, with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 8), nn.Linear(4, 6), nn.Linear(5, 10)
        self.attend = nn.MultiheadAttention(8, 2, kdim=6, vdim=10)
        self.head = nn.Linear(8, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        out, _ = self.attend(self.q(q).relu(), self.k(k).relu(), self.v(v).relu(), attn_mask=mask)
        return self.head(out)


class HandWritten(nn.Module):
    """Attention as people write it: packed projections, views with `self.heads`, a scale, no norms."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 4, 3
        self.embed, self.position = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 7, 8))
        self.qkv, self.out = nn.Linear(8, 36), nn.Linear(12, 8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position[:, : tokens.shape[1]]
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, t, self.heads * self.head_dim))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x).mean(1)


class GroupedQueries(nn.Module):
    """Two query heads share a key head; rotary positions; fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.kv_heads = 4, 2
        self.embed = nn.Linear(3, 8)
        self.q, self.k, self.v = nn.Linear(8, 16, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.out, self.head = nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        angle = torch.arange(t)[:, None] / torch.tensor([1.0, 10.0, 1.0, 10.0])
        q, k = (x * angle.cos() + torch.cat([-x[..., 2:], x[..., :2]], -1) * angle.sin() for x in (q, k))
        k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(b, -1, t, 4) for x in (k, v))
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1)))


def encoder(norm_first: bool = False, layers: int = 2) -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, norm_first=norm_first)
    stack = nn.TransformerEncoder(layer, layers, enable_nested_tensor=not norm_first)
    return nn.Sequential(nn.Linear(3, 12), stack, nn.Linear(12, 2))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.target = nn.Linear(3, 8), nn.Linear(3, 8)
        self.decoder, self.head = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True), nn.Linear(8, 2)

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.decoder(self.target(target), self.memory(memory), tgt_mask=mask, tgt_is_causal=True))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, **options: object) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Linear(3, 6), kind(6, 8, batch_first=True, **options)
        self.head = nn.Linear(16 if options.get("bidirectional") else 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0][:, -1])


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.size = 8
        self.lstm, self.gru, self.head = nn.LSTMCell(3, 8), nn.GRUCell(8, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, c, g = x.new_zeros(x.shape[0], self.size), x.new_zeros(x.shape[0], self.size), None
        for step in x.unbind(1):
            h, c = self.lstm(step, (h, c))
            g = self.gru(h, g)
        return self.head(g)


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.back = nn.Embedding(9, 6), nn.Linear(6, 10), nn.Linear(10, 6)
        self.decode = nn.Linear(6, 9)
        self.decode.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decode(self.back(F.relu(self.hidden(self.embed(tokens)))))


def _sequence() -> Tensor:
    return torch.randn(2, 5, 3)


def _crossing() -> tuple[Tensor, ...]:
    return torch.randn(4, 2, 3), torch.randn(5, 2, 4), torch.randn(5, 2, 5), torch.ones(4, 5).tril() - 1


def _padded() -> tuple[Tensor, Tensor]:
    return _sequence(), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


SEQUENTIAL: dict[str, Case] = {
    "attention": (SelfAttention, _sequence),
    "attention_padded": (SelfAttention, _padded),
    "attention_time_first": (lambda: SelfAttention(batch_first=False, need_weights=False), _sequence),
    "attention_unbatched": (SelfAttention, lambda: torch.randn(5, 3)),
    "attention_extended": (lambda: SelfAttention(add_bias_kv=True, add_zero_attn=True, bias=False), _padded),
    "cross_attention": (CrossAttention, _crossing),
    "hand_written": (HandWritten, lambda: torch.randint(0, 11, (2, 5))),
    "grouped_queries": (GroupedQueries, _sequence),
    "encoder": (encoder, _sequence),
    "encoder_norm_first": (lambda: encoder(norm_first=True), _sequence),
    "decoder": (Decoder, lambda: (torch.randn(2, 4, 3), torch.randn(2, 5, 3))),
    "lstm": (Recurrent, _sequence),
    "lstm_deep": (lambda: Recurrent(num_layers=2, bidirectional=True), _sequence),
    "gru": (lambda: Recurrent(nn.GRU, num_layers=2), _sequence),
    "gru_bidirectional": (lambda: Recurrent(nn.GRU, bidirectional=True, bias=False), _sequence),
    "rnn": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), _sequence),
    "cells": (Cells, _sequence),
    "tied": (TiedLanguageModel, lambda: torch.randint(0, 9, (2, 5))),
}


def randomised(module: nn.Module) -> nn.Module:
    """Nothing at its default: biases, norms and statistics that are not 0 or 1."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.copy_(torch.randn_like(tensor).mul_(0.3).add_(0.1))
    for name, tensor in module.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
    return module


def call(module: nn.Module, inputs: object) -> Tensor:
    """The output, one tensor."""
    out = (
        module(**inputs)
        if isinstance(inputs, dict)
        else module(*inputs)
        if isinstance(inputs, tuple)
        else module(inputs)
    )
    return out[0] if isinstance(out, tuple) else out


def unread(module: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy that multiplies the channels that go by 0 where they are consumed."""
    return _zeroed(module, groups, keep, {"consumer", "tied"})


def unproduced(module: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy in which the channels that go are 0: exact where an activation of 0 is 0."""
    return _zeroed(module, groups, keep, {"producer", "along", "tied"})


def _zeroed(
    module: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, Sequence[int]], roles: set[str]
) -> nn.Module:
    result = copy.deepcopy(module)
    tensors = dict([*result.named_parameters(), *result.named_buffers()])
    for group in groups:
        gone = [unit for unit in range(group.width) if unit not in keep.get(group.name, range(group.width))]
        for member in group.members:
            index = [i for unit in gone for i in member.index[unit]]
            if member.role in roles and not member.name.endswith("running_var"):
                with torch.no_grad():
                    tensors[member.name].index_fill_(member.dim, torch.tensor(index, dtype=torch.long), 0.0)
    return result


def half(group: ChannelGroup, seed: int) -> list[int]:
    """About half of its units, at random."""
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(group.width, generator=generator)[: max(1, group.width // 2)].tolist())
