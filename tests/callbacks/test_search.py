"""The callback end to end, and each row of what breaks when a Trainer's module is rebuilt under it."""

from __future__ import annotations

import copy
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import nets
import numpy as np
import optuna
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning_utilities.core import rank_zero
from search_options import merged
from torch import nn

from lightning_autoarch import ArchitectureSearch, Categorical, Int, Repeat, SearchError, SpaceError


def search(**options: Any) -> ArchitectureSearch:
    space = options.pop("space", nets.SPACE)
    defaults = {"monitor": "val_loss", "n_trials": 3, "sampler": "random", "trial": {"trainer": {"max_epochs": 1}}}
    return ArchitectureSearch(space, **merged(defaults, options))


def test_module_comes_back_as_the_winner_trained(tmp_path: Path) -> None:
    callback, module = search(), nets.Net()
    before = id(module)
    trainer = nets.trainer(tmp_path, callback)
    trainer.fit(module, *nets.loaders())
    assert id(module) == before
    assert {name: module.hparams[name] for name in nets.SPACE} == callback.best_architecture
    assert module.net[0].out_features == module.hparams["width"]
    assert trainer.current_epoch == 2
    assert "val_loss" in trainer.callback_metrics
    scores = [t.value for t in callback.optuna_study.trials]
    assert callback.best_score == min(scores)
    assert len(scores) == 3


