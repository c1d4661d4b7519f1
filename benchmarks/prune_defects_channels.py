"""Defects of Torch-Pruning, which removes channels; ours is `ChannelPruning`, in the middle of a fit."""

from __future__ import annotations

import copy
from typing import Any

import torch
from conformance import Defect, Seen, told
from harness import Skip
from prune_defects import STEPS, Net, fit, steps
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.prune.channels import prune_channels_
from lightning_autoarch.prune.schedule import Step


def prune_channels(module: nn.Module, x: Tensor, keep: list[nn.Module]) -> None:
    try:
        import torch_pruning
    except ImportError as error:
        raise Skip(f"Torch-Pruning is not installed ({error})") from error
    importance = torch_pruning.importance.MagnitudeImportance()
    torch_pruning.pruner.MagnitudePruner(module, x, importance, pruning_ratio=0.5, ignored_layers=keep).step()


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shrunk(module: nn.Module, x: Tensor, keep: list[nn.Module]) -> Seen:
    """Right if it came out smaller and still runs."""
    before = size(module)
    prune_channels(module, x, keep)
    module(x)
    return Seen(f"{before} parameters became {size(module)}, runs", size(module) < before)


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 2))


def frozen_of_peer() -> Seen:
    module = perceptron().requires_grad_(False)
    before = size(module)
    prune_channels(module, torch.randn(2, 8), [module[-1]])
    return Seen(f"no error; {before} parameters became {size(module)}", size(module) < before)


def frozen_of_ours() -> Seen:
    """Smaller, and still frozen."""
    module = perceptron().requires_grad_(False)
    before = size(module)
    prune_channels_(module, torch.randn(2, 8), 0.5)
    module(torch.randn(2, 8))
    frozen = not any(parameter.requires_grad for parameter in module.parameters())
    text = f"{before} parameters became {size(module)}, {'frozen' if frozen else 'not frozen'}"
    return Seen(text, frozen and size(module) < before)


def optimizer_of_peer() -> Seen:
    module = perceptron()
    optimizer = steps(module, x := torch.randn(2, 8))
    prune_channels(module, x, [module[-1]])
    return known([p for group in optimizer.param_groups for p in group["params"]], module)


def optimizer_of_ours() -> Seen:
    module = Net(*perceptron())
    before = size(module)
    trainer = fit(module, ChannelPruning(0.5, at=Step(STEPS // 2)))
    if size(module) == before:
        return Seen("nothing was removed", False)
    return known(trainer.optimizers[0].param_groups[0]["params"], module)


def known(held: list[Any], module: nn.Module) -> Seen:
    """How many of the parameters the optimizer has."""
    there = {id(parameter) for parameter in held}
    parameters = list(module.parameters())
    count = sum(id(parameter) in there for parameter in parameters)
    return Seen(f"the optimizer has {count} of {len(parameters)} parameters", count == len(parameters))


class View(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16 * 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.view(-1, 1, 2, 4)).relu().view(-1, 16 * 8))


def encoder() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 8)), nn.TransformerEncoderLayer(8, 2, 32, batch_first=True), nn.Flatten(),
                         nn.Linear(8, 2))  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.unsqueeze(1).expand(-1, 3, -1))[0][:, -1])


class Grouped(nn.Module):
    """Attention of four heads on two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.head = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 2)
        self.heads, self.pairs, self.size = 4, 2, 8

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, 1, self.size))
        k, v = self.kv(x).unflatten(-1, (2 * self.pairs, 1, self.size)).chunk(2, dim=1)
        return self.head(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).flatten(1))


def removed(inner: nn.Module) -> Seen:
    """Half of the units go in the middle of a fit; right if it then trains on, smaller."""
    module = Net(inner)
    before = size(module)
    fit(module, ChannelPruning(0.5, at=Step(STEPS // 2), round_to=1))
    return Seen(f"{before} parameters became {size(module)}, trains on", size(module) < before)


def view_of_peer() -> Seen:
    return shrunk(module := View(), torch.randn(2, 8), [module.head])


def view_of_ours() -> Seen:
    """A size written into the code cannot be followed: an error before anything is changed that says where it is."""
    module = View()
    before = copy.deepcopy(module.state_dict())
    seen = told(lambda: prune_channels_(module, torch.randn(2, 8), 0.5), StructureError, "`view`")
    same = all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    return Seen(f"{seen.text}{'' if same else '; changed'}", seen.right and same)


def encoder_of_peer() -> Seen:
    return shrunk(module := encoder(), torch.randn(2, 8), [module[-1]])


def recurrent_of_peer() -> Seen:
    return shrunk(module := Recurrent(), torch.randn(2, 8), [module.head])


def grouped_of_peer() -> Seen:
    return shrunk(module := Grouped(), torch.randn(2, 8), [module.head])


DEFECTS = [
    Defect("a frozen module is left as it is, silently", frozen_of_peer, frozen_of_ours),
    Defect("the optimizer keeps parameters that are gone", optimizer_of_peer, optimizer_of_ours),
    Defect("a view with fixed sizes breaks", view_of_peer, view_of_ours),
    Defect("nn.TransformerEncoderLayer breaks", encoder_of_peer, lambda: removed(encoder())),
    Defect("LSTM is not pruned", recurrent_of_peer, lambda: removed(Recurrent())),
    Defect("grouped-query attention breaks", grouped_of_peer, lambda: removed(Grouped())),
]
