"""What is noted of data, settings and callbacks; what may change between two starts, and what must be seen."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import nets
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from sklearn.model_selection import KFold
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset, random_split

from lightning_autoarch import ArchitectureSearch, Int, SearchError
from lightning_autoarch.search.conditions import condition_differences
from lightning_autoarch.training.conditions import conditions_of, describe, sketch
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.folds import Folds
from lightning_autoarch.training.module import ModuleBuilder


class Read(Dataset[Any]):
    """A set that is read sample by sample, as images and labels are."""

    def __init__(self, scale: float = 1.0, root: str = "/data/images", noisy: bool = False, label: str = "cat"):
        self.scale, self.root, self.noisy, self.label = scale, root, noisy, label
        self.generator = random.Random()

    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> Any:
        noise = self.generator.random() if self.noisy else 0.0
        return {"x": torch.full((4,), i * self.scale + noise) + torch.rand(4), "y": self.label}


def conditions(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "module": nets.Net(lr=0.1),
        "data": TrialData(*[None, *nets.loaders()]),
        "trainer": {"max_epochs": 3, "max_time": timedelta(seconds=9), "accelerator": "cpu"},
        "callbacks": [EarlyStopping("val_loss", patience=2)],
        "varied": ["width", "data.batch_size"],
        "others": {"folds": None},
        **changes,
    }
    found = conditions_of(ModuleBuilder.of(values.pop("module")), *values.values())
    json.dumps(found, allow_nan=False)
    return found


def loader(dataset: Any, **options: Any) -> TrialData:
    return TrialData(train=DataLoader(dataset, batch_size=4, **options), val=nets.loaders()[1])


@pytest.mark.parametrize(
    "again",
    [
        {"trainer": {"max_epochs": 3, "max_time": timedelta(seconds=9), "accelerator": "cuda", "devices": [1]}},
        {"module": nets.Net(lr=0.1, width=9)},
        {"callbacks": [EarlyStopping("val_loss", patience=2), RichProgressBar()]},
        {"data": TrialData(None, *nets.loaders(num_workers=0, pin_memory=False))},
    ],
    ids=["device", "what the space varies", "progress bar", "workers"],
)
def test_what_may_change(again: dict[str, Any]) -> None:
    assert condition_differences(conditions(), conditions(**again)) == []


@pytest.mark.parametrize(
    ("again", "words"),
    [
        ({"trainer": {"max_epochs": 6, "max_time": timedelta(seconds=9)}}, ["`trainer.max_epochs`: stored 3, given 6"]),
        (
            {"trainer": {"max_epochs": 3, "max_time": None}},
            ["`trainer.max_time`: stored 9.0, given None"],
        ),
        ({"module": nets.Net(lr=0.2)}, ["`module.hyperparameters.lr`: stored 0.1, given 0.2"]),
        (
            {"callbacks": [EarlyStopping("val_loss", patience=4)]},
            ["`callbacks.0.patience`: stored 2, given 4"],
        ),
        ({"others": {"folds": Folds(5)}}, []),
    ],
)
def test_what_must_not_change(again: dict[str, Any], words: list[str]) -> None:
    assert condition_differences(conditions(), conditions(**again)) == words


def test_folds() -> None:
    for one, other, words in (
        (Folds(5), Folds(4), ["`folds.splitter`: stored 5, given 4"]),
        (Folds(KFold(3)), Folds(KFold(4)), ["`folds.splitter.n_splits`: stored 3, given 4"]),
        (Folds(KFold(3), labels=[0, 1]), Folds(KFold(3), labels=[0, 2]), ["`folds.labels.1`: stored 1, given 2"]),
    ):
        found = [conditions(others={"folds": folds}) for folds in (one, other)]
        assert condition_differences(*found) == words


def _shifted() -> TensorDataset:
    x, y = nets.samples().tensors
    return TensorDataset(x, y + 100)


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (nets.samples, _shifted, ["dataset.tensors.1"]),
        (nets.samples, lambda: nets.samples(47), ["dataset.length", "dataset.tensors.0", "dataset.tensors.1"]),
        (Read, lambda: Read(2.0), ["dataset.arguments.scale", "dataset.samples.1.x", "dataset.samples.2.x"]),
        (Read, lambda: Read(label="dog"), ["dataset.arguments.label", *[f"dataset.samples.{i}.y" for i in range(3)]]),
        (Read, lambda: Read(root="/elsewhere/images"), []),
        (lambda: Read(noisy=True), lambda: Read(noisy=True), []),
        (lambda: random_split(Read(), [6, 3])[0], lambda: random_split(Read(), [6, 3])[0], []),
        (
            lambda: random_split(Read(), [6, 3])[0],
            lambda: random_split(Read(2.0), [6, 3])[0],
            ["dataset.of.arguments.scale", "dataset.of.samples.1.x", "dataset.of.samples.2.x"],
        ),
        (
            lambda: ConcatDataset([Read(), nets.samples()]),
            lambda: ConcatDataset([Read(), _shifted()]),
            ["dataset.of.1.tensors.1"],
        ),
    ],
)
def test_data(one: Callable[[], Any], other: Callable[[], Any], names: list[str]) -> None:
    found = condition_differences(*[conditions(data=loader(make())) for make in (one, other)])
    assert [line.split("`")[1].removeprefix("data.train.") for line in found] == names


def test_reading_samples_draws_nothing() -> None:
    builder, data, state = ModuleBuilder.of(nets.Net()), loader(Read()), torch.get_rng_state()
    conditions_of(builder, data, {}, [], [], {})
    assert torch.equal(torch.get_rng_state(), state)


class Unsaved(L.LightningDataModule):
    """Keeps its argument under its name, and never saves it."""

    def __init__(self, fraction: float = 0.5):
        super().__init__()
        self.fraction = fraction

    def setup(self, stage: str) -> None:
        self.train = nets.samples()


def test_datamodules() -> None:
    def of(data: L.LightningDataModule) -> dict[str, Any]:
        data.setup("fit")
        return conditions(data=TrialData(data))

    assert condition_differences(of(nets.Data(8)), of(nets.Data(16))) == []  # `data.batch_size` is varied
    fraction = "`data.arguments.fraction`: stored 0.5, given 0.9"
    assert condition_differences(of(Unsaved()), of(Unsaved(0.9))) == [fraction]
    other = Unsaved()
    other.setup("fit")
    other.train = _shifted()
    found = conditions(data=TrialData(other))
    assert condition_differences(of(Unsaved()), found) == [
        "`data.train.tensors.1`: other values, of the same shape (48, 1)"
    ]


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (np.float64(0.5), 0.5),
        (Path("/a/b/c.txt"), "c.txt"),
        ("/a/b/", "b"),
        ("a/b", "a/b"),
        (torch.nn.ReLU, "ReLU"),
        (len, "len"),
        ({3, 1}, ["1", "3"]),
        ({"a": (1, None), "num_workers": 3}, {"a": [1, None]}),
        (list(range(65)), {"length": 65, "first": describe(list(range(65)))["first"]}),
    ],
)
def test_descriptions(value: Any, described: Any) -> None:
    assert describe(value) == described


def test_sketches() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert sketch(x)[:4] == ["array", "float32", [2, 3], pytest.approx(55**0.5)]
    assert sketch(x)[3:] == sketch(x.numpy())[3:]
    assert sketch(x)[4:] != sketch(x.flip(0))[4:]
    assert sketch(torch.tensor([float("nan"), float("inf")]))[3] == pytest.approx(1e30)
    for other in (torch.zeros(0), np.array(["a"]), torch.zeros(2, device="meta"), torch.eye(2).to_sparse()):
        assert sketch(other)[3:] == [0.0, 0.0, 0.0]


def test_a_search_with_other_data_and_settings_is_refused(tmp_path: Path) -> None:
    def run(dataset: Any, epochs: int, **options: Any) -> ArchitectureSearch:
        callback = ArchitectureSearch(
            {"width": Int(2, 32)}, monitor="val_loss", n_trials=1, strategy="random",
            trial_trainer={"max_epochs": epochs}, **options,
        )  # fmt: skip
        train = DataLoader(dataset, batch_size=16, shuffle=True)
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), train, nets.loaders()[1])
        return callback

    first = run(nets.samples(), 1)
    again = run(nets.samples(), 1, seed=1)
    assert (again.best_score, len(again.study.trials)) == (first.best_score, 1)
    different = r"`data\.train\.dataset\.tensors\.1`: other values.*; `trainer\.max_epochs`: stored 1, given 2"
    with pytest.raises(SearchError, match=different):
        run(_shifted(), 2)
    assert len(run(_shifted(), 2, study_name="other").study.trials) == 1
