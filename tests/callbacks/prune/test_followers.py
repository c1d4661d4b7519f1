"""Nets that the training copies weights into: they lose the channels that the other one loses, and only they."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoarch import ChannelPruning, Step, load_pruned

QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1, "max_epochs": 1,
}  # fmt: skip


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def average_(follower: nn.Module, of: nn.Module, momentum: float = 0.9) -> None:
    """As self-supervised training does it, parameter by parameter."""
    with torch.no_grad():
        for own, other in zip(follower.parameters(), of.parameters(), strict=True):
            own.mul_(momentum).add_(other, alpha=1 - momentum)


class Base(L.LightningModule):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1, momentum=0.9)


class Averaged(Base):
    """Two parts and their averages, moved at the beginning of the step; the online net has a part more."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.predictor = mlp(6, 16, 8), mlp(8, 16, 4), mlp(4, 16, 4)
        self.slow_body = copy.deepcopy(self.body).requires_grad_(False)
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False)
        self.whole = whole

    def forward(self, x: Tensor) -> Any:
        return self.predictor(self.head(self.body(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        average_(self.slow_body, self.body)
        average_(self.slow_head, self.head)
        with torch.no_grad():
            wanted = self.slow_head(self.slow_body(batch[0]))
        return F.mse_loss(self(batch[0]) if self.whole else self.forward(batch[0]), wanted)


class Contrast(Base):
    """One forward runs both nets, as with a momentum encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.query = mlp(6, 16, 4)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.example_input_array = torch.randn(4, 6)

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            key = self.key(x)
        return self.query(x) @ key.T

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        average_(self.key, self.query)
        return self(batch[0]).square().mean()


class TwoCritics(Base):
    """Two nets of one shape, each with its own target; the targets are made anew, and copied into by `every` steps."""

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.one, self.two = mlp(6, 16, 1), mlp(6, 16, 1)
        self.target_b, self.target_a = mlp(6, 16, 1), mlp(6, 16, 1)  # of the second, and of the first
        self.every = every

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        if batch_idx % self.every == self.every - 1:
            self.target_a.load_state_dict(self.one.state_dict())
            average_(self.target_b, self.two)
        with torch.no_grad():
            wanted = torch.min(self.target_a(x), self.target_b(x))
        return F.mse_loss(self.one(x), wanted + 1) + F.mse_loss(self.two(x), wanted - 1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.one.parameters(), *self.two.parameters()], 0.1)


class Narrow(Base):
    """Nearly all that may go is between a part that is followed and the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 64), nn.Linear(64, 4)
        self.slow = copy.deepcopy(self.body).requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            wanted = self.slow(batch[0])[:, :4]
        return F.mse_loss(self(batch[0]), wanted)


class Taught(Base):
    """A frozen teacher with the shapes of the student."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = mlp(6, 16, 4), mlp(6, 16, 4).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.student(batch[0]), self.teacher(batch[0]))


def fit(module: L.LightningModule, *callbacks: L.Callback, first: L.Callback | None = None) -> L.Trainer:
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(24, 6)), 4)
    pruning = ChannelPruning(0.5, at=Step(3), scope="layer")
    trainer = L.Trainer(**QUIET, callbacks=[*([] if first is None else [first]), pruning, *callbacks])
    trainer.fit(module, data)
    assert pruning.removed is not None
    assert pruning.removed.after.parameters == sum(p.numel() for p in module.parameters())
    return trainer


def hidden(module: nn.Module) -> dict[str, int]:
    return {name: part[0].out_features for name, part in module.named_children() if isinstance(part, nn.Sequential)}


class Snapshot(L.Callback):
    """First layers at the end of each batch, before the pruning."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.seen.append({name: part[0].weight.detach().clone() for name, part in pl_module.named_children()})


def rows(before: Tensor, after: Tensor) -> list[int]:
    """Those of one matrix that are in another, in order."""
    return [next(i for i, row in enumerate(before) if torch.equal(row, each)) for each in after]


@pytest.mark.parametrize("whole", [False, True])
def test_averages_lose_the_same_channels_and_training_goes_on(whole: bool) -> None:
    module = Averaged(whole)
    fit(module)
    assert hidden(module) == {"body": 8, "head": 8, "predictor": 8, "slow_body": 8, "slow_head": 8}
    results = {"body": 8, "head": 4, "slow_body": 8, "slow_head": 4}
    assert {name: module.get_submodule(name)[3].out_features for name in results} == results


def test_the_channels_are_those_of_the_net_that_is_followed() -> None:
    module, before, after = TwoCritics(), Snapshot(), Snapshot()
    fit(module, after, first=before)
    assert hidden(module) == {"one": 8, "two": 8, "target_b": 8, "target_a": 8}
    kept = {name: rows(before.seen[2][name], small) for name, small in after.seen[2].items()}
    assert kept["target_a"] == kept["one"] != kept["two"] == kept["target_b"]


def test_a_momentum_encoder_in_the_same_forward() -> None:
    module = Contrast()
    fit(module)
    assert hidden(module) == {"query": 8, "key": 8}


def test_a_teacher_keeps_its_size() -> None:
    module = Taught()
    with pytest.warns(UserWarning, match="`teacher` has the shapes .*has not copied weights into it so far.*at=1.0"):
        fit(module)
    assert hidden(module) == {"student": 8, "teacher": 16}


def test_a_target_that_is_copied_into_later_is_told() -> None:
    with (
        pytest.warns(UserWarning, match="`target_.` has the shapes"),
        pytest.raises(RuntimeError, match="size mismatch") as failed,
    ):
        fit(TwoCritics(every=5))
    assert "`target_a`, `target_b` kept their sizes" in failed.value.__notes__[-1]
    fit(later := TwoCritics(every=2))  # in the second step: before the pruning
    assert hidden(later) == dict.fromkeys(["one", "two", "target_b", "target_a"], 8)


def test_what_could_not_go_is_told_in_the_first_step() -> None:
    trainer = L.Trainer(**QUIET, callbacks=[ChannelPruning(0.5, of="parameters", at=Step(2), round_to=1)])
    data = DataLoader(TensorDataset(torch.randn(8, 6)), 4)
    early, late = "copies weights into `slow`.*Nothing may be removed.*at=1.0", "not copied weights into it so far"
    with pytest.warns(UserWarning, match=early), pytest.warns(UserWarning, match=late):
        trainer.fit(Narrow(), data)


def test_a_checkpoint_has_both(tmp_path: Path) -> None:
    module = Averaged()
    fit(module).save_checkpoint(tmp_path / "small.ckpt")
    loaded = load_pruned(Averaged(), tmp_path / "small.ckpt")
    assert hidden(loaded) == hidden(module)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("of_buffers", [False, True])
def test_copies_of_the_weights_that_are_no_modules_are_named(of_buffers: bool) -> None:
    class Shadowed(Base):
        def __init__(self) -> None:
            super().__init__()
            self.student = mlp(6, 16, 4)
            self.shadow = {name: p.detach().clone() for name, p in self.student.named_parameters()}
            if of_buffers:
                for name, value in self.shadow.items():
                    self.register_buffer(f"shadow_{name}".replace(".", "_"), value)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.student(batch[0]).square().mean()

        def on_train_batch_end(self, *args: Any) -> None:
            for name, p in self.student.named_parameters():
                self.shadow[name].lerp_(p.detach(), 0.1)

    with pytest.raises(RuntimeError, match="size") as failed:
        fit(Shadowed())
    assert "a list, a dict or buffers, kept their sizes" in failed.value.__notes__[-1]
    assert "at=1.0" in failed.value.__notes__[-1]
