"""Networks that are built narrow or wide: the source and the target of a transfer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(width: int = 4, second: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, second), nn.Tanh(), nn.Linear(second, 2))


class Residual(nn.Module):
    """Convolutions, batch norms, a block around which the stream goes, and one that is concatenated to it."""

    def __init__(self, width: int = 4, inner: int = 3, beside: int = 2) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.a, self.na = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.b, self.nb = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.side = nn.Conv2d(width, beside, 1)
        self.head = nn.Linear(width + beside, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))
        return self.head(torch.cat([x, F.relu(self.side(x))], 1).mean((2, 3)))


def flattened(width: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * width, 2))


def depthwise(width: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, groups=width), nn.BatchNorm2d(width),
        nn.Conv2d(width, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def group_normed(width: int = 8, groups: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 1), nn.GroupNorm(groups, width), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 2)
    )


class Encoder(nn.Module):
    """torch's own encoder; heads of size 4."""

    def __init__(self, width: int = 8, hidden: int = 10, scaled: bool = False) -> None:
        super().__init__()
        self.scale = math.sqrt(width) if scaled else 1.0
        self.embed = nn.Linear(3, width)
        layer = nn.TransformerEncoderLayer(width, width // 4, hidden, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) * self.scale))


class Heads(nn.Module):
    """More heads of one size on a stream of one width."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.qkv, self.out = nn.Linear(3, 6), nn.Linear(6, 9 * heads), nn.Linear(3 * heads, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, 3).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1)
        return self.head(x + self.out(out))


class Attending(nn.Module):
    """As many heads as asked for, and a head of its own to replace."""

    def __init__(self, width: int = 8, heads: int = 2, classes: int = 2) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(3, width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.attend(x, x, x, need_weights=False)[0])


class Scaled(nn.Module):
    """Multiplied by a constant that was made when the module was built: kept as a number, in a buffer, in a closure."""

    def __init__(self, width: int = 9, how: str = "number", scale: float | None = None, classes: int = 2) -> None:
        super().__init__()
        scale = math.sqrt(width) if scale is None else scale
        self.embed, self.head = nn.Linear(3, width), nn.Linear(width, classes)
        self.scale = nn.Buffer(torch.tensor(scale), persistent=False) if how == "buffer" else scale
        self.act = (lambda x: x.relu() / scale) if how == "closure" else (lambda x: x.relu() * self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.embed(x)))


def grouped(width: int = 8, groups: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, groups=groups), nn.ReLU(), nn.Conv2d(width, 2, 1)
    )


class Recurrent(nn.Module):
    def __init__(self, hidden: int = 4, kind: type[nn.RNNBase] = nn.LSTM, **options: object) -> None:
        super().__init__()
        self.rnn = kind(3, hidden, batch_first=True, **options)
        self.head = nn.Linear(hidden * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Shuffled(nn.Module):
    """Channels in an order that depends on their number."""

    def __init__(self, width: int = 4, grid: tuple[int, int] = (2, -1)) -> None:
        super().__init__()
        self.first, self.last, self.grid = nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1), grid

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x)).unflatten(1, self.grid)
        return self.last(x.transpose(1, 2).flatten(1, 2))


class Located(nn.Module):
    """Sinusoids that are computed, and are not in the state_dict."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, width), nn.Linear(width, 2)
        self.register_buffer("places", torch.arange(5 * width).reshape(5, width).sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.embed(x) + self.places))


class Tied(nn.Module):
    """An embedding that is the output layer too."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed, self.decode = nn.Embedding(7, width), nn.Linear(width, 7, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.embed(x))


def image() -> Tensor:
    return torch.randn(2, 3, 6, 6)


def sequence() -> Tensor:
    return torch.randn(2, 5, 3)


Pair = tuple[Callable[[], nn.Module], Callable[[], nn.Module], Callable[[], Tensor]]

# Narrow, wide, inputs.
PAIRS: dict[str, Pair] = {
    "mlp": (mlp, lambda: mlp(9, 5), lambda: torch.randn(5, 3)),
    "mlp, one layer": (mlp, lambda: mlp(8), lambda: torch.randn(5, 3)),
    "residual": (Residual, lambda: Residual(7, 5, 3), image),
    "residual, inside": (Residual, lambda: Residual(4, 9), image),
    "residual, beside": (Residual, lambda: Residual(4, 3, 5), image),
    "flatten": (flattened, lambda: flattened(5), image),
    "depthwise": (depthwise, lambda: depthwise(9), image),
    "group norm": (group_normed, lambda: group_normed(16), image),
    "group norm, few groups": (lambda: group_normed(8, 2), lambda: group_normed(24, 2), image),
    "encoder": (Encoder, lambda: Encoder(16, 13), sequence),
    "encoder, threefold": (Encoder, lambda: Encoder(24), sequence),
    "encoder, hidden": (Encoder, lambda: Encoder(8, 17), sequence),
    "heads": (Heads, lambda: Heads(5), sequence),
    "grouped convolution": (grouped, lambda: grouped(16, 4), image),
    "lstm": (Recurrent, lambda: Recurrent(7), sequence),
    "lstm, deep": (
        lambda: Recurrent(num_layers=2, bidirectional=True),
        lambda: Recurrent(6, num_layers=2, bidirectional=True),
        sequence,
    ),
    "gru": (lambda: Recurrent(kind=nn.GRU), lambda: Recurrent(9, nn.GRU), sequence),
}

# Into how many heads or groups the narrow one divides its channels: its tensors do not say it.
DIVIDED = frozenset({"group norm", "group norm, few groups", "encoder", "encoder, threefold", "heads"})
