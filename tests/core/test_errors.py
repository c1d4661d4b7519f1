"""What a message shows of names that come from somebody else's file."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_autoarch.core.errors import AutoArchError, CheckpointError, did_you_mean, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("encoder.layers.0.weight", "encoder.layers.0.weight"),
        ("größe", "größe"),
        ("a\nb\r\x1b[2J\0", "a\\nb\\r\\x1b[2J\\x00"),
        ("\u202egnp", "\\u202egnp"),
        ("\ud800", "\\ud800"),
        (b"raw\xff", "rawÿ"),
        (7, "7"),
        (1 << 4000, "a number of 4001 bits"),
        (True, "True"),
        (None, "None"),
        (0.5, "0.5"),
        (("a",), "a tuple"),
        ({}, "a dict"),
        ([], "a list"),
        (object(), "an object"),
    ],
)
def test_shown(value: Any, text: str) -> None:
    assert shown(value) == text


def test_what_is_long_loses_its_middle() -> None:
    assert shown("a" * 100 + "b" * 100, limit=23) == "a" * 10 + "..." + "b" * 10
    assert len(shown("x" * 10_000_000)) <= 120
    assert len(shown(b"x" * 10_000_000)) <= 120


def test_nested_values_are_not_written_out() -> None:
    bomb: Any = ("x",)
    for _ in range(60):
        bomb = (bomb, bomb)
    assert shown(bomb) == "a tuple"


def test_a_message_cannot_steer_the_terminal() -> None:
    assert str(CheckpointError("one\n\ttwo \x1b]0;title\x07")) == "one\n\ttwo \\x1b]0;title\\x07"
    assert str(AutoArchError()) == ""


def test_suggestions_come_from_a_bounded_number_of_names() -> None:
    assert did_you_mean("widht", ["depth", "width"]) == " Did you mean `width`?"
    assert did_you_mean("a", ["a/b"]) == " Did you mean `a/b`?"
    assert did_you_mean("x" * 1000, ["x" * 999]) == ""
    names = (f"name{i}" for i in range(10**9))
    assert did_you_mean("zzz", names) == ""
    assert next(names) == "name10000"
