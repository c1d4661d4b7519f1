"""Modules with sparse buffers, such as the adjacency of a graph: what Lightning trains and saves works here too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from search_options import merged
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_autoarch import (
    ArchitectureSearch,
    ChannelPruning,
    ConstantSparsity,
    Int,
    MagnitudePruning,
    TransferLearning,
)
from lightning_autoarch.core.errors import CheckpointError, TransferError
from lightning_autoarch.training.sensitivity import sensitivity
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_weights import transfer_weights

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CS[RC] tensor support is in beta:UserWarning")

EDGES = torch.tensor([[1.0, 1, 0, 0], [0, 1, 0, 2], [3, 0, 1, 0], [0, 0, 0, 1]])
LAYOUTS = {
    "coo": Tensor.to_sparse,
    "csr": Tensor.to_sparse_csr,
    "csc": Tensor.to_sparse_csc,
    "not saved": Tensor.to_sparse,
}


class Graph(L.LightningModule):
    """A graph convolution: four nodes, three features each."""

    def __init__(self, width: int = 16, layout: str = "coo", scale: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        adjacency = LAYOUTS[layout](scale * EDGES)
        self.register_buffer("adjacency", adjacency, persistent=layout != "not saved")
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 1)

    def forward(self, nodes: Tensor) -> Tensor:
        return self.last(self.adjacency @ self.first(nodes).relu())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return (self(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    graphs = [(torch.randn(4, 3, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(2)]
    return DataLoader(graphs, batch_size=None)


def fit(root: Path, module: Graph, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    trainer = nets.trainer(root, *callbacks, max_epochs=1, log_every_n_steps=1, **options)
    trainer.fit(module, loader(), loader())
    return trainer


def search(**options: Any) -> ArchitectureSearch:
    return ArchitectureSearch(
        {"width": Int(2, 8)}, monitor="val_loss", n_trials=1, sampler="random",
        **merged({"trial": {"trainer": {"max_epochs": 2, "min_epochs": 2}}}, options),
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
class TestSearch:
    def test_the_winner_has_its_weights(self, layout: str, tmp_path: Path) -> None:
        callback, module = search(after="stop"), Graph(layout=layout)
        fit(tmp_path, module, callback)
        saved = torch.load(next(tmp_path.rglob("best.ckpt")), weights_only=True)["state_dict"]
        assert torch.equal(module.first.weight, saved["first.weight"])
        assert torch.equal(module.adjacency.to_dense(), EDGES)

    def test_an_interrupted_trial_continues(self, layout: str, tmp_path: Path) -> None:
        epochs: list[int] = []

        class Interrupt(L.Callback):
            def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                epochs.append(trainer.current_epoch)
                if epochs == [0, 1]:
                    raise KeyboardInterrupt

        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(tmp_path, Graph(layout=layout), search(trial={"callbacks": [Interrupt()]}))
        fit(tmp_path, Graph(layout=layout), search(trial={"callbacks": [Interrupt()]}))
        assert epochs == [0, 1, 1]


def test_weights_with_indices_beyond_the_shape_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, Graph(), search())
    path = next(tmp_path.rglob("best.ckpt"))
    checkpoint = torch.load(path, weights_only=True)
    far = torch.tensor([[0, 9], [0, 1]])
    checkpoint["state_dict"]["adjacency"] = torch.sparse_coo_tensor(far, torch.ones(2), (4, 4), check_invariants=False)
    path.unlink()
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=r"`.*adjacency` with indices within its shape"):
        fit(tmp_path, Graph(), search(after="stop"))


@pytest.mark.parametrize("layout", LAYOUTS)
class TestPruning:
    def test_masked(self, layout: str, tmp_path: Path) -> None:
        module = Graph(layout=layout)
        trainer = fit(tmp_path, module, MagnitudePruning(ConstantSparsity(0.5)), enable_checkpointing=True)
        assert sum(int((layer.weight == 0).sum()) for layer in (module.first, module.last)) == 32
        trainer.save_checkpoint(tmp_path / "pruned.ckpt")
        back = Graph.load_from_checkpoint(tmp_path / "pruned.ckpt")
        assert torch.equal(back.first.weight, module.first.weight)

    def test_channels(self, layout: str, tmp_path: Path) -> None:
        module = Graph(layout=layout)
        module.example_input_array = torch.randn(4, 3)
        fit(tmp_path, module, ChannelPruning(0.5, round_to=1))
        assert module.first.out_features == 8
        assert torch.equal(module.adjacency.to_dense(), EDGES)

    def test_sensitivity(self, layout: str) -> None:
        pytest.importorskip("pandas", reason="pandas is not installed")
        frame = sensitivity(Graph(layout=layout), loader(), [0.5], targets="last")
        assert frame["layer"].tolist() == ["last.weight"]


class TestTransfer:
    @pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
    def test_taken_over_as_it_is(self, layout: str, tmp_path: Path) -> None:
        source, module = Graph(layout=layout, scale=2.0), Graph(layout=layout)
        torch.save(source.state_dict(), tmp_path / "weights.pt")
        callback = TransferLearning(tmp_path / "weights.pt")
        fit(tmp_path, module, callback)
        assert callback.report.counts == {"loaded": 5}
        assert torch.equal(module.adjacency.to_dense(), 2 * EDGES)

    @pytest.mark.parametrize("layout", ["coo", "csr"])
    def test_widened(self, layout: str) -> None:
        source, module, nodes = Graph(4, layout), Graph(8, layout), torch.randn(4, 3)
        for given in (source, source.state_dict()):
            transfer_weights(module, given, on_mismatch="widen", matching=Matching(example_inputs=nodes))
            torch.testing.assert_close(module(nodes), source(nodes))

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (
                Tensor.clone,
                "the layout torch.strided in the source, torch.sparse_csr in the module",
            ),
            (Tensor.to_sparse, "the layout torch.sparse_coo in the source"),
            (lambda x: x.double().to_sparse_csr(), "the dtype torch.float64 in the source"),
            (lambda x: x[:3].to_sparse_csr(), r"the shape \(3, 4\) in the source"),
            (lambda x: x.diag().diag().to_sparse_csr(), "4 entries in the source, 7 in the module"),
        ],
    )
    def test_others_are_left_out(self, make: Callable[[Tensor], Tensor], reason: str) -> None:
        module = Graph(layout="csr")
        state = {**module.state_dict(), "adjacency": make(EDGES)}
        report = transfer_weights(module, state)
        assert report["adjacency"].status == "skipped"
        before = module.first.weight.clone()
        state["first.weight"] = torch.zeros(16, 3)
        with pytest.raises(TransferError, match=f"Expected `adjacency` to fit, got {reason}"):
            transfer_weights(module, state, on_mismatch="error")
        assert torch.equal(module.first.weight, before)
        assert torch.equal(module.adjacency.to_dense(), EDGES)
