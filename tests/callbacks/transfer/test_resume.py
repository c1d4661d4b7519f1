"""A fit that is interrupted anywhere and resumed is the fit that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from nets import samples
from torch.optim import lr_scheduler
from torch.utils.data import ConcatDataset, DataLoader
from transfer_nets import QUIET, Epochs, Tuned, fit, grouped, source

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import CheckpointError, TransferError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

RECIPES: dict[str, dict[str, Any]] = {
    "frozen": {"freeze": "backbone.[01]"},
    "thawed": {"freeze": "backbone", "unfreeze": {1: "backbone.[34]", 3: "backbone"}, "lr_scale": {"head": 2.0}},
    "gradual": {"strategy": "gradual", "layer_decay": 0.5, "warmup_epochs": 1.5, "l2_sp": 0.2, "reinit": "head"},
    "lp_ft": {"strategy": "lp_ft", "warmup_epochs": 0.5},
}
SCHEDULERS: dict[str, Any] = {
    "none": None,
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=9.0),
}


def saver(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}-{step}", **options)


def run(recipe: str, scheduler: str, *callbacks: L.Callback, seed: int = 0, optimizer: str = "filter",
        **options: Any) -> tuple[Tuned, L.Trainer]:  # fmt: skip
    module = Tuned(scheduler=SCHEDULERS[scheduler], seed=seed, optimizer=optimizer)
    transfer = TransferLearning(source(), **grouped(RECIPES[recipe]))
    return module, fit(module, transfer, *callbacks, **{"max_epochs": 6, "enable_checkpointing": True, **options})


def state_of(trainer: L.Trainer) -> list[Any]:
    return [optimizer.state_dict() for optimizer in trainer.optimizers]


@pytest.mark.parametrize("scheduler", ["none", "cosine"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_at_every_epoch(recipe: str, scheduler: str, tmp_path: Path) -> None:
    spy = Epochs()
    expected, trainer = run(recipe, scheduler, spy, saver(tmp_path))
    for path in sorted(tmp_path.iterdir()):
        again = Epochs()
        module, resumed = run(recipe, scheduler, again, seed=3, ckpt_path=path, enable_checkpointing=False)
        left = len(again.trained)
        assert left == 5 - int(path.name.partition("epoch=")[2][0])
        assert again.trained == spy.trained[6 - left :] and again.rates == spy.rates[6 - left :]
        torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(state_of(resumed), state_of(trainer), rtol=0, atol=0)


def test_plateau_goes_on_as_without_the_callback(tmp_path: Path) -> None:
    """Lightning 2.6 forgets the reduction that was due when the checkpoint was written, for any module."""
    run("gradual", "plateau", saver(tmp_path / "ours"))
    fit(Tuned(scheduler=SCHEDULERS["plateau"]), saver(tmp_path / "plain"), max_epochs=6, enable_checkpointing=True)
    for ours, plain in zip(sorted((tmp_path / "ours").iterdir()), sorted((tmp_path / "plain").iterdir()), strict=True):
        spies = Epochs(), Epochs()
        run("gradual", "plateau", spies[0], ckpt_path=ours, enable_checkpointing=False)
        fit(Tuned(scheduler=SCHEDULERS["plateau"]), spies[1], max_epochs=6, ckpt_path=plain)
        assert spies[0].rates == [[rate / 4, rate / 2, rate] for (rate,) in spies[1].rates]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("recipe", RECIPES)
def test_within_an_epoch(recipe: str, tmp_path: Path) -> None:
    batches = DataLoader(ConcatDataset([samples(16)] * 3), batch_size=16)  # all alike: loaders do not go on within

    def run_on_them(*callbacks: L.Callback, ckpt_path: Path | None = None, seed: int = 0) -> Tuned:
        module = Tuned(scheduler=SCHEDULERS["cosine"], seed=seed)
        callbacks = (TransferLearning(source(), **grouped(RECIPES[recipe])), *callbacks)
        options = {**QUIET, "max_epochs": 6, "callbacks": list(callbacks), "enable_checkpointing": len(callbacks) > 1}
        L.Trainer(**options).fit(module, batches, batches, ckpt_path=ckpt_path)
        return module

    expected = run_on_them(saver(tmp_path, every_n_train_steps=1))
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 18
    for path in paths[::2]:
        module = run_on_them(ckpt_path=path, seed=3)
        torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_an_optimizer_that_lacks_what_thaws(tmp_path: Path) -> None:
    expected, _ = run("thawed", "cosine", saver(tmp_path), optimizer="head")
    for path in sorted(tmp_path.iterdir()):
        module, _ = run("thawed", "cosine", ckpt_path=path, optimizer="head", enable_checkpointing=False)
        torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("recipe", ["lp_ft", "gradual"])
def test_more_epochs_do_not_change_the_plan(recipe: str, tmp_path: Path) -> None:
    spy, again = Epochs(), Epochs()
    run(recipe, "none", spy, saver(tmp_path), max_epochs=4)
    (path,) = tmp_path.glob("epoch=1*")
    run(recipe, "none", again, max_epochs=8, ckpt_path=path, enable_checkpointing=False)
    assert again.trained == [*spy.trained[2:], *[spy.trained[-1]] * 4]


def test_the_file_of_the_start_is_not_needed(tmp_path: Path) -> None:
    torch.save(source(), tmp_path / "start.pt")
    options: dict[str, Any] = {"l2_sp": 0.5, "strategy": "gradual"}
    kept = ModelCheckpoint(tmp_path, filename="kept")
    fit(
        Tuned(),
        TransferLearning(tmp_path / "start.pt", **grouped(options)),
        kept,
        max_epochs=1,
        enable_checkpointing=True,
    )
    (tmp_path / "start.pt").unlink()
    transfer = TransferLearning(tmp_path / "start.pt", **grouped(options))
    fit(Tuned(), transfer, ckpt_path=tmp_path / "kept.ckpt", max_epochs=3)
    assert transfer.report is None
    assert torch.equal(transfer.state_dict()["start"]["head.weight"], source()["head.weight"])


class TestErrors:
    def checkpoint(self, folder: Path, *callbacks: L.Callback) -> Path:
        fit(Tuned(), *callbacks, ModelCheckpoint(folder, filename="a"), max_epochs=1, enable_checkpointing=True)
        return folder / "a.ckpt"

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ({"layer_decay": 0.9}, "layer_decay"),
            ({"layer_decay": 0.5, "freeze": "head"}, "freeze"),
            ({"layer_decay": 0.5, "strategy": "gradual"}, "strategy"),
            ({"layer_decay": 0.5, "warmup_epochs": 1}, "warmup_epochs"),
        ],
    )
    def test_other_arguments(self, options: dict[str, Any], name: str, tmp_path: Path) -> None:
        path = self.checkpoint(tmp_path, TransferLearning(source(), layer_decay=0.5))
        with pytest.raises(TransferError, match=rf"`{name}=.*`, as in the fit that is resumed"):
            fit(Tuned(), TransferLearning(source(), **grouped(options)), ckpt_path=path)

    def test_a_state_that_somebody_changed(self) -> None:
        state = {"format": 1, "epochs": 3, "groups": {"lr_scale": {"head": torch.ones(2)}}, "start": {}}
        with pytest.raises(CheckpointError, match=r"`groups.lr_scale` to be numbers, .* got a tensor"):
            TransferLearning().load_state_dict(state)
        clock = {"begun": [[0, 1, float("nan")]], "best": None, "wait": 0, "checked": -1}
        with pytest.raises(CheckpointError, match=r"`clock.begun\[0\]\[2\]` to be a finite number"):
            TransferLearning().load_state_dict({**state, "groups": {}, "clock": clock})

    def test_l2_sp_from_a_checkpoint_without(self, tmp_path: Path) -> None:
        path = self.checkpoint(tmp_path)
        with pytest.raises(TransferError, match="pass it as `checkpoint`, not as `ckpt_path`"):
            fit(Tuned(), TransferLearning(source(), l2_sp=0.1), ckpt_path=path)
        path = self.checkpoint(tmp_path / "without", TransferLearning(source()))
        with pytest.raises(TransferError, match="got one of a fit without"):
            fit(Tuned(), TransferLearning(source(), l2_sp=0.1), ckpt_path=path)

    def test_a_checkpoint_of_a_fit_without_the_callback_is_resumed(self, tmp_path: Path) -> None:
        module, spy = Tuned(), Epochs()
        fit(module, TransferLearning(source(), strategy="gradual"), spy, ckpt_path=self.checkpoint(tmp_path))
        assert [len(names) for names in spy.trained] == [6, 10, 10]
