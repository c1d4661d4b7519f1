"""What the package relies on in Lightning beyond its public interface, at whatever version is installed."""

from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging, Timer, WeightAveraging
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel, RandomDataset
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.states import TrainerStatus

from lightning_autoarch import UnsupportedVersionError
from lightning_autoarch.seam import lightning as seam

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Asking(L.Callback):
    """Asks a question in a hook and keeps the answers."""

    def __init__(self, hook: str, ask: Any) -> None:
        self.answers: list[Any] = []
        setattr(self, hook, lambda trainer, module, *rest, **named: self.answers.append(ask(trainer, module)))


def trainer(tmp_path: Path, *callbacks: L.Callback, **given: Any) -> L.Trainer:
    short = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
    return L.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **{**QUIET, **short, **given})


def loader(batches: int = 2) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(RandomDataset(32, batches))


# A Trainer and its callbacks


def test_attributes_that_a_trainer_does_not_declare(tmp_path: Path) -> None:
    stop, data = EarlyStopping("x"), BoringDataModule()
    made = trainer(tmp_path, stop)
    assert stop in seam.callbacks_of(made)
    assert seam.callbacks_of(made) is seam.callbacks_of(made), "others insert callbacks into it"
    assert seam.datamodule_of(made) is None
    assert isinstance(seam.profiler_of(made), PassThroughProfiler)
    assert seam.fast_dev_run(made) == 0
    assert seam.fast_dev_run(trainer(tmp_path, fast_dev_run=3)) == 3
    assert seam.fast_dev_run(trainer(tmp_path, fast_dev_run=True)) == 1
    asking = Asking("setup", lambda trainer, module: seam.datamodule_of(trainer))
    trainer(tmp_path, asking).fit(BoringModel(), datamodule=data)
    assert asking.answers == [data]


class Keyed(L.Callback):
    def __init__(self) -> None:
        self.seen: list[list[L.Callback] | None] = []

    @property
    def state_key(self) -> str:
        self.seen.append(self.indirectly())
        return f"Keyed{id(self)}"

    def indirectly(self) -> list[L.Callback] | None:
        return seam.callbacks_being_compared()

    def state_dict(self) -> dict[str, Any]:
        return {"a": 1}


class KeyedByItsBase(Keyed):
    @property
    def state_key(self) -> str:
        return f"{super().state_key}, derived"


@pytest.mark.parametrize("kind", [Keyed, KeyedByItsBase])
def test_callbacks_are_seen_when_their_keys_are_compared(kind: type[Keyed], tmp_path: Path) -> None:
    one, other = kind(), EarlyStopping("x")
    trainer(tmp_path, one, other)
    compared = [found for found in one.seen if found is not None]
    assert compared, "Lightning no longer asks for `state_key` in the function that compares them"
    assert all(one in found and other in found for found in compared)
    one.seen.clear()
    assert one.state_key
    assert one.seen == [None]


def _validate_callbacks_list(callback: L.Callback) -> str:  # of Lightning's name, with other variables
    return callback.state_key


def test_a_renamed_variable_of_that_function_is_an_error() -> None:
    with pytest.raises(UnsupportedVersionError, match="a local variable `callbacks` in `_validate_callbacks_list`"):
        _validate_callbacks_list(Keyed())


def test_callbacks_log_as_the_module_that_they_are_attached_to(tmp_path: Path) -> None:
    callback, module = Timer(), BoringModel()
    made = trainer(tmp_path, callback)
    seam.attach_logging(made, module)
    assert (callback.log, callback.log_dict) == (module.log, module.log_dict)
    set_by_lightning = Asking("setup", lambda trainer, module: set_by_lightning.log == module.log)
    trainer(tmp_path, set_by_lightning).fit(BoringModel())
    assert set_by_lightning.answers == [True]


@pytest.mark.parametrize("callback", [WeightAveraging(), StochasticWeightAveraging(1e-2, swa_epoch_start=1)])
def test_running_averages(callback: L.Callback, tmp_path: Path) -> None:
    module = BoringModel()
    asking = Asking("on_train_start", lambda trainer, module: seam.average_of(callback))
    trainer(tmp_path, callback, asking, max_epochs=2).fit(module)
    (average,) = asking.answers
    assert type(average) is BoringModel
    assert average is not module
    assert seam.average_of(Timer()) is None


# A Trainer's arguments


@pytest.mark.parametrize("given", [True, False])
def test_anomaly_detection(given: bool, tmp_path: Path) -> None:
    assert seam.detects_anomalies(trainer(tmp_path, detect_anomaly=given)) is given


def test_the_shortest_time_counts(tmp_path: Path) -> None:
    assert seam.max_time(trainer(tmp_path)) is None
    assert seam.max_time(trainer(tmp_path, Timer())) is None
    assert seam.max_time(trainer(tmp_path, Timer(timedelta(minutes=2)), max_time="00:00:05:00")) == timedelta(minutes=2)