def test_winner_is_really_trained_by_the_outer_fit(tmp_path: Path) -> None:
    module = nets.Net()
    started: dict[str, torch.Tensor] = {}

    class Remember(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            started.update({k: v.clone() for k, v in pl_module.state_dict().items()})

    nets.trainer(tmp_path, search(), Remember()).fit(module, *nets.loaders())
    assert all(not torch.equal(v, started[k]) for k, v in module.state_dict().items() if k.endswith("weight"))


def test_variable_number_of_layers(tmp_path: Path) -> None:
    callback = search(space={"layers": Repeat(0, 3, {"width": Int(2, 8)})}, n_trials=4)
    module = nets.Net()
    nets.trainer(tmp_path, callback).fit(module, *nets.loaders())
    layers = callback.best_architecture["layers"]
    assert sum(isinstance(m, nn.Linear) for m in module.net) == 2 + len(layers)


@pytest.mark.parametrize("strategy", ["random", "bayesian", "genetic", optuna.samplers.TPESampler(seed=0)])
def test_every_strategy(tmp_path: Path, strategy: Any) -> None:
    callback = search(sampler=strategy, n_trials=7)
    nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
    assert len({str(t.params) for t in callback.optuna_study.trials}) == 7


@pytest.mark.parametrize("strategy", ["random", "bayesian", "genetic"])
def test_one_seed_one_search(tmp_path: Path, strategy: str) -> None:
    runs = []
    for name in ("a", "b"):
        callback = search(sampler=strategy, n_trials=6, seed=3)
        module = nets.Net()
        torch.manual_seed(len(runs))  # the world outside must not matter
        nets.trainer(tmp_path / name, callback, max_epochs=1).fit(module, *nets.loaders())
        runs.append([(t.params, t.value) for t in callback.optuna_study.trials])
    assert runs[0] == runs[1]


class TestAfter:
    def test_keep_starts_from_the_trials_weights(self, tmp_path: Path) -> None:
        module, seen = nets.Net(), {}

        class Look(L.Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                seen.update({k: v.clone() for k, v in pl_module.state_dict().items()})

        callback = search(after="keep")
        nets.trainer(tmp_path, callback, Look(), max_epochs=1).fit(module, *nets.loaders())
        path = callback.optuna_study.best_trial.user_attrs["checkpoint"]
        kept = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.equal(seen[k], v) for k, v in kept.items())

    def test_stop_trains_nothing(self, tmp_path: Path) -> None:
        module, callback = nets.Net(), search(after="stop")
        trainer = nets.trainer(tmp_path, callback)
        trainer.fit(module, *nets.loaders())
        kept = torch.load(callback.optuna_study.best_trial.user_attrs["checkpoint"], weights_only=True)["state_dict"]
        assert trainer.global_step == 0
        assert all(torch.equal(module.state_dict()[k], v) for k, v in kept.items())
        trainer.validate(module, nets.loaders()[1], verbose=False)
        assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(callback.best_score)

    def test_stop_trains_nothing_whatever_the_minima(self, tmp_path: Path) -> None:
        module, callback = nets.Net(), search(after="stop")
        trainer = nets.trainer(tmp_path, callback, max_epochs=4, min_epochs=2, min_steps=5)
        trainer.fit(module, *nets.loaders())
        assert trainer.global_step == 0
        trainer.fit(module, *nets.loaders())  # a second fit is an ordinary one
        assert (trainer.min_epochs, trainer.min_steps, trainer.current_epoch) == (2, 5, 4)


class TestTheOuterFitIsLeftAsItWas:
    def test_random_numbers_environment_signals_loggers_threads(self, tmp_path: Path) -> None:
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        threads = threading.active_count()
        environment, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
        levels = {n: logging.getLogger(n).level for n in ("lightning.pytorch", "lightning.fabric", "optuna")}
        drawn: list[Any] = []

        class Draw(L.Callback):
            def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
                drawn.append((torch.rand(1).item(), random.random(), np.random.rand()))

        nets.trainer(tmp_path, search(), Draw()).fit(nets.Net(), *nets.loaders())
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        nets.Net()  # built before the fit drew
        assert drawn == [(torch.rand(1).item(), random.random(), np.random.rand())]
        assert dict(os.environ) == environment
        assert signal.getsignal(signal.SIGINT) is handler
        assert {n: logging.getLogger(n).level for n in levels} == levels
        assert threading.active_count() <= threads

    def test_datamodule_is_prepared_once_and_keeps_its_trainer(self, tmp_path: Path) -> None:
        data = nets.Data()
        trainer = nets.trainer(tmp_path, search())
        trainer.fit(nets.Net(), datamodule=data)
        assert data.calls == ["prepare", "setup", "teardown"]
        assert data.trainer is trainer

    def test_generator_of_a_loader(self, tmp_path: Path) -> None:
        generator = torch.Generator().manual_seed(1)
        state = generator.get_state()
        train, val = nets.loaders(generator=generator)
        seen: list[bool] = []

        class Look(L.Callback):
            def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
                seen.append(torch.equal(generator.get_state(), state))

        nets.trainer(tmp_path, search(), Look()).fit(nets.Net(), train, val)
        assert seen == [True]

    def test_module_is_untouched_when_the_search_fails(self, tmp_path: Path) -> None:
        module = nets.Net()
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(SearchError, match="None of the 2 trials"):
            nets.trainer(tmp_path, search(space={"act": ["relu", "tanh"]}, monitor="val_loss", n_trials=2)).fit(
                module, *_nan_loaders()
            )
        assert module.hparams["act"] == "relu"
        assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def _nan_loaders() -> Any:
    train, val = nets.loaders()
    train.dataset.tensors[0].fill_(float("nan"))
    return train, val


class TestFailures:
    def test_one_impossible_architecture_is_one_failed_trial(self, tmp_path: Path) -> None:
        class Picky(nets.Net):
            def __init__(self, width: int = 4):
                if width == 3:
                    raise ValueError("three is not a width")
                super().__init__(width=width)

        callback = search(space={"width": Int(2, 4)}, n_trials=3)
        nets.trainer(tmp_path, callback).fit(Picky(), *nets.loaders())
        failed = [t for t in callback.optuna_study.trials if t.state.name == "FAIL"]
        assert [t.params for t in failed] == [{"width": 3}]
        assert "three is not a width" in failed[0].user_attrs["error"]

    @pytest.mark.parametrize(
        "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("DefaultCPUAllocator: no")]
    )
    def test_out_of_memory(self, tmp_path: Path, error: Exception) -> None:
        class Hungry(nets.Net):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                if self.hparams["act"] == "tanh":
                    raise error
                return super().training_step(batch, batch_idx)

        callback = search(space={"act": ["relu", "tanh"]}, n_trials=2)
        nets.trainer(tmp_path, callback).fit(Hungry(), *nets.loaders())
        assert callback.best_architecture == {"act": "relu"}
        assert any(t.user_attrs.get("error", "").startswith("out of memory") for t in callback.optuna_study.trials)

    def test_all_failed_groups_the_reasons(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError, match=r"3 x `val_loss` became nan"):
            nets.trainer(tmp_path, search()).fit(nets.Net(), *_nan_loaders())

    def test_monitor_that_is_not_logged(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError, match=r"`train_loss`, `val_loss`.*Did you mean `val_loss`"):
            nets.trainer(tmp_path, search(monitor="val_los")).fit(nets.Net(), *nets.loaders())
        nets.trainer(tmp_path, search(monitor="val_loss")).fit(nets.Net(), *nets.loaders())  # the typo can be mended

    @pytest.mark.parametrize(
        "options", [{"max_steps": 2}, {"check_val_every_n_epoch": 2}, {"limit_val_batches": 0}], ids=str
    )
    def test_a_trial_that_ends_before_validation(self, tmp_path: Path, options: dict[str, Any]) -> None:
        callback = search(trial={"trainer": {"max_epochs": 1, **options}})
        with pytest.raises(SearchError, match=r"`train_loss`.* No validation ran.*`max_steps`.*`limit_train_batches`"):
            nets.trainer(tmp_path, callback).fit(nets.Net(), *nets.loaders())

    def test_positional_only_arguments_name_the_factory_alone(self, tmp_path: Path) -> None:
        class Positional(nets.Net):
            def __init__(self, width: int = 4, /, act: str = "relu"):
                super().__init__(width)
                self.save_hyperparameters()

        with pytest.raises(SearchError, match=r"`width` of Positional.__init__ is positional-only.*factory=") as error:
            nets.trainer(tmp_path, search(space={"act": ["relu"]})).fit(Positional(), *nets.loaders())
        assert "save_hyperparameters" not in str(error.value)

    @pytest.mark.parametrize("strategy", ["random", "bayesian"])
    def test_a_constraint_that_raises_is_named(self, tmp_path: Path, strategy: str) -> None:
        def narrow(architecture: Any) -> bool:
            return architecture["widht"] < 9

        callback = search(space={"width": [2, 3]}, constraints=[lambda a: True, narrow], sampler=strategy)
        said = r"`constraints\[1\]` \(narrow\) raised KeyError: 'widht'.*\{'width': [23]\}"
        with pytest.raises(SearchError, match=said):
            nets.trainer(tmp_path, callback).fit(nets.Net(), *nets.loaders())

    def test_missing_hyperparameters_name_the_factory(self, tmp_path: Path) -> None:
        class Bare(L.LightningModule):
            def __init__(self, width: int, inputs: int):
                super().__init__()

            training_step = nets.Net.training_step
            validation_step = nets.Net.validation_step
            configure_optimizers = nets.Net.configure_optimizers

        with pytest.raises(SearchError, match="factory="):
            nets.trainer(tmp_path, search(space={"width": [1, 2]})).fit(Bare(1, 2), *nets.loaders())

    def test_unknown_argument_names_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(SpaceError, match="Did you mean `width`"):
            nets.trainer(tmp_path, search(space={"widht": [1, 2]})).fit(nets.Net(), *nets.loaders())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mode": "up"}, "`mode`"),
            ({"sampler": "baysian"}, "`sampler`.*Did you mean `bayesian`"),
            ({"after": "halt"}, "`after`"),
            ({"n_trials": 0}, "`n_trials`"),
            ({"timeout": -1}, "`timeout`"),
            ({"folds": 1}, "`folds`"),
            ({"folds": 3, "after": "keep"}, "`folds`"),
            ({"study": {"keep_top_k": 0}}, "`study.keep_top_k`"),
            ({"trial": {"trainer": {"max_epoch": 1}}}, "Did you mean `max_epochs`"),
            ({"trial": {"trainer": {"callbacks": []}}}, "trial.callbacks"),
            ({"space": {}}, "at least one"),
        ],
    )
    def test_bad_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises((SearchError, SpaceError), match=message):
            search(**options)


