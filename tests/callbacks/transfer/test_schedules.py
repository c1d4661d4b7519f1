"""Learning rates: by layer, by pattern, by scheduler, by finder, and gently at first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from nets import Data, loaders
from torch.optim import Optimizer, lr_scheduler
from transfer_nets import QUIET, Epochs, Stepped, Tuned, fit, grouped, moved, source

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.callbacks.transfer.parameter_groups import split_groups
from lightning_autoarch.core.errors import TransferError

FACTORS = [0.25, 0.5, 1.0]  # of the three blocks, with a decay of 0.5

SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.1),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 4),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=3),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(o, 3)], [2]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


class TestLayerDecay:
    @pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")
    @pytest.mark.parametrize("name", SCHEDULERS)
    def test_every_rate_follows_the_curve_of_the_scheduler(self, name: str) -> None:
        plain, split = Epochs(), Epochs()
        fit(Tuned(scheduler=SCHEDULERS[name]), plain)
        fit(Tuned(scheduler=SCHEDULERS[name]), TransferLearning(source(), strategy="gradual", layer_decay=0.5), split)
        assert len({rate for (rate,) in plain.rates}) > 1
        for (rate,), rates in zip(plain.rates, split.rates, strict=True):
            assert rates == pytest.approx([rate * factor for factor in FACTORS])

    def test_plateau(self) -> None:
        spy = Epochs()
        module = Tuned(
            scheduler=lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.1, patience=0, threshold=9.0, min_lr=[1e-3])
        )  # to which nothing is an improvement
        fit(module, TransferLearning(source(), strategy="gradual", layer_decay=0.5), spy)
        rates = [0.05, 5e-3, 1e-3, 1e-3]
        for rate, found in zip(rates, spy.rates, strict=True):
            assert found == pytest.approx([rate * factor for factor in FACTORS])

    def test_a_floor_above_the_lowest_rate(self) -> None:
        module = Tuned(scheduler=lambda o: lr_scheduler.CosineAnnealingLR(o, 4, eta_min=0.02))
        with pytest.raises(TransferError, match=r"`eta_min` of CosineAnnealingLR .* got 0.02 and 0.0125"):
            fit(module, TransferLearning(layer_decay=0.5))

    def test_groups_of_the_user_keep_their_options(self) -> None:
        class Grouped(Tuned):
            def configure_optimizers(self) -> Any:
                matrices = [p for p in self.parameters() if p.dim() > 1]
                vectors = [p for p in self.parameters() if p.dim() == 1]
                return torch.optim.SGD(
                    [
                        {"params": matrices, "weight_decay": 0.1, "name": "matrices"},
                        {"params": vectors, "lr": 0.2, "name": "vectors"},
                    ],
                    lr=0.1, momentum=0.9,
                )  # fmt: skip

        transfer = TransferLearning(layer_decay=0.5, lr_scale={"backbone.1.*": 3.0})
        trainer = fit(module := Grouped(), transfer, max_epochs=1)
        groups = trainer.optimizers[0].param_groups
        assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
            ("matrices/0", 0.025, 0.1), ("matrices/1", 0.05, 0.1), ("matrices/2", 0.1, 0.1),
            ("vectors/0", 0.05, 0), ("vectors/1", pytest.approx(0.15), 0), ("vectors/2", 0.1, 0),
            ("vectors/3", 0.2, 0),
        ]  # fmt: skip
        assert groups[4]["params"] == [module.backbone[1].weight, module.backbone[1].bias]

    def test_named_parameters(self) -> None:
        class Named(Tuned):
            def configure_optimizers(self) -> Any:
                return torch.optim.AdamW(list(self.named_parameters()), lr=0.1)

        trainer = fit(module := Named(), TransferLearning(layer_decay=0.5), max_epochs=1)
        names = dict(module.named_parameters())
        for group in trainer.optimizers[0].param_groups:
            assert [id(names[name]) for name in group["param_names"]] == [id(p) for p in group["params"]]

    def test_decay_of_one_splits_nothing(self) -> None:
        trainer = fit(Tuned(), TransferLearning(source(), layer_decay=1.0), max_epochs=1)
        assert len(trainer.optimizers[0].param_groups) == 1

    def test_steps_are_as_long_as_the_rates_say(self) -> None:
        class Plain(Tuned):
            def make_optimizer(self, parameters: Any) -> Optimizer:
                return torch.optim.SGD(parameters, lr=0.1)

        moves = []
        for options in ({}, {"layer_decay": 0.5}, {"lr_scale": {"backbone.0": 0.25, "backbone.3": 0.5}}):
            module = Plain()
            fit(module, TransferLearning(source(), freeze="*.[14].*", **grouped(options)), max_steps=1, max_epochs=1)
            moves.append([module.backbone[i].weight.detach() - source()[f"backbone.{i}.weight"] for i in (0, 3)])
        for low, top in moves[1:]:
            torch.testing.assert_close(low, 0.25 * moves[0][0])
            torch.testing.assert_close(top, 0.5 * moves[0][1])

    def test_no_rate_to_multiply(self) -> None:
        optimizer = torch.optim.SGD(Tuned().parameters(), lr=0.1)
        optimizer.param_groups[0]["lr"] = None
        with pytest.raises(TransferError, match=r"a learning rate in each parameter group.*got None"):
            split_groups(optimizer, lambda p: (0.5, None), [])

    def test_tensors_as_rates(self) -> None:
        class Own(Tuned):
            def make_optimizer(self, parameters: Any) -> Optimizer:
                return torch.optim.Adam(parameters, lr=torch.tensor(0.1))

        trainer = fit(Own(), TransferLearning(layer_decay=0.5, strategy="gradual", warmup_epochs=1))
        rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]
        assert rates == pytest.approx([0.025, 0.05, 0.1])

    def test_the_monitor_sees_them(self, tmp_path: Path) -> None:
        module = Tuned()
        transfer = TransferLearning(source(), strategy="gradual", layer_decay=0.5)
        logger = CSVLogger(tmp_path)
        fit(module, LearningRateMonitor("epoch"), transfer, logger=logger, log_every_n_steps=1)
        lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
        assert sum(name.startswith("lr-AdamW/pg") for name in lines[0].split(",")) == 3


class TestWarmUp:
    def rates_of_steps(self, **options: Any) -> list[list[float]]:
        module, spy = Stepped(), Epochs()
        transfer = TransferLearning(source(), strategy="gradual", **grouped(options))
        fit(module, transfer, spy)
        assert all(rate == 0.1 for rates in spy.rates for rate in rates)  # between the steps nothing is seen of it
        return module.rates

    def test_what_thaws_begins_gently(self) -> None:
        low, top, head = zip(*self.rates_of_steps(warmup_epochs=1), strict=True)
        third = 0.1 / 3
        assert head == (0.1,) * 12
        assert top[3:] == pytest.approx((third, 2 * third, 0.1, *[0.1] * 6))
        assert low[6:] == pytest.approx((third, 2 * third, 0.1, *[0.1] * 3))

    def test_longer_than_an_epoch(self) -> None:
        _, top, _ = zip(*self.rates_of_steps(warmup_epochs=2), strict=True)
        assert top[3:] == pytest.approx([0.1 * min(1, k / 6) for k in range(1, 10)])

    def test_a_loader_of_unknown_length_warms_by_epochs(self) -> None:
        class Stream(torch.utils.data.IterableDataset[Any]):
            def __iter__(self) -> Any:
                return iter(loaders()[0].dataset)

        module = Tuned()
        trainer = L.Trainer(**QUIET, max_epochs=3, callbacks=[TransferLearning(strategy="gradual", warmup_epochs=2)])
        trainer.fit(module, torch.utils.data.DataLoader(Stream(), batch_size=16), loaders()[1])
        assert len(moved(module, dict(Tuned().state_dict()))) > 10

    def test_an_interrupted_step_leaves_the_rate(self) -> None:
        class Broken(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                super().step(closure)
                if self.state_dict()["state"]:
                    raise RuntimeError("on purpose")

        class Spied(Tuned):
            def make_optimizer(self, parameters: Any) -> Optimizer:
                return Broken(parameters, lr=0.1, momentum=0.9)

        trainer = L.Trainer(**QUIET, max_epochs=3, callbacks=[TransferLearning(strategy="gradual", warmup_epochs=1)])
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer.fit(Spied(), *loaders())
        assert {group["lr"] for group in trainer.optimizers[0].param_groups} == {0.1}


class TestTuners:
    def test_learning_rate_finder_as_a_callback(self, tmp_path: Path) -> None:
        finder, spy, module = (
            LearningRateFinder(num_training_steps=30, early_stop_threshold=None),
            Epochs(),
            Tuned(lr=1e-3),
        )
        transfer = TransferLearning(source(), strategy="gradual", layer_decay=0.5, l2_sp=0.1)
        trainer = L.Trainer(**QUIET, max_epochs=3, callbacks=[finder, transfer, spy], default_root_dir=tmp_path)
        trainer.fit(module, datamodule=Data(batch_size=4))
        assert spy.trained[0] == ["head.weight", "head.bias"]
        assert finder.optimal_lr is not None
        lr = finder.optimal_lr.suggestion()
        for rates in spy.rates:
            assert rates == pytest.approx([lr * factor for factor in FACTORS])
        assert trainer.callbacks.index(transfer) < trainer.callbacks.index(finder)

    def test_what_is_frozen_does_not_move_while_rates_are_tried(self, tmp_path: Path) -> None:
        class Watched(Tuned):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                assert moved(self.backbone, {k[9:]: v for k, v in source().items() if k[:8] == "backbone"}) == set()
                return super().training_step(batch, batch_idx)

        transfer = TransferLearning(source(), freeze="backbone")
        fit(Watched(), LearningRateFinder(num_training_steps=30), transfer, default_root_dir=tmp_path, max_epochs=1)

    @pytest.mark.parametrize("what", ["rate", "batch"])
    def test_tuner(self, what: str, tmp_path: Path) -> None:
        module, spy = Tuned(), Epochs()
        transfer = TransferLearning(source(), strategy="gradual", layer_decay=0.5)
        trainer = L.Trainer(**QUIET, max_epochs=3, callbacks=[transfer, spy], default_root_dir=tmp_path)
        data = Data(batch_size=4)
        if what == "rate":
            assert Tuner(trainer).lr_find(module, datamodule=data, num_training=20) is not None
        else:
            Tuner(trainer).scale_batch_size(module, datamodule=data, max_trials=2)
        assert moved(module, source()) == set()
        trainer.fit(module, datamodule=data)
        assert [len(names) for names in spy.trained] == [2, 6, 10]
        assert spy.rates[0] == pytest.approx([module.lr * factor for factor in FACTORS])

    def test_batch_size_finder_as_a_callback(self, tmp_path: Path) -> None:
        module, spy = Tuned(), Epochs()
        trainer = L.Trainer(
            **QUIET, max_epochs=3, default_root_dir=tmp_path,
            callbacks=[BatchSizeFinder(max_trials=2), TransferLearning(source(), strategy="gradual"), spy],
        )  # fmt: skip
        trainer.fit(module, datamodule=Data(batch_size=4))
        assert [len(names) for names in spy.trained] == [2, 6, 10]
