"""Channels that go in a fit: before, in the middle, after; optimizers, averages, masks, checkpoints follow."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from nets import Net, loaders

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.core.errors import PruneValueError, StructureError
from lightning_autoarch.prune.load import load_pruned
from lightning_autoarch.prune.schedule import ConstantSparsity, Step

QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1,
}  # fmt: skip


def net() -> Net:
    torch.manual_seed(0)
    module = Net(width=32, layers=[{"width": 32}], dropout=0.0)
    module.example_input_array = torch.zeros(2, 4)
    return module


def fit(module: L.LightningModule, *callbacks: L.Callback, ckpt_path: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, "max_epochs": 4, "callbacks": list(callbacks), **options})
    trainer.fit(module, *loaders(shuffle=False), ckpt_path=ckpt_path)
    return trainer


def widths(module: Net) -> list[int]:
    return [layer.out_features for layer in module.net if isinstance(layer, torch.nn.Linear)]


@pytest.mark.parametrize("at", [0.0, 0.5, Step(3), 1.0])
def test_the_module_is_smaller_and_trains_on(at: Any) -> None:
    module, pruning = net(), ChannelPruning(0.5, at=at)
    parameters = {id(p) for p in module.parameters()}
    trainer = fit(module, pruning)
    assert sum(widths(module)[:2]) <= 40
    assert {id(p) for p in module.parameters()} == parameters
    assert {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]} == parameters
    assert pruning.removed is not None
    assert pruning.removed.after.parameters == sum(p.numel() for p in module.parameters())
    state = trainer.optimizers[0].state
    assert all(state[p]["exp_avg"].shape == p.shape for p in module.parameters())


def test_the_rest_of_the_moments_go_on() -> None:
    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 5:
                self.moment = trainer.optimizers[0].state[pl_module.net[0].weight]["exp_avg"].clone()

    class After(Watch):
        pass

    before, pruning, after = Watch(), ChannelPruning(0.5, at=Step(5), targets="net.0"), After()
    fit(net(), before, pruning, after)
    assert pruning.removed is not None
    assert torch.equal(after.moment, before.moment[pruning.removed.kept["net.0.weight"]])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # the second fit saves nothing
@pytest.mark.parametrize("at", [0.0, Step(5)])
def test_resume_and_load(at: Any, tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path, save_last=True)
    module = net()
    fit(module, ChannelPruning(0.5, of="flops", at=at), saved, enable_checkpointing=True)
    small = load_pruned(net(), tmp_path / "last.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), module.parameters(), strict=True))
    resumed = net()
    fit(resumed, ChannelPruning(0.5, of="flops", at=at), ckpt_path=tmp_path / "last.ckpt", max_epochs=6)
    assert widths(resumed) == widths(module)


def test_averages_and_masks_follow() -> None:
    module, masks = net(), MagnitudePruning(ConstantSparsity(0.5))
    fit(module, masks, EMAWeightAveraging(decay=0.5), ChannelPruning(0.5, at=Step(5)))
    assert {name: mask.shape for name, mask in masks.masks.items()} == {
        name: tuple(p.shape) for name, p in module.named_parameters() if name.endswith("weight")
    }
    zeros = {name: p == 0 for name, p in module.named_parameters() if name.endswith("weight")}
    assert all(bool(zeros[name][~mask.unpack()].all()) for name, mask in masks.masks.items())


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("average_first", [True, False])
@pytest.mark.parametrize("step", [3, 9])
def test_resume_beside_an_average(step: int, average_first: bool, tmp_path: Path) -> None:
    def train(path: Any = None) -> Net:
        pair = [EMAWeightAveraging(decay=0.5), ChannelPruning(0.5, at=Step(5))]
        saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        torch.manual_seed(0)
        fit(module := net(), *pair[:: 1 if average_first else -1], saved, ckpt_path=path, enable_checkpointing=True)
        return module

    whole = train()
    resumed = train(tmp_path / f"step={step}.ckpt")
    assert widths(resumed) == widths(whole)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_a_second_fit_does_not_prune_again() -> None:
    module, pruning = net(), ChannelPruning(0.5)
    fit(module, pruning)
    first = widths(module)
    fit(module, pruning)
    assert widths(module) == first


def test_another_module_starts_dense(tmp_path: Path) -> None:
    pruning = ChannelPruning(0.5, at=Step(5))
    fit(net(), pruning)
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    fit(net(), pruning, saved, enable_checkpointing=True)
    dense = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    assert not dense["callbacks"].get(pruning.state_key)
    assert dense["state_dict"]["net.0.weight"].shape == (32, 4)
    assert torch.load(tmp_path / "step=6.ckpt", weights_only=True)["callbacks"][pruning.state_key]["recipe"]


def test_after_the_first_step() -> None:
    seen: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            seen.append(pl_module.net[0].out_features)

    fit(net(), ChannelPruning(0.5, at=Step(1), targets="net.0"), Watch())
    assert set(seen) == {16}


def test_an_endless_fit_can_be_pruned_before_it() -> None:
    module = net()
    fit(module, ChannelPruning(0.5), max_epochs=-1, max_time={"seconds": 1})
    assert sum(widths(module)[:2]) <= 40


class ReadsValues(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 2 if x.sum() > 0 else x)


@pytest.mark.parametrize("at", [Step(3), 1.0])
@pytest.mark.parametrize(
    ("module", "example", "options", "error"),
    [
        (ReadsValues, True, {"ratio": 0.5}, (StructureError, "reads values of a tensor")),
        (ReadsValues, True, {"ratio": 0.5, "of": "latency"}, (StructureError, "reads values of a tensor")),
        *(
            (Net, example, options, (PruneValueError, message))
            for example in (True, False)
            for options, message in [
                ({"ratio": 0.5, "targets": "nope"}, "matches no group"),
                ({"ratio": 0.5, "round_to": 64}, "smaller `round_to`"),
                ({"ratio": 0.9999, "of": "flops"}, "^`ratio=0.9999` of the flops is out of reach"),
            ]
        ),
    ],
)
def test_what_cannot_be_is_an_error_before_a_weight_changes(
    module: type[Net], options: Any, error: Any, example: bool, at: Any
) -> None:
    torch.manual_seed(0)
    dense = module(width=32, layers=[{"width": 32}], dropout=0.0)
    dense.example_input_array = torch.zeros(2, 4) if example else None
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    with pytest.raises(error[0], match=error[1]):
        fit(dense, ChannelPruning(at=at, **options))
    assert dense.trainer.global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def test_a_trial_run_of_one_batch() -> None:
    for at in (Step(5), 0.5):
        fit(net(), ChannelPruning(0.5, at=at), fast_dev_run=True)
    module = ReadsValues(width=32)
    module.example_input_array = torch.zeros(2, 4)
    with pytest.raises(StructureError):
        fit(module, ChannelPruning(0.5, at=Step(5)), fast_dev_run=True)


def test_trying_it_first_changes_nothing_of_the_training() -> None:
    losses: list[list[float]] = [[], []]
    for seen, callbacks in zip(losses, ([], [ChannelPruning(0.5, at=1.0)]), strict=True):
        torch.manual_seed(1)
        fit(Net(width=32, layers=[{"width": 32}], dropout=0.5), *callbacks, Losses(seen))
    assert losses[0] == losses[1]


class Losses(L.Callback):
    def __init__(self, seen: list[float]) -> None:
        self.seen = seen

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.seen.append(outputs["loss"].item())


def test_the_first_batch_is_the_input_where_none_is_given() -> None:
    for at in (Step(2), 1.0):
        module = Net(width=32, dropout=0.0)
        assert module.example_input_array is None
        fit(module, ChannelPruning(0.5, at=at))
        assert widths(module) == [16, 1]
    with pytest.raises(PruneValueError, match="example_input_array"):
        fit(Net(width=32), ChannelPruning(0.5, at=0.0))


class TestBadInput:
    @pytest.mark.parametrize(
        "options",
        [{"ratio": 1.0}, {"ratio": 0.5, "at": 1.5}, {"ratio": 0.5, "scope": "local"}, {"ratio": 0.5, "round_to": 0}],
    )
    def test_arguments(self, options: Any) -> None:
        with pytest.raises(PruneValueError):
            ChannelPruning(**options)

    def test_before_training(self) -> None:
        with pytest.raises(PruneValueError, match="12 optimizer steps"):
            fit(net(), ChannelPruning(0.5, at=Step(100)))

    def test_several_processes_in_the_middle(self) -> None:
        class Trainer:
            strategy, world_size = None, 2

        with pytest.raises(MisconfigurationException, match="before the training"):
            ChannelPruning(0.5, at=0.5).setup(Trainer(), net(), "fit")  # type: ignore[arg-type]

    def test_a_failure_in_the_fit_leaves_the_module(self) -> None:
        class Values(Net):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) if float(x.sum()) > -1e9 else x

        module = Values(width=32, dropout=0.0)
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(StructureError):
            fit(module, ChannelPruning(0.5, at=0.0, example_inputs=torch.zeros(2, 4)))
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


class Wrapping(torch.optim.Optimizer):
    """Steps another one, as sharpness-aware minimisation does."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.base = torch.optim.SGD(self.param_groups, 0.1, momentum=0.9)

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


@pytest.mark.parametrize("optimizer", [Wrapping, torch.optim.LBFGS])
def test_optimizers_that_cannot_follow_are_refused_before_the_first_step(optimizer: Any) -> None:
    module = net()
    module.configure_optimizers = lambda: optimizer(module.parameters())
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(StructureError, match=r"at=0\.0"):
        fit(module, ChannelPruning(0.5, at=0.5))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert widths(module) == [32, 32, 1]
