"""Costs before and after pruning: which input, which numbers, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from torch import nn

from lightning_autoarch import ChannelPruning, ConstantSparsity, MagnitudePruning
from lightning_autoarch.callbacks.prune.prune_trained import prune_trained, sizes_on_disk
from lightning_autoarch.structure.cost import flops_by_density, seconds_of_each


class Shown(nets.Net):
    """With an example of three rows."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(width=width)
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(3, 4)


def pruned(root: Path, module: L.LightningModule, *callbacks: Any, **options: Any) -> Any:
    return prune_trained(nets.trainer(root, *callbacks, **options), module, nets.Data())


def test_flops_of_weights_that_are_not_zero() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    conv, linear = 2 * 7 * 16 * 9 * 2, 2 * 7 * 32 * 5  # 7 images of 4 x 4
    image = torch.zeros(7, 1, 4, 4)
    assert flops_by_density(net, image, {}) == (conv + linear, conv + linear)
    densities = {"0": 0.5, "3": 0.25, "elsewhere": 0.0}
    assert flops_by_density(net, image, densities) == (conv + linear, conv // 2 + linear // 4)


def test_in_turns_and_in_eval_mode() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            order.append(self.name + str(self.training)[0])
            return x

    pair = [Named("a"), Named("b").eval()]
    assert len(seconds_of_each(pair, torch.zeros(1), runs=2)) == 2
    assert order == ["aF", "bF"] * 4  # two more to warm up
    assert [module.training for module in pair] == [True, False]


def test_example_goes_before_batches(tmp_path: Path) -> None:
    result = pruned(tmp_path, Shown(), MagnitudePruning(ConstantSparsity(0.5)))
    before, after = result.costs
    weights = 4 * 16 + 16
    assert before.parameters == after.parameters == before.nonzero == weights + 17
    assert after.nonzero == weights // 2 + 17
    assert before.flops == after.flops == before.nonzero_flops == 2 * 3 * weights
    assert before.size == after.size == 4 * (weights + 17)
    assert before.seconds > 0 and after.seconds > 0
    assert result.notes[0].startswith("FLOPs and latency are of a forward of `example_input_array` (3 x 4) on the CPU")
    assert result.notes[1].startswith("Zeros under masks make no forward faster")


def test_first_batch_of_the_training_where_nothing_validates(tmp_path: Path) -> None:
    class Silent(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets.Net().net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    class Unvalidated(nets.Data):
        val_dataloader = L.LightningDataModule.val_dataloader

    trainer = nets.trainer(tmp_path, MagnitudePruning(ConstantSparsity(0.5)))
    result = prune_trained(trainer, Silent(), Unvalidated())
    assert result.before == result.after == {}
    assert "of the first batch of the training (16 x 4)" in result.notes[0]
    assert result.costs[0].flops == 2 * 16 * 20
    assert len(trainer.callbacks) == 1  # nothing of ours is left


def test_batches_with_names(tmp_path: Path) -> None:
    class Keywords(Shown):
        def __init__(self) -> None:
            super().__init__()
            self.example_input_array = None

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.net(x * mask)

        def _loss(self, batch: Any) -> torch.Tensor:
            return self(**batch).square().mean()

    class Named(nets.Data):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {"x": batch[0], "mask": torch.ones_like(batch[0])}

    trainer = nets.trainer(tmp_path, MagnitudePruning(ConstantSparsity(0.5)))
    result = prune_trained(trainer, Keywords(), Named())
    assert "of the first batch of the validation (16 x 4, 16 x 4)" in result.notes[0]
    assert result.costs[1].flops == 2 * 16 * 80


def test_a_forward_that_looks_at_values(tmp_path: Path) -> None:
    class Peeking(Shown):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x * 2 if float(x.sum()) > 1e9 else x)

    peeking, plain = (pruned(tmp_path, kind(), MagnitudePruning(ConstantSparsity(0.5))) for kind in (Peeking, Shown))
    assert [costs.flops for costs in peeking.costs] == [costs.flops for costs in plain.costs]
    assert peeking.costs[0].flops


def test_a_forward_that_copies_do_not_have(tmp_path: Path) -> None:
    class Alone(Shown):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self is not alone:
                raise RuntimeError("no copy of me")
            return self.net(x)

    alone = Alone()
    result = pruned(tmp_path, alone, MagnitudePruning(ConstantSparsity(0.5)))
    assert [costs.flops for costs in result.costs] == [None, None]
    assert any(note.startswith("FLOPs are not known: the forward of a copy does not run (") for note in result.notes)


def test_a_forward_that_takes_nothing(tmp_path: Path) -> None:
    class Wrong(Shown):
        def __init__(self) -> None:
            super().__init__()
            self.example_input_array = torch.zeros(3, 7)

    result = pruned(tmp_path, Wrong(), MagnitudePruning(ConstantSparsity(0.5)))
    assert result.costs[1].seconds is None and result.costs[1].parameters == 97
    assert result.notes[0].startswith("FLOPs and latency are not known: the forward does not take `example_input_arr")


def test_a_module_that_cannot_be_copied(tmp_path: Path) -> None:
    module = Shown()
    module.log_file = (tmp_path / "log").open("w")  # held in no hyperparameter
    result = pruned(tmp_path, module, MagnitudePruning(ConstantSparsity(0.5)))
    module.log_file.close()
    before, after = result.costs
    assert before.flops is None and before.seconds is None and before.parameters == 97
    assert after.nonzero == 57 and after.seconds is not None and after.seconds > 0
    assert "the module cannot be copied (TypeError: " in result.notes[-2]


def test_channels(tmp_path: Path) -> None:
    result = pruned(tmp_path, module := Shown(), ChannelPruning(0.5, at=0.0, round_to=4))
    (first, last), left = result.resized, module.net[0].out_features
    assert (first.name, first.n_weights, first.n_kept) == ("net.0", 80, 5 * left)
    assert (last.name, last.n_weights, last.n_kept) == ("net.3", 17, left + 1)
    assert result.layers == () and len(result.notes) == 1
    assert [costs.flops for costs in result.costs] == [2 * 3 * 80, 2 * 3 * 5 * left]
    checkpoint = tmp_path / "small.ckpt"
    torch.save(module.state_dict(), checkpoint)
    sizes = sizes_on_disk(module, checkpoint, result.costs[0])
    assert sizes["before"] - sizes["dense"] == 4 * (97 - 6 * left - 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_measuring_changes_no_training(tmp_path: Path, seed: int) -> None:
    weights = []
    for measured in (True, False):
        torch.manual_seed(seed)
        module, trainer = Shown(), nets.trainer(tmp_path, MagnitudePruning(ConstantSparsity(0.5)))
        if measured:
            prune_trained(trainer, module, nets.Data())
        else:
            trainer.validate(module, nets.Data(), verbose=False)
            trainer.fit(module, datamodule=nets.Data())
        weights.append([parameter.detach().clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
