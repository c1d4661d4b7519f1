"""One trial: continued bit for bit, failing with a reason, leaving nothing behind."""

from __future__ import annotations

import logging
import os
import pickle
import random
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import EarlyStopping
from lightning_utilities.core import rank_zero

from lightning_autoarch.core.errors import MonitorMissing
from lightning_autoarch.core.rng import rng_state, seeded, set_rng_state
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.isolation import isolated, trial_seed
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.recorder import STATE_KEY
from lightning_autoarch.training.trainer_settings import SILENT
from lightning_autoarch.training.trial import TrialSpec, _decouple_metrics, is_out_of_memory, run_trial, saved_states


class Scheduled(nets.Net):
    def __init__(self, kind: str = "none", width: int = 4):
        super().__init__(width=width)
        self.save_hyperparameters()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedulers = torch.optim.lr_scheduler
        kinds: dict[str, Any] = {
            "none": None,
            "epoch": lambda: schedulers.StepLR(optimizer, 1, 0.5),
            "step": lambda: {"scheduler": schedulers.StepLR(optimizer, 2, 0.9), "interval": "step"},
            "plateau by step": lambda: {
                "scheduler": schedulers.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5, factor=0.5),
                "monitor": "train_loss",
                "interval": "step",
                "strict": False,
            },
            "one cycle": lambda: {
                "scheduler": schedulers.OneCycleLR(optimizer, 0.1, self.trainer.estimated_stepping_batches),
                "interval": "step",
            },
            "plateau": lambda: {
                "scheduler": schedulers.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5, factor=0.5),
                "monitor": "val_loss",
            },
        }
        make = kinds[self.hparams["kind"]]
        return optimizer if make is None else {"optimizer": optimizer, "lr_scheduler": make()}


def spec(directory: Path | None, **changes: Any) -> TrialSpec:
    train, val = nets.loaders(generator=torch.Generator().manual_seed(1))
    trainer = {**SILENT, "max_epochs": 5, "accelerator": "cpu", "devices": 1}
    values: dict[str, Any] = {
        "architecture": {},
        "builder": ModuleBuilder.of(Scheduled()),
        "data": TrialData(train=train, val=val),
        "trainer": trainer,
        "monitor": "val_loss",
        "mode": "min",
        "seed": 7,
        "directory": directory,
    }
    return TrialSpec(**{**values, **changes})


def never(step: int, value: float) -> bool:
    return False


def interrupting(at: int) -> Any:
    def report(step: int, value: float) -> bool:
        if step == at:
            raise KeyboardInterrupt
        return False

    return report