def test_factory_for_a_module_without_hyperparameters(tmp_path: Path) -> None:
    class Bare(nets.Net):
        def __init__(self, inner: nn.Module):
            super(nets.Net, self).__init__()
            self.net = inner

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    def factory(width: int) -> Bare:
        return Bare(nn.Sequential(nn.Linear(4, width), nn.Linear(width, 1)))

    module, callback = factory(4), search(space={"width": Int(5, 16)}, factory=factory)
    nets.trainer(tmp_path, callback).fit(module, *nets.loaders())
    assert module.net[0].out_features == callback.best_architecture["width"]


@pytest.mark.filterwarnings("ignore:Attribute 'head' is an instance of `nn.Module`")
def test_a_module_as_hyperparameter_is_not_shared(tmp_path: Path) -> None:
    class Wrapped(nets.Net):
        def __init__(self, head: nn.Module, width: int = 4):
            super(nets.Net, self).__init__()
            self.save_hyperparameters()
            self.hparams["lr"] = 0.1
            self.net = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 4), head)

    head = nn.Linear(4, 1)
    before = head.weight.clone()
    module = Wrapped(head)
    nets.trainer(tmp_path, search(space={"width": Int(2, 9)}), max_epochs=1).fit(module, *nets.loaders())
    assert torch.equal(head.weight, before)
    assert module.net[2] is not head


