"""Tracing any module leaves it as it was, and what cannot be traced is an error that names the place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from channel_nets import CONVOLUTIONAL, SEQUENTIAL, call
from torch import Tensor, nn

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.groups import channel_groups
from lightning_autoarch.structure.trace import trace

CASES = CONVOLUTIONAL | SEQUENTIAL


class Forward(nn.Module):
    """A layer before and one after what is tested."""

    def __init__(self, middle: Callable[[nn.Module, Tensor], object], width: int = 8) -> None:
        super().__init__()
        self.middle = middle
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> object:
        return self.last(self.middle(self, self.first(x)))


def reason(middle: Callable[[nn.Module, Tensor], object]) -> str | None:
    """Why the channels between the layers are fixed."""
    return channel_groups(Forward(middle), torch.randn(3, 4))[0].fixed


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_changes(name: str, training: bool) -> None:
    build, sample = CASES[name]
    module, inputs = build().train(training), sample()
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, random = copy.deepcopy(module), torch.get_rng_state()
    identities = [id(p) for p in module.parameters()]
    trace(module, inputs)
    assert torch.equal(torch.get_rng_state(), random)
    assert [id(p) for p in module.parameters()] == identities
    assert module.state_dict().keys() == before.state_dict().keys()
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in module.state_dict().items())
    assert all(m.training == training for m in module.modules())
    assert repr(module) == repr(before)
    assert torch.backends.mha.get_fastpath_enabled()


def test_modes_of_each_module_come_back() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    module[1].eval()
    trace(module, torch.randn(3, 4))
    assert [m.training for m in module] == [True, False, True]


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.state: Tensor | None = None
        self.seen: list[Tensor] = []
        self.count = 0
        self.register_buffer("total", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        self.state = y if self.state is None else self.state + y
        self.seen.append(y)
        self.count += 1
        self.total += y.mean()
        return self.last(self.state)


def test_what_a_forward_stores_is_undone() -> None:
    module = Stateful()
    remove_channels_(module, torch.randn(3, 4), {"first.weight": [1, 2]})
    assert module.state is None and module.seen == [] and module.count == 0 and module.total == 0
    assert module(torch.randn(3, 4)).shape == (3, 2)
    assert isinstance(module.state, Tensor) and type(module.state) is Tensor


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (
            lambda m, x: x if x.sum() > 0 else -x,
            "`_local_scalar_dense` in the forward of the module itself reads values",
        ),
        (lambda m, x: x[x[:, 0] > 0], "reads values of a tensor"),
        (lambda m, x: x * x.max().item(), "reads values of a tensor"),
        (lambda m, x: x.view(3, 9), "`view` in the forward of the module itself raised RuntimeError"),
        (lambda m, x: m.missing(x), "the forward of the module itself raised AttributeError"),
        (lambda m, x: torch.from_numpy(x.numpy()), "Could not follow the forward"),
    ],
)
def test_untraceable(middle: Callable[[nn.Module, Tensor], object], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        trace(Forward(middle), torch.randn(3, 4))


def test_the_place_is_a_path() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Forward(lambda m, x: x * float(x.norm()))))
    with pytest.raises(StructureError, match=r"in `1\.0`"):
        trace(module, torch.randn(3, 4))


def test_lazy_parameters() -> None:
    with pytest.raises(StructureError, match=r"`1\.weight` is lazy"):
        trace(nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(2)), torch.randn(3, 4))


def test_wrong_inputs() -> None:
    with pytest.raises(StructureError, match="`addmm` in `first` raised RuntimeError"):
        trace(Forward(lambda m, x: x), torch.randn(3, 5))


@pytest.mark.parametrize(
    ("middle", "part"),
    [
        (lambda m, x: x.cumsum(1), "the order of channels counts at `cumsum` in the forward"),
        (lambda m, x: x.sort(1)[0], "`sort`"),
        (lambda m, x: x.topk(8, 1)[0], "`topk`"),
        (lambda m, x: x.roll(1, 1), "`roll`"),
        (lambda m, x: torch.linalg.qr(x)[1] @ torch.ones(8, 8), "linalg_qr"),
        (lambda m, x: x[:, [3, 0, 1, 2, 4, 5, 6, 7]], "rows are chosen"),
        (lambda m, x: F.pad(x[:, 1:], (1, 0)), "positions are numbers in the code at `slice`"),
        (lambda m, x: x + torch.arange(8.0), "given from outside at `add`"),
        (lambda m, x: F.one_hot(x.argmax(1), 8).float() + x, "`argmax`"),
        (lambda m, x: torch.fft.rfft(torch.cat([x, x], 1)).real[:, :8], "`_fft_r2c`"),
    ],
)
def test_operations_that_are_not_followed_fix_their_channels(
    middle: Callable[[nn.Module, Tensor], object], part: str
) -> None:
    assert part in (reason(middle) or "")


@pytest.mark.parametrize(
    "middle",
    [
        lambda m, x: x.relu_().mul_(2).clamp(min=0),
        lambda m, x: x.masked_fill(x > 1, 0.0).where(x < 0.5, torch.tensor(0.1)),
        lambda m, x: torch.zeros_like(x).copy_(x) + x.new_zeros(3, x.shape[1]),
        lambda m, x: F.dropout(F.alpha_dropout(x, training=True), training=True),
        lambda m, x: F.normalize(x, dim=1),
        lambda m, x: torch.einsum("bc,bc->bc", x, x.flip(0)),
        lambda m, x: x.unsqueeze(1).expand(-1, 2, -1).mean(1),
        lambda m, x: x.double().to(torch.float32).contiguous(),
        lambda m, x: x.repeat_interleave(2, 0)[::2],
        lambda m, x: torch.stack([x, -x]).amax(0),
        lambda m, x: torch.cat([x[:1], x[1:]]),
        lambda m, x: x / x.std(0, keepdim=True),
        lambda m, x: torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=False),
    ],
)
def test_operations_that_are_followed(middle: Callable[[nn.Module, Tensor], object]) -> None:
    assert reason(middle) is None
    module = Forward(middle)
    remove_channels_(module, torch.randn(3, 4), {"first.weight": [0, 5]})
    assert module.first.weight.shape == (2, 4) and module.last.weight.shape == (2, 2)


class Auxiliary(nn.Module):
    """A head that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head, self.extra = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.trunk(x).relu()
        return self.head(x), self.extra(x) if self.training else None


