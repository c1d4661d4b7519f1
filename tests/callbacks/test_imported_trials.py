"""Studies that hold trials of a plain Optuna run: they count, may win, and are ignored aloud where they do not fit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nets
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import create_trial
from search_options import merged

from lightning_autoarch import ArchitectureSearch, Int, Repeat, SearchError
from lightning_autoarch.search.board import leaderboard
from lightning_autoarch.search.leaderboard import ranked

SPACE: dict[str, Any] = {"width": Int(2, 9), "act": ["relu", "tanh"]}
WIDTH, ACT = IntDistribution(2, 9), CategoricalDistribution(("relu", "tanh"))


def study(root: Path, *trials: optuna.trial.FrozenTrial, direction: str = "minimize") -> str:
    storage = f"sqlite:///{root}/mine.db"
    made = optuna.create_study(storage=storage, study_name="Net", direction=direction)
    made.add_trials(trials)
    return storage


def trial(value: float, width: int = 5, act: str | None = "tanh", **more: Any) -> optuna.trial.FrozenTrial:
    known = {"width": (width, WIDTH), "act": (act, ACT), **more}
    known = {name: pair for name, pair in known.items() if pair[0] is not None}
    params, distributions = ({name: pair[i] for name, pair in known.items()} for i in (0, 1))
    return create_trial(value=value, params=params, distributions=distributions)


def fit(root: Path, storage: str, **options: Any) -> tuple[nets.Net, ArchitectureSearch]:
    given = {"monitor": "val_loss", "n_trials": 3, "sampler": "random", "trial": {"trainer": {"max_epochs": 1}}}
    search, module = ArchitectureSearch(SPACE, **merged({**given, "study": {"storage": storage}}, options)), nets.Net()
    nets.trainer(root, search, max_epochs=1).fit(module, *nets.loaders())
    return module, search


def test_a_trial_made_elsewhere_counts_and_wins(tmp_path: Path) -> None:
    module, search = fit(tmp_path, study(tmp_path, trial(1e-9), trial(2e-9, width=6)))
    assert len(search.optuna_study.trials) == 3
    assert search.best_architecture == {"width": 5, "act": "tanh"}
    assert search.best_score == 1e-9
    assert module.hparams["width"] == 5
    assert module.trainer.global_step == 3  # trained, from fresh weights
    assert [t.number for t in ranked(search.optuna_study)][:2] == [0, 1]


def test_it_is_not_tried_again(tmp_path: Path) -> None:
    storage = study(tmp_path, *[trial(1e-9, width=w, act=a) for w in range(2, 10) for a in ("relu", "tanh")][:15])
    _, search = fit(tmp_path, storage, n_trials=99)
    assert sum("seconds" in t.user_attrs for t in search.optuna_study.trials) == 1


def test_what_cannot_be_folded_is_ignored_with_one_warning(tmp_path: Path) -> None:
    foreign = create_trial(
        value=0.0,
        params={"width": 5, "act": "tanh", "depth": 2},
        distributions={"width": WIDTH, "act": ACT, "depth": IntDistribution(1, 3)},
    )
    outside = create_trial(
        value=0.0, params={"width": 50, "act": "tanh"}, distributions={"width": IntDistribution(2, 99), "act": ACT}
    )
    storage = study(tmp_path, trial(1e-9, act=None), trial(2e-9, act=None), foreign, outside)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, search = fit(tmp_path, storage, n_trials=2)
    [told] = [str(w.message) for w in caught if "ignored" in str(w.message)]
    assert "trials #0, #1: `act` is missing" in told
    assert "trial #2: `depth` is not in the space" in told
    assert "trial #3: `width` cannot be 50" in told
    assert len(search.optuna_study.trials) == 4 + 2
    assert search.state_dict()["trial"] in (4, 5)
    assert {t.number for t in ranked(search.optuna_study)} == {4, 5}
    assert leaderboard(search.optuna_study).splitlines()[-1] == "6 trials: 2 complete, 4 ignored (not of this space)."


@pytest.mark.parametrize("after", ["keep", "stop"])
def test_weights_of_a_trial_made_elsewhere_are_missed_before_any_training(tmp_path: Path, after: str) -> None:
    storage = study(tmp_path, trial(1e-9))
    with pytest.raises(SearchError, match=rf"`after='{after}'` needs the weights .*#0 of the study `Net` was made"):
        fit(tmp_path, storage, after=after)
    assert len(optuna.load_study(study_name="Net", storage=storage).trials) == 1


def test_repeated_blocks_and_the_surrogate(tmp_path: Path) -> None:
    space = {"layers": Repeat(1, 2, {"width": Int(2, 9)})}
    made = [
        create_trial(
            value=1e-9 * i,
            params={"layers.n": 1, "layers.0.width": i + 2},
            distributions={"layers.n": IntDistribution(1, 2), "layers.0.width": WIDTH},
        )
        for i in range(6)
    ]
    search, module = (
        ArchitectureSearch(space, monitor="val_loss", n_trials=7, study={"storage": study(tmp_path, *made)}),
        nets.Net(),
    )
    nets.trainer(tmp_path, search, max_epochs=1).fit(module, *nets.loaders())
    assert search.best_architecture == {"layers": [{"width": 2}]}
    assert search.optuna_study.trials[6].system_attrs["autoarch:proposal"]["origin"] == "bayesian"


def test_another_direction_is_refused(tmp_path: Path) -> None:
    storage = study(tmp_path, trial(1.0), direction="maximize")
    with pytest.raises(SearchError, match="mode 'max', given 'min'"):
        fit(tmp_path, storage)
