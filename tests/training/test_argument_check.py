"""What is built is what was asked for; and what a rebuild loses is told before a search."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from torch import nn

from lightning_autoarch import ArchitectureSearch, Int, SearchError
from lightning_autoarch.training.cross_validation import cross_validate
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.module import ModuleBuilder

DRAWS: list[dict[str, Any]] = [{"width": 152, "lr": 0.5}, {"width": 100, "lr": 0.2}]


class Saving(L.LightningModule):
    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(3, width)


class Deaf(Saving):
    """Takes every keyword and passes none on, but says what it has made."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.hparams["width"] = 8


class Rounding(Saving):
    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__(width)
        self.hparams["width"] = -(-width // 8) * 8


class Clipping(Saving):
    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.hparams["width"] = min(width, 128)


class Objects(Saving):
    """Saves what it makes of a name."""

    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.hparams["width"] = torch.Size([width])


class Silent(L.LightningModule):
    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.net = nn.Linear(3, width)


class Impossible(Saving):
    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        assert width in (8, 100)
        super().__init__(width, lr)


class OfParts(L.LightningModule):
    """Takes a part, and saves the hyperparameters of that part."""

    def __init__(self, body: Saving, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["body"])
        self.hparams["body"] = dict(body.hparams)
        self.net, self.width = body, body.net.out_features


def told(check: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    return [str(each.message) for each in caught]


class TestTaken:
    def check(self, module: L.LightningModule, draws: list[dict[str, Any]] | None = None) -> list[str]:
        return told(lambda: ModuleBuilder.of(module).check_taken(module, draws or DRAWS))

    @pytest.mark.parametrize("kind", [Saving, Objects, Impossible])
    def test_without_a_word(self, kind: type[L.LightningModule]) -> None:
        assert self.check(kind()) == []

    def test_a_value_that_is_ignored_is_an_error(self) -> None:
        with pytest.raises(SearchError, match=r"asked width=152, Deaf saved width=8, whatever the value"):
            self.check(Deaf())

    def test_what_cannot_be_made_again_is_an_error(self) -> None:
        with pytest.raises(SearchError, match=r"OfParts cannot be made again .*no attribute 'hparams'.*factory=lambda"):
            self.check(OfParts(Saving()), [{"lr": 0.5}])
        with pytest.raises(SearchError, match="cannot be made again"):
            self.check(OfParts(Saving()), [{"body.width": 4}])
        assert self.check(Impossible(), [{"width": 152}]) == []  # the module itself could be made again

    def test_a_derived_value_is_told(self) -> None:
        [said] = self.check(Rounding(), [{"width": 99}])
        assert "`width` of the space: asked 99, Rounding saved 104" in said
        assert self.check(Rounding(), [{"width": 96}]) == []

    def test_clipping_to_what_the_module_has_is_no_error_where_other_values_are_taken(self) -> None:
        assert self.check(Clipping(width=128), DRAWS) == []
        with pytest.raises(SearchError, match="asked width=152"):
            self.check(Clipping(width=128), DRAWS[:1])

    def test_a_value_that_is_not_saved_is_told(self) -> None:
        [said] = self.check(Silent())
        assert "`width` of the space is not among the hyperparameters that Silent saves" in said

    def test_one_build_is_enough(self) -> None:
        built: list[dict[str, Any]] = []
        builder = ModuleBuilder.of(Saving())
        from lightning_autoarch.training.argument_check import check_taken

        def build(architecture: dict[str, Any]) -> Any:
            built.append(architecture)
            return builder.build(architecture)

        check_taken(builder.constructor, build, Saving(), [{"width": 8, "lr": 0.5}, *DRAWS])
        assert built == [{"width": 8, "lr": 0.5}, DRAWS[0]]

    def test_of_a_datamodule(self) -> None:
        class Stubborn(L.LightningDataModule):
            def __init__(self, batch_size: int = 16) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.hparams["batch_size"] = 16

        with pytest.raises(SearchError, match=r"asked data.batch_size=4, Stubborn saved batch_size=16"):
            TrialData(Stubborn()).check_taken([{"batch_size": 4}, {"batch_size": 8}])


class Parts(L.LightningModule):
    """With arguments that it does not save."""

    def __init__(self, width: int = 4, dropout: float = 0.0, loss: nn.Module | None = None, scale: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["loss", "dropout", "scale"])
        self.loss, self.scale = loss or nn.MSELoss(), scale
        self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(dropout), nn.Linear(width, 4))
        self.other = nn.Linear(width, 4)
        self.token = object()


def double(module: Parts) -> None:
    module.double()


def evaluate(module: Parts) -> None:
    module.net[1].eval()


def hook(module: Parts) -> None:
    module.net.register_forward_hook(lambda *args: None)


def freeze(module: Parts) -> None:
    module.net[0].requires_grad_(False)


def tie(module: Parts) -> None:
    module.other.weight = module.net[3].weight


def replace(module: Parts) -> None:
    module.net[2] = nn.AlphaDropout(0.0)


def compile_part(module: Parts) -> None:
    module.net[0].compile(backend="eager")


def buffer(module: Parts) -> None:
    module.net[1].running_mean.fill_(3.0)


def attribute(module: Parts) -> None:
    module.scale = 3


def inner_attribute(module: Parts) -> None:
    module.net[1].momentum = 0.5


class TestLosses:
    def check(self, module: L.LightningModule) -> list[str]:
        return told(lambda: ModuleBuilder.of(module).warn_of_lost(module, {}))

    def test_nothing(self) -> None:
        assert self.check(Parts(width=7)) == self.check(nets.Net()) == []

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (freeze, "requires_grad of net.0.weight, net.0.bias of the module were set after `__init__`"),
            (double, "dtype of net.0.weight, net.0.bias, net.1.weight, 7 others of the module"),
            (evaluate, "train/eval mode of net.1 of the module"),
            (hook, "hooks of net of the module"),
            (tie, "other.weight of the module"),
            (replace, "net.2 (AlphaDropout(p=0.0, inplace=False), rebuilt as Dropout(p=0.0, inplace=False)) of"),
            (compile_part, "torch.compile of net.0 of the module"),
            (buffer, "net.1.running_mean of the module were changed after `__init__`"),
            (attribute, "scale (3, rebuilt as None) of the module"),
            (inner_attribute, "net.1 (BatchNorm1d(4, eps=1e-05, momentum=0.5, "),
        ],
    )
    def test_what_was_done_after_init(self, change: Callable[[Parts], None], said: str) -> None:
        module = Parts()
        change(module)
        [line] = self.check(module)
        assert said in line

    def test_arguments_that_are_not_saved(self) -> None:
        [line] = self.check(Parts(dropout=0.5, loss=nn.L1Loss()))
        assert "net.2 (Dropout(p=0.5, inplace=False), rebuilt as Dropout(p=0.0, inplace=False))" in line
        assert "loss (L1Loss(), rebuilt as MSELoss())" in line
        assert "an argument that is not saved (`dropout`, `loss`, `scale`)" in line

    def test_what_differs_between_any_two_is_not_told(self) -> None:
        class Random(Parts):
            def __init__(self, width: int = 4) -> None:
                super().__init__(width)
                self.identifier = float(torch.rand(1))

        assert self.check(Random()) == []

    def test_before_the_search_and_before_cross_validation(self, tmp_path: Path) -> None:
        class Frozen(nets.Net):
            def __init__(self, width: int = 4, dropout: float = 0.1) -> None:
                super().__init__(width, dropout=dropout)
                self.save_hyperparameters(ignore=["dropout"])

        def frozen() -> Frozen:
            module = Frozen(dropout=0.5)
            module.net[0].requires_grad_(False)
            return module

        search = ArchitectureSearch({"width": Int(2, 9)}, monitor="val_loss", n_trials=1, sampler="random")
        trainer = nets.trainer(tmp_path, search, max_epochs=1)
        silent = {"max_epochs": 1, "accelerator": "cpu", "logger": False}
        for run in (
            lambda: trainer.fit(frozen(), *nets.loaders()),
            lambda: cross_validate(frozen(), nets.loaders()[0], {"folds": 2, "trainer": silent}, monitor="val_loss"),
        ):
            [line] = [line for line in told(run) if "after `__init__`" in line]
            assert "net.2 (Dropout(p=0.5" in line and "requires_grad of net.0.weight" in line and "`dropout`" in line

    def test_of_a_datamodule(self) -> None:
        class Data(L.LightningDataModule):
            def __init__(self, batch_size: int = 16, transform: Any = None) -> None:
                super().__init__()
                self.save_hyperparameters(ignore=["transform"])
                self.transform = transform

        [line] = told(lambda: TrialData(Data(transform=abs)).check_taken([{"batch_size": 4}]))
        assert "transform of Data.__init__ are not among its hyperparameters" in line
        assert told(lambda: TrialData(Data()).check_taken([{"batch_size": 4}])) == []