@pytest.mark.parametrize("given", [1.0, 0.5, 2, timedelta(minutes=1)])
def test_validation_interval(given: Any, tmp_path: Path) -> None:
    made = trainer(tmp_path, val_check_interval=given, limit_train_batches=4)
    assert seam.val_check_interval(made) == given


@pytest.mark.parametrize(("strategy", "method"), [("auto", None), ("ddp", None), ("ddp_spawn", "spawn")])
def test_start_method(strategy: str, method: str | None, tmp_path: Path) -> None:
    assert seam.spawning_start_method(trainer(tmp_path, strategy=strategy, devices=1)) == method


# A running fit


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    made = trainer(tmp_path)
    made.fit(BoringModel())
    made.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize("hook", ["setup", "on_fit_start"])
@pytest.mark.parametrize("weights_only", [None, True, False])
def test_the_checkpoint_that_a_fit_resumes_from(hook: str, weights_only: bool | None, checkpoint: Path) -> None:
    asking = Asking(hook, lambda trainer, module: seam.checkpoint_path(trainer))
    trainer(checkpoint.parent, asking, max_epochs=2).fit(BoringModel(), ckpt_path=checkpoint, weights_only=weights_only)
    assert asking.answers == [(str(checkpoint), weights_only is False)]


def test_a_fit_that_resumes_from_nothing(tmp_path: Path) -> None:
    asking = Asking("setup", lambda trainer, module: seam.checkpoint_path(trainer))
    made = trainer(tmp_path, asking)
    assert seam.checkpoint_path(made) == (None, False)
    made.fit(BoringModel())
    assert asking.answers == [(None, False)]
    assert seam.checkpoint_path(made) == (None, False)


def test_the_fit_of_another_trainer_is_not_meant(checkpoint: Path) -> None:
    other = trainer(checkpoint.parent)
    asking = Asking("setup", lambda trainer, module: seam.checkpoint_path(other))
    trainer(checkpoint.parent, asking, max_epochs=2).fit(BoringModel(), ckpt_path=checkpoint)
    assert asking.answers == [(None, False)]


