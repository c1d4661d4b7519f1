"""Blocks that thaw after so many optimizer steps, or when a metric no longer improves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from nets import loaders, samples
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import ConcatDataset, DataLoader
from transfer_nets import QUIET, Stepped, Tuned, fit, grouped, source

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.tune.thawing import Thawing

STEPS: dict[str, Any] = {"strategy": "gradual", "every": 4, "unit": "step"}
BLOCKS = [2, 6, 10]  # tensors that are trained in phases 0, 1 and 2


class Scored(Tuned):
    """Each validation logs the next of these as `score`, counted by the batches before it."""

    def __init__(self, scores: Sequence[float] = (), **options: Any) -> None:
        super().__init__(**options)
        self.scores = list(scores)
        self.checks = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.log("score", self.scores[self.checks])

    def on_validation_end(self) -> None:
        self.checks += not self.trainer.sanity_checking

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["checks"] = self.checks

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.checks = checkpoint["checks"]


class Batches(L.Callback):
    """Of each batch: how many tensors are trained, and how many of them have a gradient at the step."""

    def __init__(self) -> None:
        self.trained: list[int] = []
        self.stepped: list[int] = []
        self.in_train: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.trained.append(sum(p.requires_grad for p in pl_module.parameters()))
        self.in_train.append(sum(m.training for m in pl_module.modules() if isinstance(m, nn.BatchNorm1d)))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.stepped.append(sum(p.grad is not None for p in pl_module.parameters()))


class TestSteps:
    def test_at_the_boundary_of_the_step(self) -> None:
        spy, transfer = Batches(), TransferLearning(source(), **grouped(STEPS))
        fit(Tuned(), transfer, spy)  # three steps an epoch
        assert spy.trained == spy.stepped == [2] * 4 + [6] * 4 + [10] * 4
        assert spy.in_train == [0] * 4 + [1] * 4 + [2] * 4
        assert [block.steps for block in transfer.blocks] == [(8, 8), (4, 4), (0, 0)]
        assert [block.epochs for block in transfer.blocks] == [(2, 2), (1, 1), (0, 0)]

    def test_a_probe_of_so_many_steps(self) -> None:
        spy = Batches()
        fit(
            Tuned(),
            TransferLearning(source(), strategy="lp_ft", thawing=Thawing(every=5, unit="step")),
            spy,
            max_epochs=3,
        )
        assert spy.trained == [2] * 5 + [10] * 4

    def test_patterns_by_step(self) -> None:
        spy, layers = Batches(), {2: "backbone.[34]", 7: "backbone"}
        fit(
            Tuned(),
            TransferLearning(source(), freeze="backbone", thawing=Thawing(unfreeze=layers, unit="step")),
            spy,
            max_epochs=3,
        )
        assert spy.trained == [2] * 2 + [6] * 5 + [10] * 2

    def test_every_second_epoch(self) -> None:
        spy = Batches()
        fit(Tuned(), TransferLearning(source(), strategy="gradual", thawing=Thawing(every=2)), spy, max_epochs=5)
        assert spy.trained[::3] == [2, 2, 6, 6, 10]

    def test_accumulated_gradients_are_of_one_phase(self) -> None:
        spy = Batches()  # two steps an epoch, of two batches and of one
        fit(Tuned(), TransferLearning(source(), **grouped({**STEPS, "every": 3})), spy, accumulate_grad_batches=2)
        assert spy.trained == [2] * 5 + [6] * 4 + [10] * 3
        assert spy.stepped == [2] * 3 + [6] * 3 + [10] * 2

    def test_optimizers_that_are_stepped_by_hand(self) -> None:
        class Manual(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def configure_optimizers(self) -> Any:
                return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.backbone, self.head)]

            def training_step(self, batch: Any, batch_idx: int) -> None:
                self.manual_backward(self._loss(batch))
                for optimizer in self.optimizers():
                    optimizer.step()
                    optimizer.zero_grad()

        spy = Batches()
        fit(
            Manual(), TransferLearning(source(), **grouped(STEPS), warmup_epochs=0.5), spy, max_epochs=2
        )  # two steps a batch
        assert spy.trained == [2, 2, 6, 6, 10, 10]

    def test_frozen_layers_drop_out_again_when_they_thaw(self) -> None:
        class Dropping(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.backbone[2] = nn.Dropout(0.5)
                self.modes: list[bool] = []

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if self.training:
                    a, b = self.backbone[:3](x), self.backbone[:3](x)
                    self.modes.append(not torch.equal(a, b))
                return super().forward(x)

        module = Dropping()
        fit(module, TransferLearning(source(), **grouped({**STEPS, "every": 2}), frozen_dropout=False), max_epochs=2)
        assert module.modes == [False] * 4 + [True] * 2

    def test_warm_up_begins_within_the_epoch(self) -> None:
        module = Stepped()
        fit(module, TransferLearning(source(), **grouped(STEPS), warmup_epochs=1, layer_decay=0.5))
        low, top, head = zip(*module.rates, strict=True)
        third = 0.1 / 3
        assert head == (0.1,) * 12
        assert top[4:] == pytest.approx([third / 2, third, *[0.05] * 6])
        assert low[8:] == pytest.approx([third / 4, third / 2, 0.025, 0.025])


class TestMetric:
    def run(self, scores: Sequence[float], *callbacks: L.Callback, **options: Any) -> tuple[list[int], Any]:
        spy, arguments = Batches(), {"strategy": "gradual", "monitor": "score", "patience": 2, **options}
        trainer = arguments.pop("trainer", {})
        transfer = TransferLearning(source(), **grouped(arguments))
        fit(Scored(scores), transfer, spy, *callbacks, **{"max_epochs": len(scores), **trainer})
        return spy.trained[::3], transfer

    def test_the_next_block_thaws_when_it_no_longer_improves(self) -> None:
        trained, transfer = self.run([1.0, 0.9, 0.9, 0.95, 0.8, 0.8, 0.8, 0.8])
        assert trained == [2] * 4 + [6] * 3 + [10]
        assert [block.epochs for block in transfer.blocks] == [(7, 7), (4, 4), (0, 0)]
        assert [block.steps for block in transfer.blocks] == [(21, 21), (12, 12), (0, 0)]

    def test_what_was_not_reached_was_never_trained(self) -> None:
        trained, transfer = self.run([0.8, 0.8, 0.8, 0.5])
        assert trained == [2, 2, 2, 6]
        assert [(block.epochs, block.frozen) for block in transfer.blocks] == [(None, 56), ((3, 3), 0), ((0, 0), 0)]

    def test_more_is_better_by_a_margin(self) -> None:
        trained, _ = self.run([0.5, 0.625, 0.6875, 0.9375, 0.9375], mode="max", min_delta=0.25)
        assert trained == [2, 2, 2, 6, 6]

    def test_nan_is_no_improvement(self) -> None:
        assert self.run([math.nan, math.nan, 1.0, 0.5])[0] == [2, 2, 6, 6]

    def test_the_head_alone_until_then(self) -> None:
        assert self.run([1.0, 1.0, 1.0, 1.0], strategy="lp_ft", patience=1)[0] == [2, 2, 10, 10]

    def test_at_the_latest_after(self) -> None:
        falling = [1.0 - 0.1 * i for i in range(6)]
        assert self.run(falling, every=2)[0] == [2, 2, 6, 6, 10, 10]
        assert self.run(falling, every=7, unit="step")[0] == [2, 2, 2, 6, 6, 10]
        assert self.run([1.0] * 6, every=2, patience=1)[0] == [2, 2, 6, 10, 10, 10]

    def test_validations_within_an_epoch_wait_for_the_step(self) -> None:
        spy = Batches()  # a validation after each batch, a step after two, or at the end of an epoch
        transfer = TransferLearning(source(), strategy="gradual", thawing=Thawing(monitor="score", patience=2))
        trainer = {"val_check_interval": 1, "accumulate_grad_batches": 2, "max_epochs": 2}
        fit(Scored([1.0] * 6), transfer, spy, **trainer)
        assert spy.trained == [2] * 3 + [6] * 2 + [10]
        assert spy.stepped == [2, 2, 6, 10]

    def test_the_sanity_check_does_not_count(self) -> None:
        assert self.run([1.0, 1.0, 1.0], patience=1, trainer={"num_sanity_val_steps": 1})[0] == [2, 2, 6]

    def test_groups_and_schedulers(self) -> None:
        rates: list[list[float]] = []

        class Rates(L.Callback):
            def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

        module = Scored([1.0] * 4, scheduler=lambda o: lr_scheduler.ExponentialLR(o, 0.5))
        transfer = TransferLearning(
            source(), strategy="gradual", layer_decay=0.5, thawing=Thawing(monitor="score", patience=1)
        )
        fit(module, transfer, Rates())
        assert rates == [pytest.approx([0.05 * 0.5**epoch * f for f in (0.25, 0.5, 1.0)]) for epoch in range(4)]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
class TestResume:
    def run(self, options: dict[str, Any], *callbacks: L.Callback, seed: int = 0, ckpt_path: Any = None) -> Any:
        batches = DataLoader(ConcatDataset([samples(16)] * 3), batch_size=16)  # all alike: loaders do not go on within
        module = Scored([1.0] * 8, seed=seed, scheduler=lambda o: lr_scheduler.CosineAnnealingLR(o, 6))
        transfer = TransferLearning(source(), **grouped(options))
        trainer = L.Trainer(
            **{**QUIET, "enable_checkpointing": bool(callbacks)}, max_epochs=4, callbacks=[transfer, *callbacks]
        )
        trainer.fit(module, batches, batches, ckpt_path=ckpt_path)
        return module, trainer, transfer

    def check(self, options: dict[str, Any], folder: Path, *, every: int, **saved: Any) -> None:
        saver = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}-{step}", **saved)
        expected, trainer, transfer = self.run(options, saver)
        for path in sorted(folder.iterdir())[::every]:
            module, resumed, again = self.run(options, seed=3, ckpt_path=path)
            torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=0, atol=0)
            state = resumed.optimizers[0].state_dict()
            torch.testing.assert_close(state, trainer.optimizers[0].state_dict(), rtol=0, atol=0)
            assert again.state_dict()["clock"] == transfer.state_dict()["clock"]
            assert again.blocks == transfer.blocks

    def test_by_step_after_each_of_them(self, tmp_path: Path) -> None:
        options = {**STEPS, "layer_decay": 0.5, "warmup_epochs": 1.5, "l2_sp": 0.2}
        self.check(options, tmp_path, every=2, every_n_train_steps=1)

    METRIC: dict[str, Any] = {"strategy": "gradual", "monitor": "score", "patience": 1, "warmup_epochs": 1.5}

    def test_by_metric_after_each_validation(self, tmp_path: Path) -> None:
        self.check(self.METRIC, tmp_path, every=1)

    def test_by_metric_after_each_epoch(self, tmp_path: Path) -> None:
        self.check(self.METRIC, tmp_path, every=1, save_on_train_epoch_end=True)

    def test_by_metric_within_the_epoch(self, tmp_path: Path) -> None:
        """Lightning 2.6 forgets a validation that was due when the checkpoint was written: those are left out."""
        options = {**self.METRIC, "every": 5, "unit": "step"}
        self.check(options, tmp_path / "first", every=3, every_n_train_steps=1)
        self.check(options, tmp_path / "second", every=3, every_n_train_steps=2)

    def test_its_state_is_plain(self, tmp_path: Path) -> None:
        self.run(self.METRIC, ModelCheckpoint(tmp_path, filename="a"))
        state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["lightning_autoarch.TransferLearning"]
        assert state["clock"] == {"begun": [[2, 6, 2.0], [3, 9, 3.0]], "best": 1.0, "wait": 1, "checked": 12}
        assert state["groups"]["monitor"] == "score"

    def test_by_another_rule(self, tmp_path: Path) -> None:
        self.run(STEPS, ModelCheckpoint(tmp_path, filename="a"))
        for options in ({**STEPS, "every": 5}, {"strategy": "gradual"}):
            with pytest.raises(TransferError, match=r"Expected `every=4`, as in the fit that is resumed"):
                self.run(options, ckpt_path=tmp_path / "a.ckpt")


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"every": 4}, r"`every` says when blocks thaw, but `strategy='full'` thaws none"),
            ({"strategy": "linear_probe", "monitor": "val_loss"}, r"`monitor` says .* `strategy='linear_probe'`"),
            ({"strategy": "gradual", "unit": "step"}, r"requires `every`"),
            ({"unit": "step"}, r"neither is given"),
            ({"strategy": "gradual", "unit": "step", "monitor": "a"}, r"neither is given"),
            ({"strategy": "lp_ft", "unit": "step", "probe_epochs": 1}, r"`probe_epochs` counts epochs"),
            ({"strategy": "lp_ft", "every": 2, "probe_epochs": 1}, r"pass one"),
            (
                {"strategy": "gradual", "monitor": "a", "freeze": "head", "unfreeze": {1: "head"}},
                r"`unfreeze` thaws at",
            ),
            ({"strategy": "gradual", "patience": 2}, r"`patience` requires `monitor`"),
            ({"strategy": "gradual", "mode": "max"}, r"`mode` requires `monitor`"),
            ({"strategy": "gradual", "unit": "batch"}, r"`unit` to be one of 'epoch', 'step', got 'batch'"),
            ({"strategy": "gradual", "monitor": "a", "mode": "auto"}, r"`mode` to be one of 'min', 'max', got 'auto'"),
            ({"strategy": "gradual", "monitor": ""}, r"`monitor` to be a string that is not empty or None, got ''"),
            ({"strategy": "gradual", "monitor": "a", "patience": 0}, r"`patience` to be an int >= 1, got 0"),
            ({"strategy": "gradual", "monitor": "a", "min_delta": -0.1}, r"`min_delta` to be a number >= 0"),
            ({"strategy": "gradual", "every": True}, r"`every` to be an int >= 1 or None"),
            (
                {"freeze": "head", "unfreeze": {0: "head"}, "unit": "step"},
                r"`unfreeze` to be an int >= 1, got 0: its keys are steps",
            ),
        ],
    )
    def test_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(TransferError, match=message):
            TransferLearning(source(), **grouped(options))

    def refused(self, message: str, module: Any = None, trainer: Any = None, **options: Any) -> None:
        spy = Batches()
        with pytest.raises(TransferError, match=message):
            fit(module or Scored([1.0] * 9), TransferLearning(source(), **grouped(options)), spy, **(trainer or {}))
        assert spy.trained == []

    def test_steps_beyond_the_fit(self) -> None:
        self.refused("after 12 steps, got step 12 with `every=6`", **{**STEPS, "every": 6})
        self.refused("after 4 steps, got step 8", trainer={"max_steps": 4}, **STEPS)
        self.refused("after 8 steps, got step 8", trainer={"accumulate_grad_batches": 2}, **STEPS)
        self.refused("after 4 epochs, got epoch 4", strategy="gradual", every=2)
        steps = {"freeze": "backbone", "unfreeze": {12: "backbone"}, "unit": "step"}
        self.refused("steps of `unfreeze` below 12, got 12", **steps)

    def test_a_cap_that_comes_too_late(self) -> None:
        self.refused("got step 12", strategy="gradual", monitor="score", every=6, unit="step")
        self.refused("got epoch 4", strategy="gradual", monitor="score", every=2)

    def test_steps_that_nobody_can_count_before(self) -> None:
        spy = Batches()
        fit(Tuned(), TransferLearning(source(), **grouped(STEPS)), GradientAccumulationScheduler({0: 3, 1: 1}), spy)
        assert spy.trained == [2] * 6 + [6] * 4 + [10] * 2

    def test_no_validation(self) -> None:
        class Without(Tuned):
            validation_step = L.LightningModule.validation_step

        metric = {"strategy": "gradual", "monitor": "score", "patience": 1}
        message = "Expected a validation that logs `score`"
        self.refused(message, trainer={"limit_val_batches": 0}, **metric)
        with pytest.warns(UserWarning, match="no `validation_step`"):
            self.refused(message, Without(), **metric)

    def test_too_few_validations(self) -> None:
        metric = {"strategy": "gradual", "monitor": "score"}
        self.refused(r"got `patience=3` and 3 of them", **metric)
        self.refused(r"got `patience=1` and 1 of them", trainer={"check_val_every_n_epoch": 2}, **metric, patience=1)

    def test_a_metric_that_is_not_logged(self) -> None:
        transfer = TransferLearning(source(), strategy="gradual", thawing=Thawing(monitor="val_acc", patience=1))
        message = r"got 'val_acc'. After validation there is .*`val_loss`.*`self.log\('val_acc', ...\)`"
        with pytest.raises(TransferError, match=message):
            fit(Tuned(), transfer)

    def test_fast_dev_run(self) -> None:
        for options in (STEPS, {"strategy": "gradual", "monitor": "val_loss"}):
            trainer = L.Trainer(**QUIET, fast_dev_run=True, callbacks=[TransferLearning(source(), **grouped(options))])
            trainer.fit(Tuned(), *loaders())
