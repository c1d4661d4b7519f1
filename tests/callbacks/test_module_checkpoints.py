"""A module whose `on_save_checkpoint` stores objects, as forecasting libraries do, can be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import pytest
import torch

from lightning_autoarch import ArchitectureSearch, Int
from lightning_autoarch.training.plain_checkpoints import OMITTED


class Encoder:
    """An object that only running code gives back."""


class Storing(nets.Net):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["encoder"], checkpoint["note"] = Encoder(), "plain"
        checkpoint["hyper_parameters"] = {**self.hparams, "encoder": Encoder()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert isinstance(checkpoint["encoder"], Encoder)


@pytest.mark.parametrize("after", ["train", "keep"])
def test_objects_are_left_out_of_trials(tmp_path: Path, after: str) -> None:
    search = ArchitectureSearch({"width": Int(2, 4)}, monitor="val_loss", n_trials=2, sampler="random", after=after)
    module = Storing()
    with pytest.warns(UserWarning, match="`on_save_checkpoint` of Storing stores objects in `encoder`"):
        nets.trainer(tmp_path, search).fit(module, *nets.loaders())
    assert search.best_score is not None
    kept = next(tmp_path.rglob("best.ckpt"))
    content = torch.load(kept, weights_only=True)
    assert content[OMITTED] == ["encoder"]
    assert content["note"] == "plain"
    assert content["hyper_parameters"]["width"] in (2, 3, 4)
    assert isinstance(content["hyper_parameters"]["encoder"], str)
    assert content["state_dict"].keys() == module.state_dict().keys()