def test_data_parameters_rebuild_the_datamodule(tmp_path: Path) -> None:
    data, callback = nets.Data(), search(space={"data.batch_size": [4, 8, 12]})
    trainer = nets.trainer(tmp_path, callback)
    trainer.fit(nets.Net(), datamodule=data)
    assert data.hparams["batch_size"] == callback.best_architecture["data.batch_size"]
    assert trainer.train_dataloader.batch_size == data.hparams["batch_size"]


def test_data_parameters_need_a_datamodule(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="needs a datamodule"):
        nets.trainer(tmp_path, search(space={"data.batch_size": [4, 8]})).fit(nets.Net(), *nets.loaders())


class TestLimits:
    def test_parameters_are_counted_before_training(self, tmp_path: Path) -> None:
        trained: list[int] = []

        class Watched(nets.Net):
            def on_fit_start(self) -> None:
                trained.append(self.hparams["width"])

        callback = search(space={"width": Int(1, 64)}, limits={"params": 60}, n_trials=5)
        nets.trainer(tmp_path, callback).fit(Watched(), *nets.loaders())
        assert max(trained) <= 9  # 6 * width + 1 parameters
        assert all(t.user_attrs["params"] <= 60 for t in callback.optuna_study.trials if t.state.name == "COMPLETE")

    def test_flops_of_the_first_batch(self, tmp_path: Path) -> None:
        callback = search(space={"width": Int(1, 64)}, limits={"flops": 16 * 10 * 8}, n_trials=3)
        nets.trainer(tmp_path, callback).fit(nets.Net(), *nets.loaders())
        for trial in callback.optuna_study.trials:
            assert trial.user_attrs["flops"] == 2 * 16 * (4 + 1) * trial.params["width"] <= 1280

    @pytest.mark.parametrize("example", [True, False])
    def test_a_forward_that_looks_at_values(self, example: bool, tmp_path: Path) -> None:
        class Looking(nets.Net):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                if example:
                    self.example_input_array = torch.ones(16, 4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.net(x) if bool((x == x).all()) else x

        callback = search(space={"width": Int(1, 64)}, limits={"flops": 16 * 10 * 8, "params": 60}, n_trials=3)
        nets.trainer(tmp_path, callback).fit(Looking(), *nets.loaders())
        for trial in callback.optuna_study.trials:
            assert trial.user_attrs["flops"] == 2 * 16 * (4 + 1) * trial.params["width"] <= 1280

    def test_parameters_are_counted_where_the_example_does_not_fit(self, tmp_path: Path) -> None:
        class Stale(nets.Net):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                self.example_input_array = torch.ones(16, 3)

        callback = search(space={"width": Int(1, 64)}, limits={"params": 60}, n_trials=4)
        nets.trainer(tmp_path, callback).fit(Stale(), *nets.loaders())
        assert all(t.user_attrs["params"] <= 60 for t in callback.optuna_study.trials if t.state.name == "COMPLETE")

    def test_no_input_says_what_to_set(self, tmp_path: Path) -> None:
        class Odd(nets.Net):
            def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
                return self.net(x)

            def _loss(self, batch: Any) -> torch.Tensor:
                return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        with pytest.raises(SearchError, match="example_input_array"):
            nets.trainer(tmp_path, search(limits={"flops": 10})).fit(Odd(), *nets.loaders())

    def test_callable(self, tmp_path: Path) -> None:
        callback = search(space={"width": Int(1, 64)}, constraints=[lambda a: a["width"] % 2 == 0], n_trials=4)
        nets.trainer(tmp_path, callback).fit(nets.Net(), *nets.loaders())
        assert all(t.params["width"] % 2 == 0 for t in callback.optuna_study.trials if t.state.name == "COMPLETE")

    def test_nothing_allowed(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError):
            nets.trainer(tmp_path, search(space={"width": [1, 2]}, limits={"params": 1})).fit(
                nets.Net(), *nets.loaders()
            )


class TestBudget:
    def test_a_finite_space_ends_the_search(self, tmp_path: Path) -> None:
        for strategy in ("random", "bayesian", "genetic", optuna.samplers.RandomSampler(seed=0)):
            callback = search(space={"act": ["relu", "tanh"]}, n_trials=50, sampler=strategy)
            nets.trainer(tmp_path / str(strategy)[:8], callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
            counted = [t for t in callback.optuna_study.trials if "architecture" in t.user_attrs]
            assert sorted(t.params["act"] for t in counted) == ["relu", "tanh"]

    def test_total_over_resumes(self, tmp_path: Path) -> None:
        for n, expected in ((2, 2), (2, 2), (5, 5)):
            callback = search(n_trials=n)
            nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
            assert len(callback.optuna_study.trials) == expected

    def test_timeout_is_total_too(self, tmp_path: Path) -> None:
        callback = search(n_trials=1000, timeout=0.5)
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
        first = len(callback.optuna_study.trials)
        assert 1 <= first < 1000
        again = search(n_trials=1000, timeout=0.5)
        nets.trainer(tmp_path, again, max_epochs=1).fit(nets.Net(), *nets.loaders())
        assert len(again.optuna_study.trials) == first

    def test_enqueued_first(self, tmp_path: Path) -> None:
        known = {"width": 7, "act": "tanh", "lr": 0.05}
        callback = search(enqueue=[known, {"width": 9}])
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
        assert callback.optuna_study.trials[0].params == known
        assert callback.optuna_study.trials[1].params["width"] == 9
        with pytest.raises(SpaceError, match="Did you mean `width`"):
            nets.trainer(tmp_path, search(enqueue=[{"widht": 7}], n_trials=9)).fit(nets.Net(), *nets.loaders())

    def test_only_the_best_checkpoints_stay(self, tmp_path: Path) -> None:
        callback = search(n_trials=6, study={"keep_top_k": 2})
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
        best = sorted(callback.optuna_study.trials, key=lambda t: t.value)[:2]
        files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.ckpt"))
        assert files == sorted(f"autoarch/Net/trials/{t.number:04d}/best.ckpt" for t in best)


def test_a_study_of_another_space_is_refused(tmp_path: Path) -> None:
    nets.trainer(tmp_path, search(), max_epochs=1).fit(nets.Net(), *nets.loaders())
    other = {**nets.SPACE, "width": Int(2, 32)}
    with pytest.raises(SearchError, match=r"`width`: stored .*'log': True.*given .*'log': False"):
        nets.trainer(tmp_path, search(space=other)).fit(nets.Net(), *nets.loaders())


def test_a_wider_space_keeps_the_trials(tmp_path: Path) -> None:
    nets.trainer(tmp_path, search(), max_epochs=1).fit(nets.Net(), *nets.loaders())
    wider = {**nets.SPACE, "width": Int(2, 64, log=True), "act": ["gelu", "tanh", "relu"], "dropout": [0.1, 0.5]}
    callback = search(space=wider, n_trials=4)
    nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
    assert [t.params["dropout"] for t in callback.optuna_study.trials[:3]] == [0.1] * 3  # the module's own
    assert len(callback.optuna_study.trials) == 4


class TestTrialsTrainAsTheOuterTrainerWould:
    def test_settings_are_inherited_and_overridden(self, tmp_path: Path) -> None:
        seen: list[tuple[Any, ...]] = []

        class Look(nets.Net):
            def on_train_start(self) -> None:
                t = self.trainer
                seen.append(
                    (t.precision, t.accumulate_grad_batches, t.gradient_clip_val, t.limit_train_batches, t.max_epochs)
                )

        options = {"precision": "bf16-mixed", "gradient_clip_val": 0.5, "limit_train_batches": 2}
        callback = search(n_trials=1, trial={"trainer": {"max_epochs": 3, "accumulate_grad_batches": 2}})
        nets.trainer(tmp_path, callback, max_epochs=1, **options).fit(Look(), *nets.loaders())
        assert seen == [("bf16-mixed", 2, 0.5, 2, 3), ("bf16-mixed", 1, 0.5, 2, 1)]

    def test_callbacks_are_copied(self, tmp_path: Path) -> None:
        stopping = EarlyStopping("val_loss", patience=0, min_delta=1e9)
        callback = search(n_trials=2, trial={"callbacks": [stopping], "trainer": {"max_epochs": 9}})
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
        assert [t.user_attrs["epochs"] for t in callback.optuna_study.trials] == [2, 2]
        assert stopping.wait_count == 0

    def test_pruner_is_fed_each_epoch(self, tmp_path: Path) -> None:
        callback = search(
            n_trials=2,
            pruner=optuna.pruners.ThresholdPruner(upper=-1.0),
            trial={"trainer": {"max_epochs": 9}},
            enqueue=[],
        )
        with pytest.raises(SearchError, match="stopped early by the pruner"):
            nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), *nets.loaders())
        assert [(t.state.name, list(t.intermediate_values)) for t in callback.optuna_study.trials] == [
            ("PRUNED", [0])
        ] * 2

    def test_fast_dev_run_writes_nothing(self, tmp_path: Path) -> None:
        callback = search(trial={"trainer": {}})
        nets.trainer(tmp_path, callback, fast_dev_run=True).fit(nets.Net(), *nets.loaders())
        assert callback.best_architecture is not None
        assert list(tmp_path.iterdir()) == []

    def test_overfit_batches(self, tmp_path: Path) -> None:
        callback = search()
        nets.trainer(tmp_path, callback, overfit_batches=1).fit(nets.Net(), *nets.loaders(shuffle=False))
        assert len(callback.optuna_study.trials) == 3

    def test_configure_model(self, tmp_path: Path) -> None:
        class Late(nets.Net):
            def __init__(self, width: int = 4):
                super(nets.Net, self).__init__()
                self.save_hyperparameters()
                self.hparams["lr"] = 0.01
                self.net = None

            def configure_model(self) -> None:
                if self.net is None:
                    w = self.hparams["width"]
                    self.net = nn.Sequential(nn.Linear(4, w), nn.Linear(w, 1))

        for after in ("train", "keep"):
            callback, module = search(space={"width": Int(2, 9)}, after=after, limits={"params": 50}), Late()
            nets.trainer(tmp_path / after, callback).fit(module, *nets.loaders())
            assert module.net[0].out_features == callback.best_architecture["width"]


