"""Which conditions of a study count as changed."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from lightning_autoarch import Int, SearchError, SearchSpace
from lightning_autoarch.search.conditions import CONDITIONS, condition_differences
from lightning_autoarch.search.opening import StudyDefinition, open_study

ARRAY = ["array", "float32", [3, 4], 2.0, 1.0, -1.0]


@pytest.mark.parametrize(
    ("stored", "given", "expected"),
    [
        ({"folds": 5}, {"folds": 5}, []),
        ({"folds": 5}, {"folds": 4}, ["`folds`: stored 5, given 4"]),
        ({"a": 1}, {"b": 1}, []),
        ({}, {"trainer.precision": 16}, ["`trainer.precision`: stored None, given 16"]),
        ({"trainer.precision": 16}, {}, []),  # the space sets it now
        ({"callbacks.0.class": "C"}, {}, ["`callbacks.0.class`: stored 'C', given None"]),
        ({"x": ARRAY}, {"x": [*ARRAY[:4], 1.001, -1.0]}, []),
        ({"x": ARRAY}, {"x": [*ARRAY[:4], 1.01, -1.0]}, ["`x`: other values, of the same shape (3, 4)"]),
        (
            {"x": ARRAY},
            {"x": ["array", "float32", [3, 5], 2.0, 1.0, -1.0]},
            ["`x`: stored an array (3, 4) of float32, given an array (3, 5) of float32"],
        ),
        ({"x": ARRAY}, {"x": 3}, ["`x`: stored an array (3, 4) of float32, given 3"]),
        ({"x": "a" * 99}, {"x": "b"}, [f"`x`: stored '{'a' * 59}..., given 'b'"]),
    ],
)
def test_differences(stored: dict[str, Any], given: dict[str, Any], expected: list[str]) -> None:
    assert condition_differences(stored, given) == expected


def opened(storage: Any, conditions: dict[str, Any] | None, **options: Any) -> optuna.Study:
    sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
    space = SearchSpace({"a": Int(1, 9)})
    return open_study(
        storage, StudyDefinition("s", space, "loss", "min", conditions=conditions, **options), sampler, pruner
    )


@pytest.fixture
def storage() -> Any:
    return optuna.storages.InMemoryStorage()


def score(study: optuna.Study) -> None:
    trial = study.ask()
    trial.set_user_attr("architecture", {"a": trial.suggest_int("a", 1, 9)})
    study.tell(trial, 1.0)


def test_a_study_with_scores_of_other_conditions_is_refused(storage: Any) -> None:
    score(opened(storage, {"folds": 5}))
    assert opened(storage, {"folds": 5}).user_attrs[CONDITIONS] == {"folds": 5}
    with pytest.raises(
        SearchError, match=r"`s`.*`folds`: stored 5, given 4.*`study.name`.*`study.accept_changes=True`"
    ):
        opened(storage, {"folds": 4})


def test_accepted_changes_are_told_and_kept(storage: Any) -> None:
    score(opened(storage, {"folds": 5}))
    with pytest.warns(UserWarning, match="`folds`: stored 5, given 4"):
        opened(storage, {"folds": 4}, accept_changes=True)
    opened(storage, {"folds": 4})


def test_without_a_score_conditions_may_change(storage: Any) -> None:
    opened(storage, {"folds": 5})
    assert opened(storage, {"folds": 4}).user_attrs[CONDITIONS] == {"folds": 4}


def test_a_study_of_an_earlier_version_is_adopted_with_a_warning(storage: Any) -> None:
    score(opened(storage, None))
    with pytest.warns(UserWarning, match="earlier version"):
        opened(storage, {"folds": 5})
    opened(storage, {"folds": 5})


def test_long_lists_of_differences_are_cut(storage: Any) -> None:
    score(opened(storage, {f"n{i}": i for i in range(20)}))
    with pytest.raises(SearchError, match=r"`n7`: stored 7, given 8; and 12 more\."):
        opened(storage, {f"n{i}": i + 1 for i in range(20)})
