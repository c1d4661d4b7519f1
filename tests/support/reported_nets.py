"""Thirty small networks of the kinds that public reports say break pruning of channels, written for this purpose."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def conv(inside: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


class ResNet(nn.Module):
    """Residual blocks, one with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.a, self.b = nn.Sequential(conv(16, 16), conv(16, 16)), nn.Sequential(conv(16, 32, stride=2), conv(32, 32))
        self.short, self.head = nn.Conv2d(16, 32, 1, 2), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.a(x)
        return self.head((self.b(x) + self.short(x)).relu().mean((2, 3)))


class DenseNet(nn.Module):
    """Every layer reads all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 8 * i), nn.ReLU(), nn.Conv2d(16 + 8 * i, 8, 3, padding=1))
            for i in range(3)
        )
        self.head = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Inception(nn.Module):
    """Branches that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.a, self.b, self.c = conv(16, 8, 1), nn.Sequential(conv(16, 8, 1), conv(8, 16)), conv(16, 8, 5)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([self.a(x), self.b(x), self.c(F.max_pool2d(x, 3, 1, 1))], 1)).mean((2, 3))


class ShuffleNet(nn.Module):
    """Halves by chunk, channels shuffled by views."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = conv(3, 32), nn.Sequential(conv(16, 16, 1), conv(16, 16, groups=16), conv(16, 16, 1))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.mean((2, 3)))


class ResNeXt(nn.Module):
    """Grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 32), nn.Sequential(conv(32, 32, 1), conv(32, 32, groups=8), conv(32, 32, 1))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.body(x)).mean((2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.down, self.up = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(F.relu(self.down(x.mean((2, 3))))).sigmoid()
        return x * gate.view(-1, self.width, 1, 1)


class MobileNet(nn.Module):
    """Inverted residuals, depthwise convolutions, squeeze and excitation, hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depth = conv(3, 16), nn.Conv2d(16, 64, 1), nn.Conv2d(64, 64, 3, 1, 1, groups=64)
        self.gate, self.project, self.head = SqueezeExcite(64), nn.Conv2d(64, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.project(self.gate(F.hardswish(self.depth(F.hardswish(self.expand(x))))))
        return self.head((x + y).mean((2, 3)))


class EfficientNet(nn.Module):
    """Swish, excitation by convolutions, and blocks that are dropped at random in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depth = conv(3, 16), conv(16, 48, 1), conv(48, 48, 5, groups=48)
        self.squeeze, self.excite = nn.Conv2d(48, 4, 1), nn.Conv2d(4, 48, 1)
        self.project, self.head = nn.Sequential(nn.Conv2d(48, 16, 1), nn.BatchNorm2d(16)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depth(self.expand(x))
        y = self.project(y * self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))).sigmoid())
        if self.training:
            y = y * torch.empty(len(y), 1, 1, 1).bernoulli_(0.8) / 0.8
        return self.head((x + y).mean((2, 3)))


class C2f(nn.Module):
    """Detector with split features: chunk, a chain of bottlenecks, concatenation; two outputs in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = conv(3, 16, stride=2), conv(16, 32, 1)
        self.blocks = nn.ModuleList(nn.Sequential(conv(16, 16), conv(16, 16)) for _ in range(2))
        self.last, self.down = conv(64, 32, 1), conv(32, 32, stride=2)
        self.fine, self.coarse = nn.Conv2d(64, 6, 1), nn.Conv2d(32, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = list(self.first(self.stem(x)).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        x = self.last(torch.cat(parts, 1))
        low = self.down(x)
        return self.fine(torch.cat([x, F.interpolate(low, scale_factor=2)], 1)), self.coarse(low)


class UNet(nn.Module):
    """Skip connections over a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 16), conv(16, 32), conv(48, 16)
        self.up, self.head = nn.ConvTranspose2d(32, 32, 2, 2), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.head(self.c(torch.cat([self.up(self.b(F.max_pool2d(a, 2))), a], 1)))


