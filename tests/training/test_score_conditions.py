"""What is noted of data, settings and callbacks; what may change between two starts, and what must be seen."""

from __future__ import annotations

import json
import random
import tempfile
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lightning as L
import nets
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from sklearn.model_selection import KFold
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset, WeightedRandomSampler, random_split

from lightning_autoarch import ArchitectureSearch, Int, SearchError
from lightning_autoarch.search.conditions import condition_differences
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.description import describe, flat, sketch
from lightning_autoarch.training.folds import Folds
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.score_conditions import conditions_of


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


class Crops(Dataset[Any]):
    """Pictures of a random size, from a generator of its own that nobody seeds."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng()

    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> Any:
        return torch.ones(int(self.generator.integers(5, 5000)))


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
        ({"others": {"folds": Folds(5)}}, ["`folds`: stored None, given Folds"]),
    ],
)
def test_what_must_not_change(again: dict[str, Any], words: list[str]) -> None:
    assert condition_differences(conditions(), conditions(**again)) == words


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a: int):
        self.a = a


def texts(names: Iterable[int]) -> list[str]:
    return [f"{i}.png" for i in names]


def at(seconds: float) -> datetime:
    """A moment after now, in a second start of a script."""
    return datetime.now() + timedelta(seconds=seconds)


AGAIN: dict[str, tuple[Any, Any]] = {
    "time of the start": (f"run_{at(0):%Y-%m-%d_%H-%M-%S}", f"run_{at(99):%Y-%m-%d_%H-%M-%S}"),
    "time in ISO form": (at(0).isoformat(), at(99).isoformat()),
    "time of TensorBoard": (f"{at(0):%b%d_%H-%M-%S}_host", f"{at(99):%b%d_%H-%M-%S}_host"),
    "datetime": (at(0), at(99)),
    "seconds since 1970": (at(0).timestamp(), at(99).timestamp()),
    "UUID": (str(uuid.uuid4()), str(uuid.uuid4())),
    "UUID without dashes": (uuid.uuid4().hex, uuid.uuid4().hex),
    "address": ("<function f at 0x7f1234567890>", "<function f at 0x7f0987654321>"),
    "lambda": (lambda x: x, lambda x: x),
    "temporary directory": (f"{tempfile.gettempdir()}/tmpabc", f"{tempfile.gettempdir()}/tmpxyz"),
    "relative directory": ("./data/", "/home/me/data"),
    "last digits": (0.1 + 0.2, 0.3),
    "not a number": (float("nan"), float("nan")),
    "set": ({"a", "b"}, {"b", "a"}),
    "files in another order": (texts(range(99)), texts(range(98, -1, -1))),
    "fresh layer": (torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)),
    "names of the run": ({"run_name": "a", "log_dir": "x"}, {"run_name": "b", "log_dir": "y"}),
    "batches with noise": ([torch.ones(3)] * 99, [torch.ones(3) + 1e-7] * 99),
}


@pytest.mark.parametrize("kind", AGAIN)
def test_what_may_be_another_at_each_start(kind: str) -> None:
    found = [dict(flat("value", describe(value))) for value in AGAIN[kind]]
    assert condition_differences(*found) == []


OTHER: dict[str, tuple[Any, Any, str]] = {
    "longer list": ([64], [64, 64], "`v.length`: stored 1, given 2"),
    "list instead of nothing": ([], [64], "`v.length`: stored 0, given 1"),
    "object": (None, torch.nn.L1Loss(), "`v`: stored None, given L1Loss"),
    "no object": (torch.nn.L1Loss(), None, "`v`: stored L1Loss, given None"),
    "dict": (None, {"a": 1}, "`v`: stored None, given a dict"),
    "list": (3, [3, 3], "`v`: stored 3, given a list of 2"),
    "Namespace": (Namespace(a=1), Namespace(a=2), "`v.a`: stored 1, given 2"),
    "weights of a loss": (
        torch.nn.CrossEntropyLoss(torch.ones(2)),
        torch.nn.CrossEntropyLoss(torch.zeros(2)),
        "`v.weight`: other values, of the same shape (2,)",
    ),
    "range of dates": ("2019-01-01", "2019-06-01", "`v`: stored '2019-01-01', given '2019-06-01'"),
    "file": ("/data/a.csv", "/data/b.csv", "`v`: stored 'a.csv', given 'b.csv'"),
    "sampler": (
        WeightedRandomSampler(torch.ones(3), 3),  # type: ignore[arg-type]
        WeightedRandomSampler(torch.arange(3.0), 3),  # type: ignore[arg-type]
        "`v.sampler.weights`: other values, of the same shape (3,)",
    ),
    "batches": ([torch.ones(3)] * 99, [torch.zeros(3)] * 99, "`v.some.0`: other values, of the same shape (3,)"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_what_is_another_condition(kind: str) -> None:
    *values, words = OTHER[kind]
    loaded = [DataLoader(nets.samples(), sampler=v) if isinstance(v, WeightedRandomSampler) else v for v in values]
    found = [dict(flat("v", describe(value))) for value in loaded]
    assert condition_differences(*found)[0] == words


def test_configs_are_described_as_they_are_written() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"a": "???", "b": "${nowhere}", "c": [1, {"d": 2}]})
    assert describe(config) == {"a": "???", "b": "${nowhere}", "c": [1, {"d": 2}]}


def test_an_object_that_holds_itself() -> None:
    value: dict[str, Any] = {"a": 1}
    value["self"] = [value, value]
    assert describe(value) == {"a": 1, "self": ["dict", "dict"]}


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
        (Crops, Crops, []),
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


def test_a_split_by_drawn_indices() -> None:
    """As by `random_split`: the same set is split anew at each start."""

    def of(data: L.LightningDataModule) -> dict[str, Any]:
        data.setup("fit")
        data.chosen = torch.randperm(48)[:40]  # type: ignore[attr-defined]
        return conditions(data=TrialData(data))

    assert condition_differences(of(Unsaved()), of(Unsaved())) == []


SCALE = 1.0


def _made_elsewhere() -> DataLoader[Any]:
    return DataLoader(TensorDataset(nets.samples().tensors[0] * SCALE), batch_size=4)


class Lazy(L.LightningDataModule):
    """Holds nothing: its loaders are made of what stands elsewhere in the script."""

    def train_dataloader(self) -> Any:
        return _made_elsewhere()


def test_what_loaders_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    before = conditions(data=TrialData(Lazy()))
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert condition_differences(before, conditions(data=TrialData(Lazy()))) == [
        "`data.globals.SCALE`: stored 1.0, given 2.0"
    ]


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
        (list(range(65)), sketch(np.arange(65.0))),
        ([torch.nn.ReLU] * 65, {"length": 65, "some": ["ReLU"] * 3}),
        (float("nan"), "nan"),
        (torch.float16, "torch.float16"),
        (Namespace(a=1, device="cuda"), {"a": 1}),
        (Slotted(3), {"class": "Slotted", "a": 3}),
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
            {"width": Int(2, 32)}, monitor="val_loss", n_trials=1, sampler="random",
            trial={"trainer": {"max_epochs": epochs}}, **options,
        )  # fmt: skip
        train = DataLoader(dataset, batch_size=16, shuffle=True)
        nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(), train, nets.loaders()[1])
        return callback

    first = run(nets.samples(), 1)
    again = run(nets.samples(), 1, seed=1)
    assert (again.best_score, len(again.optuna_study.trials)) == (first.best_score, 1)
    different = r"`data\.train\.dataset\.tensors\.1`: other values.*; `trainer\.max_epochs`: stored 1, given 2"
    with pytest.raises(SearchError, match=different):
        run(_shifted(), 2)
    assert len(run(_shifted(), 2, study={"name": "other"}).optuna_study.trials) == 1