class TestOrder:
    def test_lightnings_own_callbacks_are_set_up_again(self, tmp_path: Path) -> None:
        class Freeze(BaseFinetuning):
            pass

        module, averaging = nets.Net(), WeightAveraging()
        callback = search()
        trainer = nets.trainer(tmp_path, averaging, callback)
        trainer.fit(module, *nets.loaders())
        assert trainer.callbacks[0] is callback
        width = callback.best_architecture["width"]
        assert averaging._average_model.module.net[0].out_features == width

    def test_a_strangers_setup_before_the_search_is_refused(self, tmp_path: Path) -> None:
        class Holder(L.Callback):
            def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
                self.parameters = list(pl_module.parameters())

        with pytest.raises(MisconfigurationException, match=r"Holder ran before.*first"):
            nets.trainer(tmp_path, Holder(), search()).fit(nets.Net(), *nets.loaders())

    def test_finetuning_after_the_search_keeps_its_freezing(self, tmp_path: Path) -> None:
        class Freeze(BaseFinetuning):
            def freeze_before_training(self, pl_module: Any) -> None:
                self.freeze(pl_module.net[0])

            def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None: ...

        module = nets.Net()
        trainer = nets.trainer(tmp_path, search(), Freeze())
        trainer.fit(module, *nets.loaders())
        assert not module.net[0].weight.requires_grad


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
class TestResumingTheOuterFit:
    def test_checkpoint_brings_the_architecture_without_the_study(self, tmp_path: Path) -> None:
        callback, module = search(), nets.Net()
        keep = ModelCheckpoint(tmp_path / "outer", save_last=True)
        nets.trainer(tmp_path, callback, keep, enable_checkpointing=True).fit(module, *nets.loaders())
        again, fresh = search(study={"directory": tmp_path / "elsewhere"}), nets.Net()
        trainer = nets.trainer(
            tmp_path, again, ModelCheckpoint(tmp_path / "outer"), max_epochs=3, enable_checkpointing=True
        )
        trainer.fit(fresh, *nets.loaders(), ckpt_path=str(tmp_path / "outer" / "last.ckpt"), weights_only=True)
        assert again.best_architecture == callback.best_architecture
        assert again.optuna_study is None
        assert not (tmp_path / "elsewhere").exists()
        assert trainer.current_epoch == 3
        assert fresh.net[0].out_features == callback.best_architecture["width"]

    def test_resume_from(self, tmp_path: Path) -> None:
        callback = search()
        keep = ModelCheckpoint(tmp_path / "outer", save_last=True)
        nets.trainer(tmp_path, callback, keep, enable_checkpointing=True).fit(nets.Net(), *nets.loaders())
        fresh, again = (
            nets.Net(),
            search(study={"resume_from": tmp_path / "outer" / "last.ckpt", "directory": tmp_path / "none"}),
        )
        nets.trainer(tmp_path, again).fit(fresh, *nets.loaders())
        assert again.best_architecture == callback.best_architecture
        plain = nets.trainer(tmp_path)
        plain.fit(nets.Net(), *nets.loaders())
        plain.save_checkpoint(tmp_path / "plain.ckpt")
        wrong = nets.trainer(tmp_path, search(study={"resume_from": tmp_path / "plain.ckpt"}))
        with pytest.raises(SearchError, match="resume_from"):
            wrong.fit(nets.Net(), *nets.loaders())

    def test_a_checkpoint_that_is_not_on_this_disk(self, tmp_path: Path) -> None:
        callback, url = search(), "memory://outer/last.ckpt"
        first = nets.trainer(tmp_path, callback)
        first.fit(nets.Net(), *nets.loaders())
        first.save_checkpoint(url)
        for options, ckpt_path in (({}, url), ({"study": {"resume_from": url}}, None)):
            again = search(**merged({"study": {"directory": tmp_path / "elsewhere"}}, options))
            nets.trainer(tmp_path, again, max_epochs=3).fit(nets.Net(), *nets.loaders(), ckpt_path=ckpt_path)
            assert again.best_architecture == callback.best_architecture
        assert not (tmp_path / "elsewhere").exists()

    def test_a_second_fit_goes_on_with_the_winner(self, tmp_path: Path) -> None:
        callback, module = search(), nets.Net()
        nets.trainer(tmp_path, callback).fit(module, *nets.loaders())
        weights = copy.deepcopy(module.state_dict())
        trainer = nets.trainer(tmp_path, callback, max_epochs=0)
        trainer.fit(module, *nets.loaders())
        assert all(torch.equal(v, weights[k]) for k, v in module.state_dict().items())

    @pytest.mark.slow
    def test_winners_checkpoint_loads_where_the_plugin_is_not(self, tmp_path: Path) -> None:
        callback, module = search(after="keep"), nets.Net()
        keep = ModelCheckpoint(tmp_path / "outer", save_last=True)
        nets.trainer(tmp_path, callback, keep, enable_checkpointing=True).fit(module, *nets.loaders())
        script = (
            "import sys; sys.modules['lightning_autoarch'] = None\n"
            f"sys.path.insert(0, {str(Path(nets.__file__).parent)!r})\n"
            "import nets\n"
            "for path in sys.argv[1:]:\n"
            "    module = nets.Net.load_from_checkpoint(path, weights_only=True)\n"
            "    print(module.hparams['width'])\n"
        )
        paths = [str(tmp_path / "outer" / "last.ckpt"), callback.optuna_study.best_trial.user_attrs["checkpoint"]]
        done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [str(module.hparams["width"])] * 2