@pytest.mark.parametrize("kind", ["none", "epoch", "step", "plateau", "one cycle"])
def test_an_interrupted_trial_continues_bit_for_bit(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = run_trial(spec(tmp_path / "a", architecture={"kind": kind}), never)
    with pytest.raises(KeyboardInterrupt):
        run_trial(spec(tmp_path / "b", architecture={"kind": kind}), interrupting(3))
    assert len(saved_states(tmp_path / "b")[STATE_KEY]["history"]) == 3
    torch.manual_seed(99)
    continued = run_trial(spec(tmp_path / "b", architecture={"kind": kind}), never)
    assert continued.history == whole.history
    assert len(set(whole.history)) == 5
    weights = [torch.load(r.checkpoint, weights_only=True)["state_dict"] for r in (whole, continued)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("step", {"max_epochs": -1, "max_steps": 13}), ("plateau by step", {}), ("step", {"accumulate_grad_batches": 2})],
)
def test_steps_continue_bit_for_bit(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    trainer = {**spec(None).trainer, **options}
    whole = run_trial(spec(tmp_path / "a", architecture={"kind": kind}, trainer=trainer), never)
    with pytest.raises(KeyboardInterrupt):
        run_trial(spec(tmp_path / "b", architecture={"kind": kind}, trainer=trainer), interrupting(2))
    continued = run_trial(spec(tmp_path / "b", architecture={"kind": kind}, trainer=trainer), never)
    assert (continued.history, continued.epochs) == (whole.history, whole.epochs)
    assert len(set(whole.history)) > 3


def test_a_training_metric_is_recorded_once_an_epoch(tmp_path: Path) -> None:
    trainer = {**spec(None).trainer, "max_epochs": -1, "max_steps": 12, "check_val_every_n_epoch": 2}
    with pytest.raises(KeyboardInterrupt):
        run_trial(spec(tmp_path, trainer=trainer, monitor="train_loss"), interrupting(2))
    assert len(run_trial(spec(tmp_path, trainer=trainer, monitor="train_loss"), never).history) == 4


def test_a_trial_that_had_ended_is_not_trained_again(tmp_path: Path) -> None:
    stopping = EarlyStopping("val_loss", patience=0, min_delta=1e9)
    first = run_trial(spec(tmp_path, callbacks=[stopping]), never)
    again = run_trial(spec(tmp_path, callbacks=[stopping]), never)
    assert again.history == first.history
    assert len(first.history) == 2
    pruned = run_trial(spec(None), lambda step, value: step == 1)
    assert (pruned.state, len(pruned.history)) == ("pruned", 2)


def test_the_best_epoch_counts_and_its_weights_are_kept(tmp_path: Path) -> None:
    class Worse(nets.Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.02 if self.trainer.current_epoch == 0 else 1.0)

        def on_train_epoch_start(self) -> None:
            if self.trainer.current_epoch == 2:
                self.trainer.optimizers[0].param_groups[0]["lr"] = -0.05

    result = run_trial(spec(tmp_path, builder=ModuleBuilder.of(Worse())), never)
    assert result.score == min(result.history) != result.history[-1]
    module = Worse.load_from_checkpoint(result.checkpoint, weights_only=True)
    trainer = nets.trainer(tmp_path)
    trainer.validate(module, nets.loaders()[1], verbose=False)
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(result.score)


def test_failures_have_reasons(tmp_path: Path) -> None:
    class Broken(nets.Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise ValueError("a reason\nand more")

    result = run_trial(spec(tmp_path, builder=ModuleBuilder.of(Broken())), never)
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.startswith("ValueError: a reason (test_trial.py:")

    class Leaving(nets.Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise SystemExit(3)

    left = run_trial(spec(None, builder=ModuleBuilder.of(Leaving())), never)
    assert left.error is not None
    assert "sys.exit(3)" in left.error


def test_missing_monitor_lists_what_was_logged() -> None:
    with pytest.raises(MonitorMissing, match=r"`train_loss`, `val_loss`\.$"):
        run_trial(spec(None, monitor="accuracy"), never)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(MemoryError(), True), (RuntimeError("CUDA out of memory."), True), (RuntimeError("shape"), False)],
)
def test_out_of_memory_is_recognised(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setenv("THERE_BEFORE", "1")
    torch.manual_seed(3)
    before = rng_state()

    def careless() -> None:
        with isolated(1):
            torch.rand(3), random.random(), np.random.rand()
            os.environ["PL_GLOBAL_SEED"] = os.environ["SET_BY_A_CANDIDATE"] = "5"
            del os.environ["THERE_BEFORE"]
            torch.use_deterministic_algorithms(True)
            torch.set_grad_enabled(False)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        careless()
    after = rng_state()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["python"] == after["python"]
    assert not {"PL_GLOBAL_SEED", "SET_BY_A_CANDIDATE"} & os.environ.keys()
    assert os.environ["THERE_BEFORE"] == "1"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_a_trial_is_silent(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str) -> None:
    log = logging.getLogger(f"{name}.utilities.rank_zero")
    monkeypatch.setattr(rank_zero, "log", log)
    monkeypatch.setattr(log, "handlers", [caplog.handler])
    with caplog.at_level(logging.INFO, log.name):
        run_trial(spec(None), never)
        assert caplog.records == []
        nets.trainer(".")
        assert caplog.records != []


def test_rng_state_survives_a_checkpoint(tmp_path: Path) -> None:
    state = rng_state()
    drawn = (torch.rand(2), random.random(), np.random.rand(), np.random.randn())
    torch.save(state, tmp_path / "state.pt")
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    again = (torch.rand(2), random.random(), np.random.rand(), np.random.randn())
    assert torch.equal(drawn[0], again[0])
    assert drawn[1:] == again[1:]


def test_seeds_differ_by_trial() -> None:
    seeds = {trial_seed(seed, number) for seed in range(20) for number in range(50)}
    assert len(seeds) == 1000
    with seeded(5):
        first = torch.rand(1)
    with seeded(5):
        assert torch.equal(first, torch.rand(1))


def test_metrics_of_a_trial_do_not_synchronise_and_can_be_saved() -> None:
    module = torch.nn.ModuleDict({"metric": torchmetrics.MeanSquaredError()})
    _decouple_metrics(module)  # type: ignore[arg-type]
    saved = pickle.loads(pickle.dumps(module["metric"]))
    assert saved.distributed_available_fn() is module["metric"].distributed_available_fn() is False
