"""What callbacks have made of a trial's net: kept in its record, and shown where trials are listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import optuna
import pytest
import torch
from search_options import merged
from torch import nn

from lightning_autoarch import (
    ArchitectureSearch,
    ConstantSparsity,
    CubicSparsity,
    Float,
    GroupLasso,
    L1Regularization,
    L2Regularization,
    MagnitudePruning,
    TransferLearning,
)
from lightning_autoarch.report import write_report
from lightning_autoarch.search.board import leaderboard
from lightning_autoarch.search.leaderboard import shares


def run(tmp_path: Path, *callbacks: L.Callback, space: Any = None, **options: Any) -> optuna.Study:
    given = {"monitor": "val_loss", "n_trials": 2, "sampler": "random", "trial": {"trainer": {"max_epochs": 3}}}
    callback = ArchitectureSearch(
        space or {"width": [8, 16]},
        **merged({**given, "after": "stop"}, merged({"trial": {"callbacks": callbacks}}, options)),
    )
    nets.trainer(tmp_path, callback, max_epochs=1).fit(nets.Net(dropout=0.0), *nets.loaders())
    assert callback.optuna_study is not None
    return callback.optuna_study


def checkpoint(trial: Any) -> dict[str, Any]:
    return torch.load(trial.user_attrs["checkpoint"], weights_only=True)["state_dict"]


def zeros(state: dict[str, torch.Tensor]) -> float:
    matrices = [tensor for tensor in state.values() if tensor.dim() == 2]
    return sum(int((m == 0).sum()) for m in matrices) / sum(m.numel() for m in matrices)


def test_the_sparsity_that_was_reached(tmp_path: Path) -> None:
    for trial in run(tmp_path, MagnitudePruning(CubicSparsity(0.7, end=0.5), every_n_steps=1)).trials:
        assert type(trial.user_attrs["sparsity"]) is float
        assert trial.user_attrs["sparsity"] == zeros(checkpoint(trial)) == pytest.approx(0.7, abs=0.02)
        assert "transferred" not in trial.user_attrs and "removed" not in trial.user_attrs


@pytest.mark.parametrize("callback", [L1Regularization(2.0), GroupLasso(2.0)], ids=["l1", "group lasso"])
def test_of_a_penalty_it_is_that_of_the_best_epoch(tmp_path: Path, callback: L.Callback) -> None:
    for trial in run(tmp_path, callback).trials:
        assert trial.user_attrs["sparsity"] == pytest.approx(zeros(checkpoint(trial)), abs=1e-6)


def test_a_penalty_that_makes_no_zeros_tells_none(tmp_path: Path) -> None:
    study = run(tmp_path, L2Regularization(0.1), n_trials=1)
    assert "sparsity" not in study.trials[0].user_attrs


def test_two_that_prune_are_counted_together(tmp_path: Path) -> None:
    both = [
        MagnitudePruning(ConstantSparsity(0.5), targets="net.0", name="a"),
        MagnitudePruning(ConstantSparsity(0.75), targets="net.3", name="b"),
    ]
    [trial] = run(tmp_path, *both, space={"width": [8]}, n_trials=1).trials
    assert trial.user_attrs["sparsity"] == pytest.approx((0.5 * 32 + 0.75 * 8) / 40)


def test_one_stopped_early_tells_too(tmp_path: Path) -> None:
    stop = optuna.pruners.ThresholdPruner(upper=-1.0, n_warmup_steps=1)
    with pytest.raises(Exception, match="stopped early"):
        run(tmp_path, MagnitudePruning(ConstantSparsity(0.5)), pruner=stop)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/autoarch/Net/study.db")
    assert [trial.state.name for trial in study.trials] == ["PRUNED"] * 2
    assert [trial.user_attrs["sparsity"] for trial in study.trials] == pytest.approx([0.5] * 2, abs=0.02)


def test_folds(tmp_path: Path) -> None:
    study = run(tmp_path, MagnitudePruning(ConstantSparsity(0.5)), folds=2, after="train")
    assert [trial.user_attrs["sparsity"] for trial in study.trials] == pytest.approx([0.5] * 2, abs=0.02)


def test_where_trials_are_listed(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra `report`")
    callbacks = [
        TransferLearning(nets.Net(8).state_dict()),
        MagnitudePruning(ConstantSparsity(0.5), every_n_steps=1),
    ]
    study = run(
        tmp_path, *callbacks, space={"lr": Float(0.01, 0.1)}, factory=lambda lr: nets.Net(8, lr=lr, dropout=0.0)
    )
    header, first, *_ = leaderboard(study, columns=200).splitlines()
    assert header.split()[:6] == ["rank", "trial", "val_loss", "epochs", "sparsity", "transferred"]
    assert first.split()[4:6] == ["50.0%", "100.0%"]
    assert shares(study.trials[0]) == ("50.0%", "", "100.0%")
    page = Path(write_report(tmp_path / "autoarch/Net/study.db", tmp_path / "report.html")).read_text()
    assert all(word in page for word in ("sparsity</th>", "transferred</th>", ">50.0%<", ">100.0%<"))
    assert "removed</th>" not in page


def test_a_search_without_any_has_no_columns(tmp_path: Path) -> None:
    assert not {"sparsity", "removed", "transferred"} & set(leaderboard(run(tmp_path)).splitlines()[0].split())


class Deep(nets.Net):
    """Three blocks of which only the head is trained at first."""

    def __init__(self) -> None:
        super().__init__(8, layers=[{"width": 8}, {"width": 8}], dropout=0.0)


@pytest.mark.parametrize("strategy", ["gradual", "lp_ft"])
@pytest.mark.parametrize("transfer_first", [True, False])
def test_what_thaws_later_is_pruned_all_the_same(tmp_path: Path, strategy: Any, transfer_first: bool) -> None:
    transfer, masks = TransferLearning(strategy=strategy), MagnitudePruning(ConstantSparsity(0.5), every_n_steps=1)
    module = Deep()
    callbacks: list[L.Callback] = [transfer, masks] if transfer_first else [masks, transfer]
    nets.trainer(tmp_path, *callbacks, max_epochs=4).fit(module, *nets.loaders())
    assert len(masks.masks) == 4
    assert zeros(dict(module.named_parameters())) == pytest.approx(0.5, abs=0.01)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_what_never_thaws_is_not(tmp_path: Path) -> None:
    module, masks = Deep(), MagnitudePruning(ConstantSparsity(0.5))
    nets.trainer(tmp_path, TransferLearning(strategy="linear_probe"), masks, max_epochs=1).fit(module, *nets.loaders())
    assert list(masks.masks) == ["net.9.weight"]
    assert isinstance(module.net[0], nn.Linear) and (module.net[0].weight != 0).all()