@pytest.fixture
def _heeding_ctrl_c() -> Iterator[None]:
    """Also where the tests run in the background of a script: a shell ignores SIGINT there."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def _hearing_lightning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Also where Lightning keeps its messages from the root logger, because that had no handler."""
    rank_zero.log.addHandler(caplog.handler)
    yield
    rank_zero.log.removeHandler(caplog.handler)


@pytest.mark.usefixtures("_heeding_ctrl_c", "_hearing_lightning")
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Interrupted(nets.Net):
        armed = True

        def on_train_epoch_end(self) -> None:
            if self.armed and self.trainer.current_epoch == 1 and self.hparams["act"] == "tanh":
                type(self).armed = False
                signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    module, options = Interrupted(), {"space": {"act": ["relu", "tanh"]}, "n_trials": 2, "trial": {"trainer": {}}}
    before = copy.deepcopy(module.state_dict())
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit):
        nets.trainer(tmp_path, search(**options), max_epochs=3).fit(module, *nets.loaders())
    assert signal.getsignal(signal.SIGINT) is handler
    assert any("start the same script again" in record.message for record in caplog.records)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    callback = search(**options)
    nets.trainer(tmp_path, callback, max_epochs=3).fit(nets.Net(), *nets.loaders())
    assert sorted(t.number for t in callback.optuna_study.trials) == [0, 1]
    undisturbed = search(**options)
    nets.trainer(tmp_path / "b", undisturbed, max_epochs=3).fit(nets.Net(), *nets.loaders())
    assert [t.value for t in callback.optuna_study.trials] == [t.value for t in undisturbed.optuna_study.trials]


def test_set_after_init_is_told(tmp_path: Path) -> None:
    module = nets.Net()
    module.extra = nn.Linear(1, 1)
    with pytest.warns(UserWarning, match="extra of the module were set after"):
        nets.trainer(tmp_path, search()).fit(module, *nets.loaders())


def test_several_devices_are_refused(tmp_path: Path) -> None:
    from lightning_autoarch.callbacks.outer_trainer import check_one_process

    class Two:
        world_size = 2

    with pytest.raises(SearchError, match="one process"):
        check_one_process(Two())  # type: ignore[arg-type]


def test_choices_of_python_types_survive(tmp_path: Path) -> None:
    callback = search(space={"dropout": Categorical([0.0, 0.5]), "width": Int(np.int64(2), np.int64(9))})
    module = nets.Net()
    nets.trainer(tmp_path, callback).fit(module, *nets.loaders())
    assert type(module.hparams["width"]) is int
