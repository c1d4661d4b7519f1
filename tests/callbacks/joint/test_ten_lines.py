"""What a user writes: how to fine-tune, and how sparse, searched together with the architecture."""

from __future__ import annotations

from pathlib import Path

import nets
import pytest
import torch

from lightning_autoarch import (
    ArchitectureSearch,
    Categorical,
    CubicSparsity,
    Float,
    Int,
    MagnitudePruning,
    TransferLearning,
)


def test_ten_lines(tmp_path: Path) -> None:
    torch.save(nets.Net(8, layers=[{"width": 8}]).state_dict(), tmp_path / "pretrained.pt")
    model = nets.Net(8, layers=[{"width": 8}], dropout=0.0)

    transfer = TransferLearning(tmp_path / "pretrained.pt", lr_scale={"net.6": 5.0})
    pruning = MagnitudePruning(CubicSparsity(0.9, end=0.5), every_n_steps=1)
    search = ArchitectureSearch(
        space={
            "lr": Float(1e-3, 1e-1, log=True),
            "transfer.strategy": Categorical(["full", "gradual", "lp_ft"]),
            "transfer.layer_decay": Float(0.5, 1.0),
            "transfer.lr_scale.net.6": Float(1.0, 10.0, log=True),
            "transfer.freeze_depth": Int(0, 1),
            "prune.sparsity": Float(0.5, 0.98),
        },
        monitor="val_loss", n_trials=4, sampler="random", trial={"trainer": {"max_epochs": 4}},
    )  # fmt: skip
    trainer = nets.trainer(tmp_path, search, transfer, pruning, max_epochs=4)
    trainer.fit(model, *nets.loaders())

    best = search.best_architecture
    assert best is not None and search.optuna_study is not None
    assert transfer.strategy == best["transfer.strategy"]
    assert transfer.layer_decay == best["transfer.layer_decay"]
    assert transfer.lr_scale == {"net.6": best["transfer.lr_scale.net.6"]}
    assert transfer.freeze_depth == best["transfer.freeze_depth"]
    assert transfer.report is not None and transfer.report.share == 1.0
    assert pruning.sparsity == pytest.approx(best["prune.sparsity"], abs=0.02)
    for trial in search.optuna_study.trials:
        assert trial.user_attrs["transferred"] == 1.0
        assert trial.user_attrs["sparsity"] == pytest.approx(trial.params["prune.sparsity"], abs=0.02)
    assert len({trial.params["transfer.strategy"] for trial in search.optuna_study.trials}) > 1
