"""The weight of a penalty, searched with the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
from search_options import merged

from lightning_autoarch import (
    ArchitectureSearch,
    CubicSparsity,
    Float,
    GroupLasso,
    Int,
    L1Regularization,
    L2Regularization,
    MagnitudePruning,
    SpaceError,
)
from lightning_autoarch.callbacks.joint.tuning import with_parameters


def search(space: Any, **options: Any) -> ArchitectureSearch:
    given = {"monitor": "val_loss", "n_trials": 2, "sampler": "random", "trial": {"trainer": {"max_epochs": 2}}}
    return ArchitectureSearch(space, **merged(given, options))


def fit(root: Path, *callbacks: L.Callback) -> nets.Net:
    module = nets.Net(8, dropout=0.0)
    nets.trainer(root, *callbacks, max_epochs=2).fit(module, *nets.loaders())
    return module


@pytest.mark.parametrize(
    ("callback", "parameters", "expected"),
    [
        (L1Regularization(1e-3, ramp=(0.0, 0.5)), {"weight": 1e-2}, {"weight": 1e-2}),
        (L2Regularization(1e-3), {"weight.net.0": 1e-2}, {"weight": {"net.0": 1e-2, "*": 1e-3}}),
        (GroupLasso({"net.0": 1.0, "*": 2.0}, dim=1), {"weight.net.3": 3.0}, {"weight": {"net.3": 3.0, "net.0": 1.0,
                                                                                        "*": 2.0}}),
        (GroupLasso(1e-3), {"dim": 1, "proximal": False}, {"dim": 1, "proximal": False}),
    ],
)  # fmt: skip
def test_what_the_names_set(callback: Any, parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    made = with_parameters(callback, parameters)
    assert {name: getattr(made, name) for name in expected} == expected
    untouched = {name for name in ("weight", "proximal", "targets", "exclude", "ramp") if name not in expected}
    assert {name: getattr(made, name) for name in untouched} == {name: getattr(callback, name) for name in untouched}
    assert getattr(made, "dim", 0) == expected.get("dim", getattr(callback, "dim", 0))
    assert type(made.penalty) is type(callback.penalty)


def test_a_search(tmp_path: Path) -> None:
    outer = L1Regularization(1e-3)
    found = search({"width": Int(8, 24), "prune.weight": Float(0.5, 5.0, log=True)})
    module = fit(tmp_path, found, outer)
    assert found.best_architecture is not None and found.optuna_study is not None
    assert outer.weight == found.best_architecture["prune.weight"]
    assert all(0 < trial.user_attrs["sparsity"] <= 1 for trial in found.optuna_study.trials)
    assert (module.net[0].weight == 0).any()


@pytest.mark.parametrize(
    ("callback", "space", "message"),
    [
        (L1Regularization(1e-3), {"prune.sparsity": Float(0.5, 0.9)}, r"`prune.sparsity`.*L1Regularization"),
        (L1Regularization(1e-3), {"prune.weight": Float(-1.0, 0.9)}, r"`prune.weight` cannot be -1.0"),
        (L1Regularization(1e-3), {"prune.weigt": Float(0.1, 0.9)}, r"Did you mean `prune.weight`"),
        (L1Regularization(1e-3), {"prune.ramp": ["a"]}, r"`prune.ramp`"),
        (
            L1Regularization(1e-3),
            {"prune.weight": Float(0.1, 0.2), "prune.weight.net.0": Float(0.1, 0.2)},
            r"`prune.weight` and `prune.weight.net.0` of the space set the same",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, callback: Any, space: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        fit(tmp_path, search(space), callback)


def test_beside_masks_the_names_tell_which(tmp_path: Path) -> None:
    masks, penalty = MagnitudePruning(CubicSparsity(0.5, end=0.5), every_n_steps=1), L2Regularization(1e-3)
    found = search({"prune.sparsity": Float(0.6, 0.8)})
    fit(tmp_path, found, penalty, masks)
    assert found.best_architecture is not None
    assert masks.schedule == CubicSparsity(found.best_architecture["prune.sparsity"], end=0.5)
    assert penalty.weight == 1e-3


def test_one_of_another_kind_in_the_outer_fit_is_left_alone(tmp_path: Path) -> None:
    masks, penalty = MagnitudePruning(CubicSparsity(0.5, end=0.5), every_n_steps=1), L2Regularization(1e-3)
    found = search({"prune.sparsity": Float(0.6, 0.8)}, trial={"callbacks": [masks]})
    with pytest.warns(UserWarning, match="without MagnitudePruning"):
        fit(tmp_path, found, penalty)
