"""Checks of arguments: what passes, what does not, and the one wording of their errors."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from lightning_autoarch.core.checks import (
    check_choice,
    check_flag,
    check_items,
    check_mapping,
    check_number,
    check_text,
    check_whole,
    plain_number,
)
from lightning_autoarch.core.errors import AutoArchError, PruneTypeError, PruneValueError, TransferError


class TestWhole:
    @pytest.mark.parametrize("value", [0, 1, -5, 10**30])
    def test_any_int(self, value: int) -> None:
        assert check_whole(value, "n", TransferError) == value

    @pytest.mark.parametrize("value", [True, 2.0, "3", None, np.int64(3), torch.tensor(3)])
    def test_nothing_else(self, value: Any) -> None:
        with pytest.raises(TransferError, match="Expected `n` to be an int, got "):
            check_whole(value, "n", TransferError)

    @pytest.mark.parametrize(
        ("bounds", "text"),
        [
            ({"at_least": 1}, "an int >= 1, got 0."),
            ({"at_most": -1}, "an int <= -1, got 0."),
            ({"at_least": 1, "at_most": 3}, "an int in [1, 3], got 0."),
            ({"at_least": 2_000_000}, "an int >= 2000000, got 0."),
        ],
    )
    def test_bounds(self, bounds: dict[str, Any], text: str) -> None:
        with pytest.raises(TransferError, match=re.escape(text)):
            check_whole(0, "n", TransferError, **bounds)

    def test_bounds_are_included(self) -> None:
        assert [check_whole(n, "n", TransferError, at_least=1, at_most=2) for n in (1, 2)] == [1, 2]

    def test_the_error_of_a_wrong_type_may_be_another(self) -> None:
        with pytest.raises(PruneTypeError):
            check_whole("1", "n", PruneValueError, at_least=1, wrong_type=PruneTypeError)
        with pytest.raises(PruneValueError):
            check_whole(0, "n", PruneValueError, at_least=1, wrong_type=PruneTypeError)

    def test_what_else_is_accepted_and_what_to_do(self) -> None:
        with pytest.raises(TransferError) as error:
            check_whole(0, "every", TransferError, at_least=1, or_else="None", hint="leave it out to thaw nothing")
        assert str(error.value) == "Expected `every` to be an int >= 1 or None, got 0: leave it out to thaw nothing."


class TestNumber:
    @pytest.mark.parametrize("value", [0, 1, 0.5, np.float64(0.5)])
    def test_is_returned_as_given(self, value: float) -> None:
        assert check_number(value, "x", TransferError, at_least=0, at_most=1) is value

    @pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf, -math.inf, 10**400, 1j])
    def test_not_finite_or_no_number(self, value: Any) -> None:
        with pytest.raises(TransferError, match="Expected `x` to be a number, got "):
            check_number(value, "x", TransferError)

    @pytest.mark.parametrize(
        ("bounds", "text"),
        [
            ({"above": 0}, "a number > 0,"),
            ({"below": 0}, "a number < 0,"),
            ({"above": 0, "at_most": 1}, "a number in (0, 1],"),
            ({"at_least": 0.5, "below": 1}, "a number in [0.5, 1),"),
        ],
    )
    def test_bounds(self, bounds: dict[str, float], text: str) -> None:
        with pytest.raises(TransferError, match=re.escape(text)):
            check_number(0, "x", TransferError, **bounds)

    def test_a_long_value_is_cut(self) -> None:
        with pytest.raises(TransferError) as error:
            check_number("9" * 10_000, "x", TransferError)
        assert len(str(error.value)) < 200


def test_flag() -> None:
    assert check_flag(False, "log", TransferError) is False
    with pytest.raises(TransferError, match="Expected `log` to be True or False, got 1"):
        check_flag(1, "log", TransferError)


@pytest.mark.parametrize("value", ["", None, b"a", 3])
def test_text(value: Any) -> None:
    assert check_text("a", "name", TransferError) == "a"
    with pytest.raises(TransferError, match="Expected `name` to be a string that is not empty, got"):
        check_text(value, "name", TransferError)


@pytest.mark.parametrize("value", ["avg", None, True, ["min"], torch.ones(2)])
def test_choice(value: Any) -> None:
    assert check_choice("min", "mode", ("min", "max"), TransferError) == "min"
    with pytest.raises(TransferError, match="Expected `mode` to be one of 'min', 'max', got "):
        check_choice(value, "mode", ("min", "max"), TransferError)


def test_a_choice_of_another_type_is_another_choice() -> None:
    with pytest.raises(TransferError):
        check_choice(True, "bits", (1, 2), TransferError)


def test_mapping() -> None:
    assert check_mapping({"a": 1}, "scale", "{pattern: factor}", TransferError) == {"a": 1}
    with pytest.raises(TransferError, match=re.escape("Expected `scale` to be {pattern: factor}, got [1]")):
        check_mapping([1], "scale", "{pattern: factor}", TransferError)


@pytest.mark.parametrize("value", ["ab", {"a": 1}, 3, None, torch.ones(2), np.ones(2)])
def test_items(value: Any) -> None:
    assert check_items((1, 2), "rates", "numbers", TransferError) == [1, 2]
    with pytest.raises(TransferError, match="Expected `rates` to be a list of numbers, got"):
        check_items(value, "rates", "numbers", TransferError)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int32(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array(2), 2),
        (torch.tensor(0.25), 0.25),
        (torch.nn.Parameter(torch.tensor(1.5)), 1.5),
        (Fraction(1, 2), 0.5),
        (True, True),
    ],
)
def test_plain_number(value: Any, plain: float) -> None:
    found = plain_number(value)
    assert found == plain
    assert type(found) is type(plain)


def test_what_is_no_single_number_on_the_cpu_is_left_alone() -> None:
    for value in (torch.ones(2), np.ones(1), torch.ones((), device="meta"), "1", None):
        assert plain_number(value) is value
        with pytest.raises(AutoArchError):
            check_number(plain_number(value), "x", AutoArchError)