class ConvNeXt(nn.Module):
    """Channels last for a norm, a scale that is a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 16, 2, 2), nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.gamma, self.head = nn.Parameter(torch.ones(16)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        return self.head((x + (self.gamma * y).permute(0, 3, 1, 2)).mean((-2, -1)))


def super_resolution() -> nn.Module:
    return nn.Sequential(conv(3, 32), conv(32, 32), nn.Conv2d(32, 64, 3, 1, 1), nn.PixelShuffle(2), nn.ReLU(),
                         nn.Conv2d(16, 3, 3, 1, 1))  # fmt: skip


def generator() -> nn.Module:
    """DCGAN: a vector becomes an image."""
    return nn.Sequential(
        nn.Linear(8, 32 * 16), nn.Unflatten(1, (32, 4, 4)), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1),
        nn.Tanh(),
    )  # fmt: skip


class VAE(nn.Module):
    """Two heads, a sample, and a view back to an image whose sizes are attributes."""

    def __init__(self, width: int = 16, latent: int = 8) -> None:
        super().__init__()
        self.width = width
        self.encoder = nn.Sequential(conv(1, width, stride=2), conv(width, 2 * width, stride=2), nn.Flatten())
        self.mean, self.log = nn.Linear(32 * width // 4, latent), nn.Linear(32 * width // 4, latent)
        self.back = nn.Linear(latent, 8 * width)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 2, 2), nn.ReLU(), nn.ConvTranspose2d(width, 1, 2, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encoder(x)
        mean, log = self.mean(x), self.log(x)
        z = mean + torch.randn_like(mean) * (log / 2).exp() * self.training
        return self.decoder(self.back(z).relu().view(-1, self.width * 2, 2, 2)), mean, log


def autoencoder() -> nn.Module:
    return nn.Sequential(
        conv(1, 16), nn.Flatten(), nn.Linear(16 * 64, 32), nn.ReLU(), nn.Linear(32, 16 * 64),
        nn.Unflatten(1, (16, 8, 8)), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1),
    )  # fmt: skip


class LeNet(nn.Module):
    """A view whose size is written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.head = nn.Linear(16 * 4, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.b(F.max_pool2d(F.relu(self.a(x)), 2))), 2)
        return self.head(F.relu(self.c(x.view(-1, 16 * 2 * 2))))


