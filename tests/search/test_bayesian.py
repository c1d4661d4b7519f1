"""Samplers in plain studies and with a space: restarts, conditions, running trials, hostile inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import Trial, TrialState

from lightning_autoarch.core.errors import SearchError, SpaceExhausted
from lightning_autoarch.search.bayesian import PROPOSAL, BayesianSampler, RandomArchitectureSampler, SeededByTrial
from lightning_autoarch.search.parameters import Categorical, Float, Int, Repeat
from lightning_autoarch.search.space import SearchSpace

SPACE = SearchSpace(
    {
        "layers": Repeat(1, 3, {"width": Int(8, 128, log=True), "act": ["relu", "gelu"]}),
        "norm": Categorical(["none", "batch"]),
        "momentum": Float(0.0, 1.0, when={"norm": ["batch"]}),
    }
)
CELLS = SearchSpace({f"edge{i}": ["none", "skip", "conv"] for i in range(3)})


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(level)


def _score(architecture: dict[str, Any]) -> float:
    widths = [layer["width"] for layer in architecture["layers"]]
    return -abs(sum(widths) - 100) / 100 - abs(architecture.get("momentum", 0.0) - 0.6)


def _run(
    make: Callable[[], BaseSampler], n: int, fresh: bool, space: SearchSpace = SPACE, **study_args: Any
) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=make(), **study_args)
    for _ in range(n):
        if fresh:
            study.sampler = make()
        trial = study.ask()
        study.tell(trial, _score(space.suggest(trial)))
    return study


def _bayesian(**kwargs: Any) -> Callable[[], BayesianSampler]:
    return lambda: BayesianSampler(space=SPACE, seed=4, max_feature_calls=16, **kwargs)


MAKERS: dict[str, Callable[[], BaseSampler]] = {
    "bayesian": _bayesian(features=lambda a: {"depth": len(a["layers"])}),
    "random": lambda: RandomArchitectureSampler(SPACE, seed=4),
    "nsga2": lambda: SeededByTrial(lambda seed: NSGAIISampler(seed=seed, population_size=4), seed=4),
    "tpe": lambda: SeededByTrial(lambda seed: TPESampler(seed=seed, n_startup_trials=4), seed=4),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_restarted_process_proposes_the_same(name: str) -> None:
    one, many = (_run(MAKERS[name], 12, fresh) for fresh in (False, True))
    assert [t.params for t in one.trials] == [t.params for t in many.trials]
    assert len({str(t.params) for t in one.trials}) > 6


@pytest.mark.parametrize("name", MAKERS)
def test_a_trial_interrupted_between_two_parameters_ends_up_the_same(name: str) -> None:
    whole, broken = _run(MAKERS[name], 9, False), _run(MAKERS[name], 8, False)
    trial = broken.ask()
    trial.suggest_int("layers.n", 1, 3)
    broken.sampler = MAKERS[name]()
    SPACE.suggest(Trial(broken, trial._trial_id))
    assert broken.trials[8].params == whole.trials[8].params


def test_seeds_differ_and_the_sequence_survives_sqlite(tmp_path: Any) -> None:
    memory = _run(_bayesian(), 9, False)
    stored = _run(_bayesian(), 9, True, storage=f"sqlite:///{tmp_path}/study.db")
    other = _run(lambda: BayesianSampler(space=SPACE, seed=5, max_feature_calls=16), 9, False)
    assert [t.params for t in memory.trials] == [t.params for t in stored.trials] != [t.params for t in other.trials]


def test_every_proposal_is_a_new_point_of_the_space_and_says_what_it_expects() -> None:
    study = _run(_bayesian(), 14, False)
    for trial in study.trials:
        assert SPACE.flatten(SPACE.architecture(trial.params)) == trial.params
        proposal = trial.system_attrs[PROPOSAL]
        assert proposal["origin"] == ("random" if trial.number < 5 else "bayesian")
        if trial.number >= 5:
            assert math.isfinite(proposal["expected"]["mean"]) and proposal["expected"]["std"] > 0
    assert len({str(sorted(t.params.items())) for t in study.trials}) == 14
    assert study.best_value > max(t.value or -9 for t in study.trials[:5])


def test_running_trials_are_not_proposed_again() -> None:
    study = _run(_bayesian(), 7, False)
    asked = [SPACE.suggest(study.ask()) for _ in range(4)]
    assert all(asked[i] != asked[j] for i in range(4) for j in range(i))


@pytest.mark.parametrize(
    "make", [lambda: BayesianSampler(space=CELLS, max_feature_calls=8), lambda: RandomArchitectureSampler(CELLS)]
)
def test_a_finite_space_is_proposed_to_the_last_point_and_then_exhausted(make: Callable[[], BaseSampler]) -> None:
    study = optuna.create_study(sampler=make())
    seen = set()
    for _ in range(27):
        trial = study.ask()
        architecture = CELLS.suggest(trial)
        seen.add(str(architecture))
        study.tell(trial, list(architecture.values()).count("conv"))
    assert len(seen) == 27
    with pytest.raises(SpaceExhausted, match="27"):
        CELLS.suggest(study.ask())


def test_infeasible_architectures_are_never_proposed_and_calls_are_bounded() -> None:
    calls: list[str] = []

    def features(architecture: dict[str, Any]) -> dict[str, float]:
        calls.append(str(architecture))
        return {"log_width": math.log(sum(layer["width"] for layer in architecture["layers"]))}

    feasible = lambda a: sum(layer["width"] for layer in a["layers"]) <= 60  # noqa: E731
    study = optuna.create_study(
        direction="maximize",
        sampler=BayesianSampler(space=SPACE, features=features, feasible=feasible, max_feature_calls=6),
    )
    for i in range(12):
        trial = study.ask()
        architecture = SPACE.suggest(trial)
        study.tell(trial, _score(architecture))
        assert feasible(architecture) and len(calls) <= 6 * max(0, i - 4) + i
    assert len(set(calls)) == len(calls)


def test_nothing_feasible_is_an_error_not_a_loop() -> None:
    study = optuna.create_study(sampler=RandomArchitectureSampler(SPACE, feasible=lambda a: False))
    with pytest.raises(SearchError, match="relax the constraints"):
        SPACE.suggest(study.ask())


def _conditional(trial: Trial) -> float:
    if trial.suggest_categorical("kind", ["linear", "deep"]) == "linear":
        return trial.suggest_float("slope", 0, 1) - 1
    depth = trial.suggest_int("depth", 1, 3)
    return sum(trial.suggest_float(f"w{i}", 0, 1) for i in range(depth)) / 3


def test_a_plain_study_with_conditions_is_learned_and_solved() -> None:
    study = optuna.create_study(direction="maximize", sampler=BayesianSampler(seed=1, max_feature_calls=32))
    study.optimize(_conditional, n_trials=25)
    assert study.best_value > 0.9
    names = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert set(names) == {"kind", "slope", "depth", "w0", "w1", "w2"}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(
    "outcome",
    ["constant", "failed", "nan", "mixed", "pruned", "huge", "noisy"],
)
def test_hostile_outcomes(direction: str, outcome: str) -> None:
    study = optuna.create_study(
        direction=direction, sampler=BayesianSampler(space=SPACE, n_startup=1, max_feature_calls=8)
    )
    for i in range(8):
        trial = study.ask()
        value = _score(SPACE.suggest(trial))
        kind = outcome if outcome != "mixed" else ["failed", "pruned", "noisy", "nan", "huge"][i % 5]
        _tell(study, trial, kind, value, i)
    assert len(study.trials) == 8
    assert all(SPACE.flatten(SPACE.architecture(t.params)) for t in study.trials)


def _tell(study: optuna.Study, trial: Trial, kind: str, value: float, i: int) -> None:
    if kind == "failed":
        study.tell(trial, state=TrialState.FAIL)
    elif kind == "nan":
        with pytest.warns(UserWarning, match="nan"):
            study.tell(trial, math.nan)
    elif kind == "pruned":
        trial.report(math.nan if i == 3 else value, step=1)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        if kind == "noisy":
            trial.set_user_attr("stderr", 0.5 * i)
        study.tell(trial, {"constant": 1.0, "huge": 1e30 * (-1) ** i}.get(kind, value))


def test_trivial_and_foreign_spaces() -> None:
    one = SearchSpace({"a": Int(3, 3), "b": ["x"]})
    study = optuna.create_study(sampler=BayesianSampler(space=one, n_startup=1))
    assert one.suggest(study.ask()) == {"a": 3, "b": "x"}
    study = optuna.create_study(sampler=BayesianSampler(space=SPACE, n_startup=1))
    for _ in range(4):  # trials of another space in the same study say nothing
        trial = study.ask()
        trial.suggest_categorical("norm", ["none", "batch"])
        study.tell(trial, 1.0)
    SPACE.suggest(study.ask())


def test_enqueued_values_are_kept_and_completed() -> None:
    study = _run(_bayesian(), 6, False)
    study.enqueue_trial({"layers.n": 3, "norm": "batch"})
    architecture = SPACE.suggest(study.ask())
    assert len(architecture["layers"]) == 3 and "momentum" in architecture


def test_bad_arguments_and_several_objectives() -> None:
    for arguments in ({"seed": -1}, {"n_startup": 0}, {"max_feature_calls": 1.5}):
        with pytest.raises(SearchError, match=next(iter(arguments))):
            BayesianSampler(**arguments)  # type: ignore[arg-type]
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=BayesianSampler(space=SPACE))
    with pytest.raises(SearchError, match="2"):
        SPACE.suggest(study.ask())
    study = optuna.create_study(sampler=BayesianSampler(space=SPACE, features=lambda a: {"x": math.nan}, n_startup=1))
    study.tell(_suggested(study), 1.0)
    with pytest.raises(SearchError, match="x=nan"):
        SPACE.suggest(study.ask())


def _suggested(study: optuna.Study) -> Trial:
    trial = study.ask()
    SPACE.suggest(trial)
    return trial


def test_global_state_is_left_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads())
    _run(_bayesian(), 8, False)
    assert torch.equal(before[0], torch.get_rng_state()) and torch.get_num_threads() == before[2]
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])
    assert torch.get_default_dtype() == torch.float32
