"""More blocks than the source has: the same function where that is exact, and said where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_autoarch.transfer.transfer_weights import transfer_weights


class PreNorm(nn.Module):
    """A residual block with its norm first."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Basic(nn.Module):
    """As in a ResNet: convolutions with norms, and a ReLU behind the sum."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class PostNorm(PreNorm):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(self.up(x).relu()))


def chain(block: type[nn.Module], count: int, container: type = nn.Sequential) -> nn.ModuleDict:
    blocks = [block() for _ in range(count)]
    return nn.ModuleDict({"blocks": nn.Sequential(*blocks) if container is nn.Sequential else nn.ModuleList(blocks)})


def run(module: nn.ModuleDict, x: Tensor) -> Tensor:
    for block in module["blocks"]:  # type: ignore[attr-defined]
        x = block(x)
    return x


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, norm_first=True)


class Turned(nn.Module):
    """A linear layer of somebody else's, its weight the other way round: as `Conv1D` in transformers."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(before, after)), nn.Parameter(torch.randn(after))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Foreign(PreNorm):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = Turned(4, 8), Turned(8, 4)


def linear_relu() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def conv_relu() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())


EXACT = {
    "linear": (lambda: nn.Linear(4, 4), (2, 4), nn.Sequential),
    "linear relu": (linear_relu, (2, 4), nn.Sequential),
    "conv relu": (conv_relu, (2, 4, 5, 5), nn.Sequential),
    "residual": (PreNorm, (2, 4), nn.Sequential),
    "residual with layers of another library": (Foreign, (2, 4), nn.ModuleList),
    "residual in a list": (PreNorm, (2, 4), nn.ModuleList),
    "resnet": (Basic, (2, 4, 5, 5), nn.Sequential),
    "transformer": (encoder_layer, (2, 3, 4), nn.ModuleList),
}


@pytest.mark.parametrize(("block", "shape", "container"), EXACT.values(), ids=EXACT)
def test_function_is_kept(block: type[nn.Module], shape: tuple[int, ...], container: type) -> None:
    source, module = chain(block, 2, container), chain(block, 4, container)
    report = transfer_weights(module, source)
    x = torch.randn(shape).relu()
    with torch.no_grad():
        assert torch.allclose(run(module.eval(), x), run(source.eval(), x), atol=1e-6)
    assert report.names("identity") and not report.names("missing")
    assert all(name.startswith(("blocks.2", "blocks.3")) for name in report.names("identity", "initialised"))


def test_residual_learns() -> None:
    source, module = chain(Basic, 1), chain(Basic, 2)
    transfer_weights(module, source)
    run(module, torch.randn(2, 4, 5, 5)).sum().backward()
    assert module["blocks"][1].bn2.weight.grad.abs().sum() > 0  # type: ignore[index]


NOT_EXACT = {
    "norm behind": (PostNorm, nn.Sequential),
    "linear in a list, where a ReLU may follow": (lambda: nn.Linear(4, 4), nn.ModuleList),
    "tanh": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Sequential),
    "two layers": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Sequential),
}


@pytest.mark.parametrize(("block", "container"), NOT_EXACT.values(), ids=NOT_EXACT)
def test_no_identity(block: type[nn.Module], container: type) -> None:
    source, module = chain(block, 1, container), chain(block, 2, container)
    before = {name: tensor.clone() for name, tensor in module["blocks"][1].state_dict().items()}  # type: ignore[index]
    report = transfer_weights(module, source)
    assert not report.names("identity") and report.names("initialised")
    after = module["blocks"][1].state_dict()  # type: ignore[index]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert "not the identity" in report[report.names("initialised")[0]].reason


def test_reinit_is_left_alone() -> None:
    report = transfer_weights(chain(PreNorm, 2), chain(PreNorm, 1), reinit=["blocks.1"])
    assert not report.names("identity")


def test_random_numbers_are_not_used_up() -> None:
    source, module = chain(PreNorm, 1), chain(PreNorm, 2)
    state = torch.get_rng_state()
    transfer_weights(module, source)
    assert torch.equal(torch.get_rng_state(), state)


def test_block_that_counts_its_calls_is_not_called() -> None:
    class Counting(PreNorm):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    module = chain(Counting, 2)
    transfer_weights(module, chain(Counting, 1))
    assert [block.calls for block in module["blocks"]] == [0, 0]  # type: ignore[attr-defined]