@pytest.mark.parametrize("training", [False, True])
def test_both_modes_are_followed(training: bool) -> None:
    module, inputs = Auxiliary().train(training), torch.randn(3, 4)
    remove_channels_(module, inputs, {"trunk.weight": [0, 2, 4]})
    assert [x.shape for x in module.train()(inputs)] == [(3, 2), (3, 3)]


def test_one_mode_is_enough() -> None:
    """BatchNorm of one value refuses to train."""
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()
    assert trace(module, torch.randn(1, 4)).other is None
    remove_channels_(module, torch.randn(1, 4), {"0.weight": [0, 2, 4]})
    assert module.train()(torch.randn(3, 4)).shape == (3, 2)


@dataclass
class Result:
    logits: Tensor
    details: dict[str, list[Tensor]]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: Result(x, {}),
        lambda x: Result(torch.zeros(1), {"features": [x]}),
        lambda x: {"a": (x,)},
        lambda x: type("Plain", (), {})() if x is None else [[x]],
    ],
)
def test_outputs_are_found_in_any_container(wrap: Callable[[Tensor], object]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> object:
            return wrap(self.layer(x))

    assert channel_groups(Net(), torch.randn(3, 4))[0].fixed == "it is visible at the module's output"


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, *, scale: float, shift: Tensor | None = None) -> Tensor:
        return self.b(self.a(x) * scale + (0 if shift is None else shift))


def test_inputs_by_keyword() -> None:
    groups = channel_groups(Keyword(), {"x": torch.randn(3, 4), "scale": 2.0, "shift": torch.randn(3, 1)})
    assert groups[0].fixed is None


class Lit(L.LightningModule):
    """With a metric, a loss that the forward does not use, a network beside, and a log."""

    def __init__(self) -> None:
        super().__init__()
        import torchmetrics

        self.save_hyperparameters()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(3)
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
        self.beside = nn.Linear(3, 5)
        self.example_input_array = torch.randn(2, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def test_a_lightning_module() -> None:
    module = Lit()
    assert trace(module, module.example_input_array).unreached == ("beside.weight", "beside.bias")
    groups = {group.name: group for group in channel_groups(module, module.example_input_array)}
    assert groups["net.0.weight"].fixed is None
    assert groups["beside.weight:0"].fixed == "no forward touches it"
    optimizer = module.configure_optimizers()
    module(module.example_input_array).sum().backward()
    optimizer.step()
    remove_channels_(module, module.example_input_array, {"net.0.weight": [1, 5]}, [optimizer])
    module(module.example_input_array).sum().backward()
    optimizer.step()
    assert call(module, module.example_input_array).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # dynamo's own imports
def test_compiled_modules_are_seen_through() -> None:
    module = nn.Sequential(torch.compile(nn.Linear(4, 8)), nn.Linear(8, 2))
    assert channel_groups(module, torch.randn(3, 4))[0].fixed is None


def test_frozen_modules_are_no_exception() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).requires_grad_(False)
    remove_channels_(module, torch.randn(3, 4), {"0.weight": [0, 1]})
    assert module[0].weight.shape == (2, 4) and not module[0].weight.requires_grad


def test_modules_with_nothing_to_find() -> None:
    assert channel_groups(nn.ReLU(), torch.randn(3, 4)) == []
    net = Forward(lambda m, x: x * m.scale)
    net.scale, net.empty = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.empty(0, 3))
    assert {group.name for group in channel_groups(net, torch.randn(3, 4)) if group.fixed is None} == {"first.weight"}


class Both(nn.Module):
    """What a forward and a training_step use, in one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.module.trunk(x).relu()
        return self.module(x)[0], self.module.extra(features)


def test_a_training_step_that_calls_a_part() -> None:
    module = Auxiliary().eval()
    remove_channels_(Both(module), torch.randn(3, 4), {"module.trunk.weight": [1, 2]})
    assert module.extra.weight.shape == (3, 2) and module.head.weight.shape == (2, 2)
