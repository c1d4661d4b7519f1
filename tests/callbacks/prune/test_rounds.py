"""Channels that go in several rounds: two callbacks in one fit, two fits, a fit that is resumed between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from nets import Net, loaders

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.core.errors import CheckpointError, PruneValueError
from lightning_autoarch.prune.load import load_pruned
from lightning_autoarch.prune.schedule import Step

QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1,
}  # fmt: skip
KEY = "lightning_autoarch.ChannelPruning"
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # the second fit saves nothing
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


def net() -> Net:
    torch.manual_seed(0)
    module = Net(width=32, layers=[{"width": 32}], dropout=0.0)
    module.example_input_array = torch.zeros(2, 4)
    return module


def pruning(name: str | None, at: Any) -> ChannelPruning:
    return ChannelPruning(0.4, of="flops", at=at, round_to=1, name=name)


def fit(module: L.LightningModule, *callbacks: L.Callback, path: Any = None, **options: Any) -> L.Trainer:
    saving = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = L.Trainer(
        **{**QUIET, "max_epochs": 4, "enable_checkpointing": saving, "callbacks": list(callbacks), **options}
    )
    trainer.fit(module, *loaders(shuffle=False), ckpt_path=path)
    return trainer


def same(a: Net, b: Net) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("average", [False, True])
def test_two_in_one_fit(tmp_path: Path, average: bool) -> None:
    def train(path: Any = None) -> Net:
        callbacks: list[L.Callback] = [pruning("one", Step(4)), pruning("two", Step(8))]
        callbacks += [EMAWeightAveraging(decay=0.5)] if average else []
        saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        module = net()
        fit(module, *callbacks[::-1], saved, path=path)
        return module

    whole = train()
    for step in (3, 6, 9):  # before, between and after
        assert same(train(tmp_path / f"step={step}.ckpt"), whole)
    widths = [load_pruned(net(), tmp_path / f"step={step}.ckpt").net[0].out_features for step in (6, 9)]
    assert 32 > widths[0] > widths[1] == whole.net[0].out_features


def test_two_fits(tmp_path: Path) -> None:
    module = net()
    fit(module, pruning(None, Step(4)))
    once = module.net[0].out_features
    trainer = fit(module, pruning(None, Step(4)))
    trainer.save_checkpoint(tmp_path / "twice.ckpt")
    loaded = load_pruned(net(), tmp_path / "twice.ckpt")
    assert loaded.net[0].out_features < once and same(loaded, module)
    fit(loaded, pruning(None, 0.0)).save_checkpoint(tmp_path / "thrice.ckpt")  # goes on from what was loaded
    assert same(load_pruned(net(), tmp_path / "thrice.ckpt"), loaded)
    with pytest.raises(PruneValueError, match="got one that lost others"):
        load_pruned(loaded, tmp_path / "twice.ckpt")


@pytest.mark.parametrize("at", [0.0, Step(12)])
def test_another_callback_goes_on_from_a_checkpoint(tmp_path: Path, at: Any) -> None:
    module = net()
    fit(module, pruning("one", Step(4)), max_epochs=2).save_checkpoint(tmp_path / "one.ckpt")
    resumed, second = net(), pruning("two", at)
    fit(resumed, second, path=tmp_path / "one.ckpt").save_checkpoint(tmp_path / "two.ckpt")
    assert second.removed is not None and second.removed.widths["net.0.weight"][0] == module.net[0].out_features
    assert same(load_pruned(net(), tmp_path / "two.ckpt"), resumed)


class TestStates:
    def rounds(self) -> dict[str, Any]:
        module = net()
        trainer = fit(module, pruning("one", Step(4)), pruning("two", Step(8)))
        states = {f"{KEY}.{cb.name}": cb.state_dict() for cb in trainer.callbacks if isinstance(cb, ChannelPruning)}
        return {"state_dict": module.state_dict(), "callbacks": states}

    def test_of_before_they_knew_of_each_other(self) -> None:
        content = self.rounds()
        del content["callbacks"][f"{KEY}.two"]["earlier"]
        content["callbacks"] = dict(reversed(content["callbacks"].items()))
        load_pruned(net(), content)

    def test_of_before_there_were_formats(self) -> None:
        module, callback = net(), pruning(None, Step(4))
        fit(module, callback)
        content = {"state_dict": module.state_dict(), "callbacks": {KEY: {"recipe": callback.recipe}}}
        assert same(load_pruned(net(), content), module)

    def test_that_do_not_follow_one_another(self) -> None:
        content = self.rounds()
        states = content["callbacks"]
        states[f"{KEY}.two"] = {"recipe": {**states[f"{KEY}.one"]["recipe"], "attributes": {}}}
        with pytest.raises(PruneValueError, match="recipes that follow one another, got 2 states"):
            load_pruned(net(), content)

    def test_that_are_damaged(self) -> None:
        content = self.rounds()
        content["callbacks"][f"{KEY}.two"]["earlier"] = [{"format": 1}]
        with pytest.raises(CheckpointError, match=r"expected `earlier\[0\]\.tensors` to be there"):
            load_pruned(net(), content)
