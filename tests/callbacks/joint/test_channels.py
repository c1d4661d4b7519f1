"""Channels that go inside of trials: what is scored, and how the winner comes to be as small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from search_options import merged

from lightning_autoarch import (
    ArchitectureSearch,
    ChannelPruning,
    Float,
    Int,
    MagnitudePruning,
    OneShot,
    SearchError,
    SpaceError,
    TransferLearning,
    load_pruned,
)


class Net(nets.Net):
    def __init__(self, width: int = 24, lr: float = 1e-2) -> None:
        super().__init__(width, lr=lr, layers=[{"width": 16}], dropout=0.0)
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(2, 4)


SPACE: dict[str, Any] = {"width": Int(16, 32), "prune.ratio": Float(0.3, 0.7)}


def pruning(**options: Any) -> ChannelPruning:
    return ChannelPruning(**{"ratio": 0.5, "of": "flops", "at": 0.5, "round_to": 1, **options})


def search(space: Any = None, **options: Any) -> ArchitectureSearch:
    given = {"monitor": "val_loss", "n_trials": 2, "sampler": "random", "trial": {"trainer": {"max_epochs": 2}}}
    return ArchitectureSearch(space or SPACE, **merged(given, options))


def fit(root: Path, *callbacks: L.Callback, **options: Any) -> Net:
    module = Net()
    nets.trainer(root, *callbacks, **{"max_epochs": 2, **options}).fit(module, *nets.loaders())
    return module


def best(found: ArchitectureSearch) -> dict[str, Any]:
    assert found.best_architecture is not None
    return found.best_architecture


def saved(found: ArchitectureSearch) -> dict[str, Any]:
    assert found.optuna_study is not None
    return torch.load(found.optuna_study.best_trial.user_attrs["checkpoint"], weights_only=True)


@pytest.mark.parametrize("at", [0.0, 0.5])
def test_the_winner_is_pruned_as_its_trial(tmp_path: Path, at: float) -> None:
    outer, found = pruning(at=at), search()
    module = fit(tmp_path, found, outer)
    assert outer.removed is not None and outer.ratio == best(found)["prune.ratio"]
    assert outer.removed.after.flops <= (1 - outer.ratio) * outer.removed.before.flops
    assert module.net[0].out_features < best(found)["width"] == module.hparams["width"]


def test_what_counts_is_of_the_small_net(tmp_path: Path) -> None:
    found = search({**SPACE, "prune.at": Float(0.3, 0.6)}, trial={"trainer": {"max_epochs": 4}})
    fit(tmp_path, found, pruning(), max_epochs=1)
    assert found.optuna_study is not None
    for trial in found.optuna_study.trials:
        assert min(trial.intermediate_values) >= 1  # the first epoch is dense
        assert 0.1 < trial.user_attrs["removed"] < 1
    assert saved(found)["callbacks"][pruning().state_key]["recipe"]


@pytest.mark.parametrize("at", [0.0, 0.5])
@pytest.mark.parametrize("search_first", [True, False])
@pytest.mark.parametrize("after", ["keep", "stop"])
def test_the_weights_of_a_small_trial(tmp_path: Path, at: float, search_first: bool, after: Any) -> None:
    class Look(L.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.weights = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}

    outer, found, look = pruning(at=at), search(after=after), Look()
    module = fit(tmp_path, *([found, outer] if search_first else [outer, found]), look)
    weights = saved(found)["state_dict"]
    assert all(torch.equal(look.weights[name], weights[name]) for name in weights)
    assert module.net[0].weight.shape == weights["net.0.weight"].shape  # and is not pruned again
    plain = load_pruned(Net(best(found)["width"]), found.optuna_study.best_trial.user_attrs["checkpoint"])  # type: ignore[union-attr]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("space", [SPACE, {"width": Int(16, 32)}], ids=["varied", "fixed"])
@pytest.mark.parametrize("after", ["keep", "stop"])
def test_an_outer_fit_that_stays_dense(tmp_path: Path, space: Any, after: Any) -> None:
    with pytest.raises(SearchError, match=r"ChannelPruning do not fit.*among the Trainer's callbacks.*\"train\""):
        fit(tmp_path, search(space, after=after, trial={"callbacks": [pruning()]}))
    assert not list(tmp_path.rglob("study.db"))


def test_trials_that_stay_dense(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"ChannelPruning changes the module before.*`trial.callbacks`"):
        fit(tmp_path, search({"width": Int(16, 32)}, after="keep"), pruning(at=0.0))
    fit(tmp_path, search({"width": Int(16, 32)}, after="keep"), pruning(at=0.5))  # dense weights come into a dense net


def test_both_have_it_and_nothing_varies(tmp_path: Path) -> None:
    found = search({"width": Int(16, 32)}, after="keep", trial={"callbacks": [pruning(at=0.0)]})
    module = fit(tmp_path, found, pruning(at=0.0))
    assert module.net[0].weight.shape == saved(found)["state_dict"]["net.0.weight"].shape


def test_the_search_put_behind_it(tmp_path: Path) -> None:
    outer, found = pruning(at=0.0), search({"width": Int(16, 32)})
    module = fit(tmp_path, outer, found)
    assert outer.removed is not None
    assert module.net[0].out_features < best(found)["width"]  # not the module that the search threw away


@pytest.mark.parametrize(
    ("callback", "space", "error", "message"),
    [
        (pruning(at=1.0), SPACE, SearchError, r"behind its last score: give `at` below 1.0"),
        (pruning(), {"prune.at": Float(0.5, 1.0)}, SpaceError, r"`prune.at` cannot be 1.0: .*last score"),
        (pruning(), {"prune.of": ["share"]}, SpaceError, r"`prune.of` cannot be 'share': Expected `of`"),
        (pruning(), {"prune.ratios": Float(0.2, 0.5)}, SpaceError, r"Did you mean `prune.ratio`"),
        (pruning(), {"prune.ratio": Float(0.2, 1.5)}, SpaceError, r"`prune.ratio` cannot be 1.5"),
        (pruning(), {"prune.scope": ["erk"]}, SpaceError, r"`prune.scope` cannot be 'erk'"),
    ],
)
def test_what_is_refused(tmp_path: Path, callback: Any, space: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fit(tmp_path, search(space), callback)
    assert not list(tmp_path.rglob("study.db"))


def test_beside_another_the_names_tell_which(tmp_path: Path) -> None:
    channels, masks = pruning(at=0.0), MagnitudePruning(OneShot(0.5, at=0.0), every_n_steps=1)
    found = search({"prune.ratio": Float(0.4, 0.6)})
    fit(tmp_path, found, channels, masks)
    assert channels.ratio == best(found)["prune.ratio"] and masks.schedule == OneShot(0.5, at=0.0)
    with pytest.raises(SearchError, match=r"tunables of one callback, got ChannelPruning, MagnitudePruning in"):
        fit(tmp_path / "2", search({"prune.at": Float(0.1, 0.2)}), pruning(), MagnitudePruning(OneShot(0.5)))


def test_after_a_transfer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transfer = TransferLearning(Net(24).state_dict())
    outer, found = pruning(at=0.0), search({"prune.ratio": Float(0.4, 0.6), "transfer.layer_decay": Float(0.5, 1.0)})
    module = fit(tmp_path, found, transfer, outer)
    assert found.optuna_study is not None
    assert all(trial.user_attrs["transferred"] == 1.0 for trial in found.optuna_study.trials)
    assert all(trial.user_attrs["removed"] > 0.1 for trial in found.optuna_study.trials)
    assert transfer.report is not None and transfer.report.share == 1.0
    assert module.net[0].out_features < 24


def test_an_interrupted_trial_goes_on(tmp_path: Path) -> None:
    class Interrupt(L.Callback):
        armed = True

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if Interrupt.armed and trainer.current_epoch == 3 and trainer.max_epochs == 5:
                Interrupt.armed = False
                raise KeyboardInterrupt

    options: dict[str, Any] = {"n_trials": 2, "trial": {"trainer": {"max_epochs": 5}}, "after": "stop"}
    whole = search(**options)
    expected = fit(tmp_path / "whole", whole, pruning())
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", search(**merged(options, {"trial": {"callbacks": [Interrupt()]}})), pruning())
    again = search(**merged(options, {"trial": {"callbacks": [Interrupt()]}}))
    module = fit(tmp_path / "cut", again, pruning())
    assert whole.optuna_study is not None and again.optuna_study is not None
    assert [t.value for t in again.optuna_study.trials] == [t.value for t in whole.optuna_study.trials]
    assert [t.user_attrs["removed"] for t in again.optuna_study.trials] == [
        t.user_attrs["removed"] for t in whole.optuna_study.trials
    ]
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), expected.parameters(), strict=True))
