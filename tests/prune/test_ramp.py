"""A factor from 0 to 1: where it begins and ends, in steps or in fractions of a fit."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.schedule import Ramp, Step


@pytest.mark.parametrize(
    ("ramp", "in_fractions"),
    [
        (Ramp(Step(0), Step(10)), False),
        (Ramp(0.0, 1.0), True),
        (Ramp(0, 1), True),
        (Ramp(0.0, Step(10)), False),
        (Ramp(0, Step(0)), False),
    ],
)
def test_kind(ramp: Ramp, in_fractions: bool) -> None:
    assert ramp.in_fractions is in_fractions


def test_steps() -> None:
    factors = [Ramp(Step(2), Step(6)).factor(step, 0.99) for step in range(9)]
    assert factors == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_fractions() -> None:
    factors = [Ramp(0.25, 0.75).factor(1000, done / 8) for done in range(9)]
    assert factors == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_equal_ends_are_a_jump() -> None:
    assert [Ramp(Step(3), Step(3)).factor(step, 0.0) for step in (2, 3, 4)] == [0, 1, 1]
    assert [Ramp(1.0, 1.0).factor(0, done) for done in (0.99, 1.0)] == [0, 1]


@pytest.mark.parametrize("ends", [(Step(3), Step(2)), (0.5, 0.25), (-1, 0.5), (0, 2), (0.5, 1.5), (float("nan"), 1.0)])
def test_refuses_values(ends: Any) -> None:
    with pytest.raises(PruneValueError, match="ramp"):
        Ramp(*ends)


@pytest.mark.parametrize("ends", [(0.5, Step(1)), (Step(5), 0.5), ("0", 1), (True, 1), (None, 1.0)])
def test_refuses_kinds(ends: Any) -> None:
    with pytest.raises(PruneTypeError, match="ramp"):
        Ramp(*ends)
