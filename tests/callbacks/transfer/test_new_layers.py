"""What a checkpoint does not have is trained, and is the head, in whatever order a module registers its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from transfer_nets import Epochs, Tuned, fit, grouped, moved

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_weights import transfer_weights


class HeadFirst(Tuned):
    """The layer that gives the outputs is registered before all others, and one that is never used after them."""

    def __init__(self, seed: int = 0, unused: bool = False) -> None:
        L.LightningModule.__init__(self)
        torch.manual_seed(seed)
        self.lr, self.chosen, self.scheduler = 0.05, "filter", None
        self.classifier = nn.Linear(8, 1)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        if unused:
            self.projector = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(x))

    def configure_optimizers(self) -> Any:
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])


def without(*prefixes: str, **options: Any) -> dict[str, torch.Tensor]:
    state = HeadFirst(1, **options).state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if not name.startswith(prefixes)}


CLASSIFIER = {"classifier.weight", "classifier.bias"}


class TestHead:
    @pytest.mark.parametrize("unused", [False, True])
    def test_a_probe_trains_what_was_not_taken_over(self, unused: bool) -> None:
        module, spy = HeadFirst(unused=unused), Epochs()
        start = without("classifier", unused=unused)
        before = {**module.state_dict(), **start}
        before = {name: tensor.clone() for name, tensor in before.items()}
        fit(module, TransferLearning(start, strategy="linear_probe"), spy, max_epochs=1)
        assert moved(module, before) == CLASSIFIER and set(spy.trained[0]) == CLASSIFIER

    @pytest.mark.parametrize(
        ("options", "epochs"),
        [
            ({"strategy": "gradual"}, [2, 4, 8]),
            ({"strategy": "lp_ft", "probe_epochs": 2}, [2, 2, 8]),
            ({"freeze_depth": 2}, [2, 2, 2]),
        ],
    )
    def test_the_others_begin_from_it(self, options: dict[str, Any], epochs: list[int]) -> None:
        module, spy = HeadFirst(), Epochs()
        fit(module, TransferLearning(without("classifier"), **grouped(options)), spy, max_epochs=3)
        assert [len(names) for names in spy.trained] == epochs
        assert set(spy.trained[0]) == CLASSIFIER

    def test_decay_counts_from_it(self) -> None:
        module, rates = HeadFirst(), {}

        class Rates(L.Callback):
            def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                names = {id(p): name for name, p in pl_module.named_parameters()}
                for group in trainer.optimizers[0].param_groups:
                    rates.update({names[id(p)]: group["lr"] / 0.05 for p in group["params"]})

        fit(module, TransferLearning(without("classifier"), layer_decay=0.5), Rates(), max_epochs=1)
        assert rates["classifier.weight"] == 1 and rates["backbone.3.weight"] == 0.5
        assert rates["backbone.0.weight"] == 0.25

    def test_a_head_that_is_known_by_name_stays_it(self) -> None:
        """Something in the middle is new: it trains too, and is not taken for the head."""
        module, spy = Tuned(optimizer="filter"), Epochs()
        start = {name: t for name, t in Tuned(seed=1).state_dict().items() if not name.startswith("backbone.3")}
        fit(module, TransferLearning(start, strategy="linear_probe"), spy, max_epochs=1)
        assert set(spy.trained[0]) == {"head.weight", "head.bias", "backbone.3.weight", "backbone.3.bias"}

    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
    @pytest.mark.filterwarnings("ignore:Checkpoint directory")
    def test_a_resumed_fit_knows_it_again(self, tmp_path: Path) -> None:
        def run(checkpoint: Any, spy: Epochs, **options: Any) -> HeadFirst:
            module = HeadFirst()
            fit(module, TransferLearning(checkpoint, strategy="linear_probe"), spy, **options)
            return module

        save, spies = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1), [Epochs(), Epochs()]
        transfer = TransferLearning(without("classifier"), strategy="linear_probe")
        expected = HeadFirst()
        fit(expected, transfer, save, max_epochs=2, enable_checkpointing=True)
        module = run(None, spies[1], max_epochs=2, ckpt_path=tmp_path / "epoch=0.ckpt")
        torch.testing.assert_close(dict(module.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
        assert set(spies[1].trained[-1]) == CLASSIFIER


class TestFrozen:
    def test_what_is_frozen_and_unknown_is_named(self) -> None:
        start = without("classifier", "backbone.0")
        with pytest.warns(
            UserWarning, match=r"not taken over from the checkpoint: `backbone.0.weight`, `backbone.0.bias`"
        ):
            fit(HeadFirst(), TransferLearning(start, freeze="backbone"), max_epochs=1)

    def test_a_norm_whose_statistics_are_unknown_trains(self) -> None:
        module, spy = HeadFirst(), Epochs()
        start = {name: t for name, t in without("classifier").items() if "running" not in name}
        fit(module, TransferLearning(start, strategy="linear_probe"), spy, max_epochs=1)
        assert set(spy.trained[0]) == CLASSIFIER | {"backbone.1.weight", "backbone.1.bias"}

    def test_what_the_module_freezes_itself_is_its_own_affair(self) -> None:
        module = HeadFirst()
        module.backbone[3].requires_grad_(False)
        fit(module, TransferLearning(without("classifier", "backbone.3"), strategy="linear_probe"), max_epochs=1)
        assert not module.backbone[3].weight.requires_grad


class TestMinimumShare:
    def test_less_is_an_error_that_names_what_is_missing(self) -> None:
        module, start = HeadFirst(), without("backbone.0", "classifier")
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with pytest.raises(TransferError, match=r"at least 90.0% .*got 64.2%: .*`backbone.0.weight` \(missing\)"):
            transfer_weights(module, start, matching=Matching(min_share=0.9))
        with pytest.raises(TransferError, match=r"at least 90.0% .*`backbone.0.weight` \(missing\)"):
            fit(module, TransferLearning(start, matching=Matching(min_share=0.9)))
        assert moved(module, before) == set()
        assert transfer_weights(module, start, matching=Matching(min_share=0.6)).share > 0.6

    @pytest.mark.parametrize("share", [-0.1, 1.1, 90, True, "0.9"])
    def test_what_is_none(self, share: Any) -> None:
        with pytest.raises(TransferError, match=r"`min_share` to be a number in \[0, 1\] or None"):
            TransferLearning(matching=Matching(min_share=share))
        with pytest.raises(TransferError, match=r"`min_share` to be a number in \[0, 1\] or None"):
            transfer_weights(nn.Linear(2, 2), nn.Linear(2, 2), matching=Matching(min_share=share))