@pytest.mark.parametrize("renamed", ["_RUN", "ckpt_path"])
def test_a_fit_whose_checkpoint_cannot_be_seen_is_an_error(
    renamed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had Lightning renamed the function, or its local variable, resuming must not look like beginning anew."""
    made = trainer(tmp_path, Asking("setup", lambda trainer, module: seam.checkpoint_path(trainer)))
    if renamed == "_RUN":
        monkeypatch.setattr(seam, "_RUN", "_run_it")
        with pytest.raises(UnsupportedVersionError, match=r"in `Trainer._run_it`.*Install a version"):
            made.fit(BoringModel())
    else:
        made.state.status = TrainerStatus.RUNNING  # as `fit` sets it

        def _run(self: L.Trainer, path: str) -> Any:
            return seam.checkpoint_path(self)

        with pytest.raises(UnsupportedVersionError, match="`ckpt_path` and `weights_only`"):
            _run(made, "a.ckpt")


class LateModel(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def configure_model(self) -> None:
        self.calls.append(self.trainer.precision)


def test_configure_model_is_run(tmp_path: Path) -> None:
    module = LateModel()
    asking = Asking("setup", lambda trainer, module: (seam.run_configure_model(trainer), list(module.calls))[1])
    trainer(tmp_path, asking).fit(module)
    assert asking.answers == [["32-true"]]


def test_steps_that_log(tmp_path: Path) -> None:
    asking = Asking("on_train_batch_end", lambda trainer, module: seam.logs_this_step(trainer))
    trainer(tmp_path, asking, limit_train_batches=6, log_every_n_steps=3).fit(BoringModel())
    assert asking.answers == [False, False, True, False, False, True]


def test_a_fit_ends_without_training(tmp_path: Path) -> None:
    def end(trainer: L.Trainer, module: L.LightningModule) -> None:
        raise seam.end_of_tuning()

    made = trainer(tmp_path, Asking("on_fit_start", end))
    made.fit(BoringModel())
    assert made.global_step == 0


@pytest.mark.parametrize("kind", ["loaders", "datamodule"])
def test_a_module_is_attached_without_training(kind: str, tmp_path: Path) -> None:
    made, module, data = trainer(tmp_path), BoringModel(), BoringDataModule()
    given = {"datamodule": data} if kind == "datamodule" else {"train_dataloaders": loader()}
    seam.attach(made, module, given)
    assert module.trainer is made
    assert made.lightning_module is module
    assert (made.training, made.state.fn.value) == (True, "fit")
    assert seam.datamodule_of(made) is (data if kind == "datamodule" else None)
    module.trainer = None
    assert seam.trainer_of(module) is None


# The loaders of a fit


def test_loaders_as_they_were_given(tmp_path: Path) -> None:
    train, val, data, module = loader(), [loader()], BoringDataModule(), BoringModel()
    asking = Asking("setup", lambda trainer, module: seam.given_loaders(trainer))
    trainer(tmp_path, asking).fit(module, train, val)
    trainer(tmp_path, asking).fit(module, datamodule=data)
    trainer(tmp_path, asking).fit(module)
    (first, second), *rest = asking.answers
    assert first is train
    assert second is val
    assert rest == [(data, data), (module, module)]


class Told:
    def __init__(self) -> None:
        self.loaders: list[Any] = []

    def attach(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        seam.once_loaded(trainer, "train", self.loaders.append)
        seam.once_loaded(trainer, "val", self.loaders.append)


@pytest.mark.parametrize("every", [0, 1])
def test_loaders_are_shown_once_before_they_are_iterated_over(every: int, tmp_path: Path) -> None:
    told, train, val = Told(), loader(), loader()
    asking = Asking("setup", told.attach)
    trainer(tmp_path, asking, max_epochs=3, reload_dataloaders_every_n_epochs=every).fit(BoringModel(), train, val)
    assert sorted(map(id, told.loaders)) == sorted([id(train), id(val)])


class Counting(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def train_dataloader(self) -> Any:
        self.made += 1
        return loader()


@pytest.mark.parametrize("forget", [True, False])
def test_loaders_that_were_made_too_early_are_made_again(forget: bool, tmp_path: Path) -> None:
    def early(trainer: L.Trainer, module: L.LightningModule) -> None:
        assert trainer.estimated_stepping_batches == 2
        if forget:
            seam.forget_train_loaders(trainer)

    module = Counting()
    trainer(tmp_path, Asking("on_fit_start", early)).fit(module)
    assert module.made == 1 + forget


@pytest.mark.parametrize("after", [True, False])
def test_a_fit_in_steps_that_resumes_after_an_epoch_does_not_enter_it_again(after: bool, tmp_path: Path) -> None:
    first = trainer(tmp_path, max_epochs=-1, max_steps=2)
    first.fit(BoringModel())
    first.save_checkpoint(tmp_path / "b.ckpt")
    resume = Asking("on_fit_start", lambda trainer, module: after and seam.resume_after_last_epoch(trainer))
    epochs = Asking("on_train_epoch_start", lambda trainer, module: trainer.current_epoch)
    second = trainer(tmp_path, resume, epochs, max_epochs=-1, max_steps=4)
    second.fit(BoringModel(), ckpt_path=tmp_path / "b.ckpt")
    assert second.global_step == 4
    assert (epochs.answers == [1]) == after, "Lightning resumes in another way: is this still needed?"


# Modules


def test_the_trainer_of_a_module(tmp_path: Path) -> None:
    module = BoringModel()
    assert seam.trainer_of(module) is None
    asking = Asking("setup", lambda trainer, module: seam.trainer_of(module) is trainer)
    trainer(tmp_path, asking).fit(module)
    assert asking.answers == [True]


def test_the_device_that_a_module_says(tmp_path: Path) -> None:
    outer = BoringModel()
    outer.inner = BoringModel()
    seam.move_device_attribute(outer, torch.device("meta"))
    assert (outer.device, outer.inner.device) == (torch.device("meta"),) * 2
    assert outer.layer.weight.device == torch.device("cpu")


class Unwrapped(L.Callback):
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.found = seam.is_compiled(pl_module), type(pl_module)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_compiled_module_is_unwrapped_by_fit_and_known(compiled: bool, tmp_path: Path) -> None:
    module, callback = BoringModel(), Unwrapped()
    given = torch.compile(module, backend="eager") if compiled else module
    trainer(tmp_path, callback, limit_train_batches=0, limit_val_batches=0).fit(given)
    assert callback.found == (compiled, BoringModel)


class Saving(L.LightningModule):
    def __init__(self, width: int = 1, **kwargs: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


class SavingWhole(L.LightningModule):
    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters(config)


def test_the_argument_that_was_saved() -> None:
    assert seam.hyperparameters_name(Saving()) == "kwargs"
    assert seam.hyperparameters_name(SavingWhole({"width": 2})) == "config"
    assert seam.hyperparameters_name(BoringModel()) is None


def test_hyperparameters_are_saved_as_given() -> None:
    with seam.saved_as({"width": {"from": "a config"}}, "a.function"):
        module = Saving(width=3)
    assert dict(module.hparams) == {"width": {"from": "a config"}, seam.INSTANTIATOR: "a.function"}
    assert dict(Saving(width=3).hparams) == {"width": 3}


# Files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    data, code = tmp_path / "data.ckpt", tmp_path / "code.ckpt"
    torch.save({"a": torch.ones(2)}, data)
    torch.save({"a": Timer()}, code)
    return data, code


def test_files_of_data_and_of_more(files: tuple[Path, Path]) -> None:
    data, code = files
    for place in (data, str(data), f"file://{data}"):
        assert torch.equal(seam.load(place, weights_only=True)["a"], torch.ones(2))
    with pytest.raises(pickle.UnpicklingError):
        seam.load(code, weights_only=True)
    assert isinstance(seam.load(code, weights_only=False)["a"], Timer)


def test_an_attribute_that_nobody_reads_any_more_is_an_error() -> None:
    with pytest.raises(UnsupportedVersionError, match="an attribute `_combined_loader` of object"):
        seam._replace(object(), "_combined_loader", None)