class Mixer(nn.Module):
    """Products over tokens, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.n1, self.n2 = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16), nn.LayerNorm(16)
        self.t1, self.t2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.c1, self.c2, self.head = nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.t2(F.gelu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        return self.head((x + self.c2(F.gelu(self.c1(self.n2(x))))).mean(1))


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.n1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class ViT(nn.Module):
    """A class token, positions, heads of `channels // heads`."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 5, 32))
        self.blocks, self.norm = nn.Sequential(ViTBlock(32, 4), ViTBlock(32, 4)), nn.LayerNorm(32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


class Swin(nn.Module):
    """Attention in shifted windows with a table of relative positions; patches are merged."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.window = 4, 2
        self.patch, self.norm = nn.Conv2d(3, 32, 1), nn.LayerNorm(32)
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.table = nn.Parameter(torch.randn(9, 4))
        self.register_buffer("index", torch.randint(0, 9, (4, 4)))
        self.merge, self.head = nn.Linear(128, 64, bias=False), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        s = self.window
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        y = self.attend(y).view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.merge(x).relu().mean((1, 2)))

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        attention = (q * 8**-0.5 @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))


class Llama(nn.Module):
    """Grouped queries, rotary positions, SwiGLU, RMSNorm, sizes in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.pairs, self.size = 4, 2, 8
        self.embed, self.n1, self.n2, self.n3 = nn.Embedding(20, 32), nn.RMSNorm(32), nn.RMSNorm(32), nn.RMSNorm(32)
        self.q, self.k, self.v, self.o = (nn.Linear(32, n, bias=False) for n in (32, 16, 16, 32))
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((32, 64), (32, 64), (64, 32)))
        self.head = nn.Linear(32, 20, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        b, t, _ = x.shape
        y = self.n1(x)
        q = self.rotated(self.q(y).view(b, t, self.heads, self.size).transpose(1, 2))
        k = self.rotated(self.k(y).view(b, t, self.pairs, self.size).transpose(1, 2))
        v = self.v(y).view(b, t, self.pairs, self.size).transpose(1, 2)
        k, v = (x.repeat_interleave(self.heads // self.pairs, 1) for x in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).contiguous().view(b, t, -1)
        x = x + self.o(y)
        y = self.n2(x)
        return self.head(self.n3(x + self.down(F.silu(self.gate(y)) * self.up(y))))

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(x.shape[2]), 10000 ** (-torch.arange(0, 8, 2) / 8)).repeat(1, 2)
        first, second = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()


class GPT(nn.Module):
    """Tied embedding and output, packed projections split by an attribute, a causal mask in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.heads = 32, 4
        self.embed, self.place = nn.Embedding(20, 32), nn.Embedding(8, 32)
        self.n1, self.n2, self.n3 = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.packed, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 32)
        self.head = nn.Linear(32, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(8, 8).tril().view(1, 1, 8, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        b, t, c = x.size()
        parts = self.packed(self.n1(x)).split(self.width, dim=2)
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in parts)
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf")).softmax(-1)
        x = x + self.proj((scores @ v).transpose(1, 2).contiguous().view(b, t, c))
        return self.head(self.n3(x + self.down(F.gelu(self.up(self.n2(x))))))


class Encoder(nn.Module):
    """Layers of torch.nn, with its fused path."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.embed, self.body = nn.Linear(6, 32), nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(1))


class CrossAttention(nn.Module):
    """nn.MultiheadAttention between two inputs, given as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(6, 32), nn.Linear(5, 32)
        self.attend, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 4)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        q, kv = self.q(inputs["query"]).relu(), self.kv(inputs["memory"]).relu()
        return {"scores": self.head(q + self.attend(q, kv, kv)[0])}


class Tagger(nn.Module):
    """Embedding, LSTM of two layers in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0])


class Forecaster(nn.Module):
    """Convolution, GRU, its last state squeezed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(3, 16, 3, padding=1), nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.conv(x).relu().transpose(1, 2))[1].squeeze(0))


class TCN(nn.Module):
    """Causal dilated convolutions in weight norm, padding cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.a = weight_norm(nn.Conv1d(3, 32, 3, padding=2))
        self.b = weight_norm(nn.Conv1d(32, 32, 3, padding=4, dilation=2))
        self.down, self.head = nn.Conv1d(3, 32, 1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x)[:, :, :-2].contiguous())
        y = F.relu(self.b(y)[:, :, :-4].contiguous())
        return self.head(F.relu(y + self.down(x))[:, :, -1])


