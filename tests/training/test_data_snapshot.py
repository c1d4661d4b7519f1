"""What a trial changes in the data of the outer fit is undone: on the same objects, whatever holds them."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder
from search_options import merged
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_autoarch import ArchitectureSearch, Int
from lightning_autoarch.training import data_snapshot as snapshot
from lightning_autoarch.training.data_snapshot import is_installed, state_kept


class Holder:
    """An object of the user's."""

    level: Any = 0
    limits = (1, 2)

    def __init__(self) -> None:
        self.value, self.items, self.lock = 1, [1, {"a": 2}], threading.Lock()
        self.queue, self.names, self.ordered = deque([1, 2]), {"x"}, OrderedDict(a=1, b=2)
        self.tensor, self.array = torch.arange(3.0), np.arange(3)


def _changes(holder: Holder) -> None:
    holder.value, holder.new = 2, 3  # type: ignore[attr-defined]
    holder.items[1]["a"] = 5  # type: ignore[index]
    holder.items.append(7)
    holder.queue.popleft()
    holder.names.add("y")
    holder.ordered.move_to_end("a")
    holder.tensor.add_(1)
    holder.array[0] = 9
    Holder.level, Holder.limits = 4, ()
    Holder.extra = 1  # type: ignore[attr-defined]


def test_objects_containers_tensors_and_classes_return() -> None:
    holder = Holder()
    parts = dict(vars(holder))
    with state_kept({"data": [holder]}):
        _changes(holder)
    assert all(vars(holder)[name] is part for name, part in parts.items())
    assert vars(holder).keys() == parts.keys()
    assert (holder.value, holder.items, holder.queue, holder.names) == (1, [1, {"a": 2}], deque([1, 2]), {"x"})
    assert list(holder.ordered) == ["a", "b"]
    assert holder.tensor.tolist() == [0, 1, 2]
    assert holder.array.tolist() == [0, 1, 2]
    assert (Holder.level, Holder.limits, hasattr(Holder, "extra")) == (0, (1, 2), False)


def test_also_after_an_error() -> None:
    holder = Holder()

    def interrupted() -> None:
        with state_kept({"data": holder}):
            holder.value = 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert holder.value == 1


def test_a_change_of_large_data_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MOST_BYTES", 16)
    dataset = torch.utils.data.TensorDataset(torch.zeros(2, 1), torch.zeros(2, 50))
    with state_kept({"train": dataset}):  # nothing changes: nothing is said
        pass
    with pytest.warns(UserWarning, match=r"`train\.tensors\.1` in place"), state_kept({"train": dataset}):
        dataset.tensors[0].add_(1), dataset.tensors[1].add_(1)
    assert dataset.tensors[0].tolist() == [[0], [0]]


def test_what_is_of_a_library_is_left_alone() -> None:
    event = threading.Event()
    with state_kept({"data": {"event": event}}):
        event.set()
    assert event.is_set()
    assert is_installed(torch.__file__)
    assert is_installed(threading.__file__)
    assert is_installed(snapshot.__file__)
    assert not is_installed(__file__)


class Epochs(Sampler[int]):
    """Walks one step further each time that it is iterated over."""

    start = 0

    def __iter__(self) -> Any:
        self.start += 1
        return iter(range(self.start, 16 + self.start))

    def __len__(self) -> int:
        return 16


class Shrinking(Dataset[Any]):
    """Every read changes the samples."""

    def __init__(self) -> None:
        self.samples, self.reads = nets.samples(), 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        self.reads += 1
        self.samples.tensors[0][i] *= 0.5
        return self.samples[i]


def search(**options: Any) -> ArchitectureSearch:
    settings = {"monitor": "val_loss", "n_trials": 2, "sampler": "random", "trial": {"trainer": {"max_epochs": 2}}}
    return ArchitectureSearch({"width": Int(2, 32)}, **merged(settings, options))


class TestTrialsLeaveNoTrace:
    def test_batch_size_that_a_trial_found(self, tmp_path: Path) -> None:
        data, callback = nets.Data(batch_size=2), search(trial={"callbacks": [BatchSizeFinder(max_trials=1)]})
        trainer = nets.trainer(tmp_path, callback, max_epochs=1)
        trainer.fit(nets.Net(), datamodule=data)
        assert data.hparams["batch_size"] == 2
        assert trainer.global_step == 24

    @pytest.mark.parametrize("folds", [None, 2])
    def test_hyperparameters_that_the_datamodule_changes(self, tmp_path: Path, folds: Any) -> None:
        seen: list[tuple[int, int]] = []

        class Curriculum(nets.Data):
            def __init__(self, level: int = 0):
                super().__init__()
                self.save_hyperparameters()
                self.state = {"level": [level]}

            def train_dataloader(self) -> DataLoader[Any]:
                self.hparams["level"] += 1
                self.state["level"][0] += 1
                seen.append((self.hparams["level"], self.state["level"][0]))
                return super().train_dataloader()

        callback = search(folds=folds)
        trainer = nets.trainer(tmp_path, callback, reload_dataloaders_every_n_epochs=1)
        trainer.fit(nets.Net(), datamodule=Curriculum())
        a_trial = [(1, 1), (2, 2)] if folds is None else [(1, 1)]
        assert seen == [*a_trial * 2, (1, 1), (2, 2)]

    def test_samplers_and_datasets_of_loaders(self, tmp_path: Path) -> None:
        dataset = Shrinking()
        sampler = Epochs()
        loader = DataLoader(dataset, batch_size=16, sampler=sampler)
        seen: list[tuple[float, int, int]] = []

        class Look(nets.Net):
            def on_train_start(self) -> None:
                x = dataset.samples.tensors[0]
                seen.append((x.sum().item(), sampler.start, dataset.reads))

        before = dataset.samples.tensors[0].sum().item()
        nets.trainer(tmp_path, search(), max_epochs=1).fit(Look(), loader, nets.loaders()[1])
        assert seen == [(before, 0, 0)] * 3

    def test_two_trials_of_one_architecture_score_the_same(self, tmp_path: Path) -> None:
        scores = []
        loader = DataLoader(Shrinking(), batch_size=16)
        for name in ("a", "b"):
            callback = search(study={"directory": tmp_path / name}, n_trials=1, after="stop")
            nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), loader, nets.loaders()[1])
            scores.append(callback.best_score)
        assert scores[0] == scores[1]
