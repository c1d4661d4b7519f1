"""Choices that are objects, in a whole search: the module and the winner get them, study and checkpoint their names."""

from __future__ import annotations

import copy
import enum
import itertools
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from search_options import merged
from torch import nn

from lightning_autoarch import ArchitectureSearch, Categorical, Int, Repeat


class Act(enum.StrEnum):
    RELU = "relu"
    TANH = "tanh"


SPACE: dict[str, Any] = {
    "act": Act,
    "norm": [nn.LayerNorm, nn.BatchNorm1d],
    "sizes": Categorical([[4], (4, 3)]),
    "hidden": Repeat(1, 2, Int(2, 5)),
}


class Net(nets.Net):
    """Fails where it is given names instead of objects; changes a list that it is given."""

    def __init__(self, act: Act = Act.RELU, norm: Any = nn.LayerNorm, sizes: Any = (4,), hidden: Any = (2,)) -> None:
        super().__init__()
        self.save_hyperparameters()
        assert isinstance(act, Act) and isinstance(norm, type)
        widths = [4, *sizes, *hidden]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.net = nn.Sequential(*layers, norm(widths[-1]), nn.Linear(widths[-1], 1))
        if isinstance(sizes, list):
            sizes.append(99)


def fit(root: Path, **options: Any) -> tuple[Net, ArchitectureSearch]:
    given = merged({"monitor": "val_loss", "n_trials": 3, "trial": {"trainer": {"max_epochs": 1}}}, options)
    search, module = ArchitectureSearch(SPACE, **given), Net()
    nets.trainer(root, search, max_epochs=1).fit(module, *nets.loaders())
    return module, search


@pytest.mark.parametrize("strategy", ["random", "bayesian"])
def test_the_winner_has_the_objects_of_its_trial(tmp_path: Path, strategy: str) -> None:
    module, search = fit(tmp_path, sampler=strategy, n_trials=7 if strategy == "bayesian" else 3)
    best = search.best_architecture
    assert all(trial.state.name == "COMPLETE" for trial in search.optuna_study.trials)
    assert type(best["act"]) is Act
    assert module.hparams["act"] is best["act"]
    assert module.hparams["norm"] is best["norm"]
    assert list(best["sizes"]) in ([4], [4, 3])  # nothing appended by a candidate
    stored = search.optuna_study.best_trial.user_attrs["architecture"]
    assert stored["act"] == best["act"].name
    assert stored["norm"] == f"torch.nn.{best['norm'].__name__}"
    assert stored["hidden"] == best["hidden"]


def test_a_resumed_search_and_a_checkpoint_lead_back_to_the_objects(tmp_path: Path) -> None:
    _, first = fit(tmp_path, sampler="random")
    module, again = fit(tmp_path, sampler="random")
    assert again.best_architecture == first.best_architecture
    assert type(module.hparams["act"]) is Act
    state = again.state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state
    fresh = ArchitectureSearch(SPACE, monitor="val_loss")
    fresh.load_state_dict(state)
    assert fresh.best_architecture == again.best_architecture
    assert type(fresh.best_architecture["sizes"]) is type(again.best_architecture["sizes"])


def test_a_notebook_and_the_terminal_show_readable_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = ArchitectureSearch({"act": Act}, monitor="val<loss")._repr_html_()
    assert before == (
        "<p>ArchitectureSearch over <code>act</code> by <code>val&lt;loss</code>. No search has run yet.</p>"
    )
    _, search = fit(tmp_path, sampler="random")
    printed = capsys.readouterr().out
    assert "Winner: trial #" in printed
    assert "norm=torch.nn." in printed
    page = search._repr_html_()
    assert page.startswith("<table><tr><th>rank</th><th>trial</th><th>val_loss</th>")
    assert "torch.nn.LayerNorm" in page
    assert copy.deepcopy(search)._repr_html_()
