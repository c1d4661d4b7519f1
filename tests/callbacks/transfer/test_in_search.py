"""After a search has rebuilt the module, and inside of its trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from nets import Net
from transfer_nets import Epochs

from lightning_autoarch import ArchitectureSearch
from lightning_autoarch.callbacks.transfer.learning import TransferLearning

LAYERS = [{"width": 8}]


def pretrained() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {name: tensor.clone() for name, tensor in Net(8, layers=LAYERS).state_dict().items()}


def search(folder: Path, **options: Any) -> ArchitectureSearch:
    space = {"lr": {"low": 1e-3, "high": 1e-1, "log": True}, "dropout": [0.0, 0.1]}
    return ArchitectureSearch(
        space, monitor="val_loss", n_trials=2, sampler="random", study={"directory": folder / "search"}, **options
    )


@pytest.mark.parametrize("search_first", [True, False])
def test_after_the_search(search_first: bool, tmp_path: Path) -> None:
    transfer, spy = TransferLearning(pretrained(), strategy="gradual", layer_decay=0.5), Epochs()
    callbacks: list[L.Callback] = [search(tmp_path), transfer]
    trainer = nets.trainer(tmp_path, *(callbacks if search_first else callbacks[::-1]), spy, max_epochs=3)
    module = Net(8, layers=LAYERS)
    trainer.fit(module, *nets.loaders())
    assert [len(names) for names in spy.trained] == [2, 4, 6]
    assert transfer.report is not None and transfer.report.share == 1.0
    assert {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]} == set(map(id, module.parameters()))
    lr = module.hparams["lr"]
    assert spy.rates[-1] == pytest.approx([lr / 4, lr / 2, lr])


def test_as_a_trial_callback(tmp_path: Path) -> None:
    class Watched(Net):
        starts: list[bool] = []

        def on_train_start(self) -> None:
            self.starts.append(all(torch.equal(p, pretrained()[name]) for name, p in self.named_parameters()))

    transfer = TransferLearning(pretrained(), strategy="linear_probe")
    callback = search(tmp_path, trial={"callbacks": [transfer]}, after="stop")
    module = Watched(8, layers=LAYERS)
    nets.trainer(tmp_path, callback, max_epochs=1).fit(module, *nets.loaders())
    assert Watched.starts == [True, True]
    assert torch.equal(module.net[0].weight, pretrained()["net.0.weight"])
    assert transfer.report is None  # trials have copies


def test_candidates_that_the_checkpoint_does_not_fit_fail_with_the_reason(tmp_path: Path) -> None:
    transfer = TransferLearning({"conv.weight": torch.zeros(3, 3)})
    callback = search(tmp_path, trial={"callbacks": [transfer]})
    with pytest.raises(Exception, match="names that the source and the module share"):
        nets.trainer(tmp_path, callback, max_epochs=1).fit(Net(8, layers=LAYERS), *nets.loaders())