class WaveNet(nn.Module):
    """Gates of halves, skips that are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(2))
        self.skips, self.back = (nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(2)) for _ in range(2))
        self.head = nn.Conv1d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), 0
        for gate, skip, back in zip(self.gates, self.skips, self.back, strict=True):
            y = gate(F.pad(x, (gate.dilation[0], 0)))
            y = y[:, : y.shape[1] // 2].tanh() * y[:, y.shape[1] // 2 :].sigmoid()
            total, x = total + skip(y), x + back(y)
        return self.head(F.relu(total))


class GraphAttention(nn.Module):
    """Heads by einsum, a vector of each that is a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 4, 8
        self.first, self.value, self.last = nn.Linear(6, 16), nn.Linear(16, 32), nn.Linear(32, 3)
        self.left, self.right = nn.Parameter(torch.randn(1, 4, 8)), nn.Parameter(torch.randn(1, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.value(F.relu(self.first(x))).view(-1, self.heads, self.size)
        scores = F.leaky_relu((y * self.left).sum(-1)[:, None] + (y * self.right).sum(-1)[None]).softmax(1)
        return self.last(F.elu(torch.einsum("ijh,jhd->ihd", scores, y).flatten(1)))


class Bilinear(nn.Module):
    """Two inputs in a product of three; FiLM, whose scale and shift come from another net."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.both = nn.Linear(6, 16), nn.Linear(5, 16), nn.Bilinear(16, 16, 32)
        self.film, self.head = nn.Linear(5, 64), nn.Linear(32, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        y = self.both(self.a(a).relu(), self.b(b).relu())
        scale, shift = self.film(b).chunk(2, -1)
        return self.head(F.relu(y * scale + shift))


class Experts(nn.Module):
    """Weights that are bare parameters of three dimensions, used by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router = nn.Linear(6, 16), nn.Linear(16, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 16, 32)), nn.Parameter(torch.randn(4, 32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        weights = self.router(x).softmax(-1)
        y = torch.einsum("ebh,ehd->ebd", F.gelu(torch.einsum("bd,edh->ebh", x, self.up)), self.down)
        return self.head(x + torch.einsum("be,ebd->bd", weights, y))


class Siamese(nn.Module):
    """One body for two inputs, which are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 16), nn.MaxPool2d(2), conv(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(32, 2)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        left, right = (self.body(x) for x in pair)
        return self.head((left - right).abs())


class Deformed(nn.Module):
    """Features sampled where another convolution says."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.offset, self.body = conv(3, 16), nn.Conv2d(16, 2, 3, 1, 1), conv(16, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        grid = self.offset(x).permute(0, 2, 3, 1).tanh()
        return self.head(self.body(F.grid_sample(x, grid, align_corners=False)).mean((2, 3)))


def _image(channels: int = 3, size: int = 8) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, channels, size, size)


def _tokens() -> Tensor:
    return torch.randint(0, 20, (2, 6))


def _series() -> Tensor:
    return torch.randn(2, 3, 9)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], object]]] = {
    "ResNet": (ResNet, _image()),
    "DenseNet": (DenseNet, _image()),
    "Inception": (Inception, _image()),
    "ShuffleNet": (ShuffleNet, _image()),
    "ResNeXt": (ResNeXt, _image()),
    "MobileNetV3": (MobileNet, _image()),
    "EfficientNet": (EfficientNet, _image()),
    "YOLO, C2f": (C2f, _image()),
    "U-Net": (UNet, _image()),
    "ConvNeXt": (ConvNeXt, _image()),
    "pixel shuffle": (super_resolution, _image()),
    "DCGAN": (generator, lambda: torch.randn(2, 8)),
    "VAE": (VAE, _image(1)),
    "conv autoencoder": (autoencoder, _image(1)),
    "LeNet, sizes in the code": (LeNet, _image(1)),
    "MLP-Mixer": (Mixer, _image()),
    "ViT, C // heads": (ViT, _image()),
    "Swin": (Swin, _image(size=4)),
    "Llama": (Llama, _tokens),
    "GPT, tied": (GPT, _tokens),
    "nn.TransformerEncoder": (Encoder, lambda: torch.randn(2, 5, 6)),
    "nn.MultiheadAttention, dict": (
        CrossAttention,
        lambda: ({"query": torch.randn(2, 4, 6), "memory": torch.randn(2, 5, 5)},),
    ),
    "LSTM": (Tagger, _tokens),
    "GRU": (Forecaster, _series),
    "TCN, weight norm": (TCN, _series),
    "WaveNet": (WaveNet, _series),
    "graph attention": (GraphAttention, lambda: torch.randn(7, 6)),
    "bilinear, FiLM": (Bilinear, lambda: (torch.randn(3, 6), torch.randn(3, 5))),
    "experts, einsum": (Experts, lambda: torch.randn(5, 6)),
    "siamese, tuple": (Siamese, lambda: ((torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)),)),
    "deformed": (Deformed, _image()),
}
