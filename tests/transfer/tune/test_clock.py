"""The clock of thawing, without a Trainer: timetables and plateaus, counted by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.tune.clock import START, Clock, Moment, Plateau, Timetable
from lightning_autoarch.transfer.tune.thawing import block_times, check_room, phases_of, thaw_times


def at(step: int, batches: int = 4) -> Moment:
    """A moment of epochs with so many batches, a step each."""
    return Moment(step // batches, step, step / batches)


def waits(values: Sequence[float], rule: Plateau) -> list[tuple[float | None, int]]:
    """The best value and the count after each check, with nothing that thaws."""
    clock, found = Clock(rule), []
    for i, value in enumerate(values):
        clock.check(value, i)
        found.append((clock.best, clock.wait))
    return found


class TestTimetable:
    def test_phases_begin_at_their_steps(self) -> None:
        clock = Clock(Timetable((3, 5), "step"))
        phases = []
        for step in range(8):
            clock.advance(at(step))
            phases.append(clock.phase)
        assert phases == [0, 0, 0, 1, 1, 2, 2, 2]
        assert [clock.began(phase) for phase in range(4)] == [START, (0, 3, 0.75), (1, 5, 1.25), None]

    def test_several_may_be_due_at_once(self) -> None:
        clock = Clock(Timetable((1, 2, 3), "step"))
        assert clock.advance(at(2)) and clock.phase == 2
        assert not clock.advance(at(2))

    def test_epochs_count_from_where_the_timetable_says(self) -> None:
        clock = Clock(Timetable((1, 3)))
        clock.advance(Moment(5, 40, 5.25))
        assert clock.begun == [(1, 40, 1.0), (3, 40, 3.0)]

    def test_it_never_goes_back(self) -> None:
        clock = Clock(Timetable((1,)))
        clock.advance(at(4))
        assert not clock.advance(START) and clock.phase == 1

    def test_without_phases(self) -> None:
        assert not Clock().advance(at(99))


class TestPlateau:
    def test_what_is_an_improvement(self) -> None:
        values = [1.0, 0.875, 1.0, 0.75, 0.5]
        assert waits(values, Plateau(1)) == [(1.0, 0), (0.875, 0), (0.875, 1), (0.75, 0), (0.5, 0)]
        assert waits(values, Plateau(1, min_delta=0.25)) == [(1.0, 0), (1.0, 1), (1.0, 2), (1.0, 3), (0.5, 0)]
        assert waits(values, Plateau(1, "max")) == [(1.0, i) for i in range(5)]
        assert waits([-v for v in values], Plateau(1, "max"))[-1] == (-0.5, 0)

    def test_what_is_no_number_has_not_improved(self) -> None:
        assert waits([math.nan, math.inf, 2.0, math.nan], Plateau(1)) == [(None, 1), (None, 2), (2.0, 0), (2.0, 1)]
        assert waits([-math.inf, math.nan, -5.0], Plateau(1, "max")) == [(None, 1), (None, 2), (-5.0, 0)]

    def test_each_phase_waits_anew_for_the_best_of_all(self) -> None:
        clock = Clock(Plateau(2, patience=2))
        seen = []
        for epoch, value in enumerate([1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0]):
            clock.advance(Moment(epoch, 0, float(epoch)))
            clock.check(value, epoch)
            seen.append((clock.phase, clock.wait))
        assert seen == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 1)]
        assert [moment.epoch for moment in clock.begun] == [3, 6] and clock.best == 0.9

    def test_the_cap_counts_from_the_phase_before(self) -> None:
        clock = Clock(Plateau(3, patience=2, cap=4, unit="step"))
        for step in range(14):
            clock.advance(at(step))
            if step in (4, 5, 6):  # 1 after the first block thawed: an improvement, and two checks without
                clock.check(1.0, step)
        assert [moment.step for moment in clock.begun] == [4, 7, 11]

    def test_a_check_that_is_run_again_counts_once(self) -> None:
        clock = Clock(Plateau(1))
        for batches in (4, 8, 8, 8, 12):
            clock.check(1.0, batches)
        assert clock.wait == 2

    def test_a_timetable_hears_of_no_metric(self) -> None:
        clock = Clock(Timetable((1,)))
        clock.check(1.0, 1)
        assert (clock.best, clock.wait) == (None, 0)

    @given(
        values=st.lists(st.floats(allow_nan=True), min_size=1, max_size=30),
        cut=st.integers(0, 29),
        patience=st.integers(1, 3),
        mode=st.sampled_from(["min", "max"]),
        cap=st.none() | st.integers(1, 5),
    )
    def test_a_state_goes_on_from_anywhere(
        self, values: list[float], cut: int, patience: int, mode: str, cap: int | None
    ) -> None:
        rule = Plateau(4, mode, patience, 0.0, cap)
        whole, clock = Clock(rule), Clock(rule)
        for epoch, value in enumerate(values):
            if epoch == cut:
                state = json.loads(json.dumps(clock.state_dict()))
                clock = Clock(rule)
                clock.load_state_dict(state)
            for each in (whole, clock):
                each.advance(Moment(epoch, epoch, float(epoch)))
                each.check(value, epoch)
        assert clock == whole

    def test_a_state_of_another_module(self) -> None:
        clock = Clock(Timetable((1, 2)))
        clock.advance(at(99))
        with pytest.raises(TransferError, match=r"at most 1 phases of thawing .* got 2"):
            Clock(Timetable((1,))).load_state_dict(clock.state_dict())


class TestTimes:
    def test_every_so_many(self) -> None:
        assert block_times("gradual", 4, 2000, 500, "step") == [1500, 1000, 500, 0]
        assert block_times("gradual", 3, None, 2) == [4, 2, 0]
        assert block_times("lp_ft", 3, 2000, 500, "step") == [500, 500, 0]

    @pytest.mark.parametrize(
        ("strategy", "every", "message"),
        [
            ("gradual", 4, r"last of 3 blocks .* after 12 steps, got step 12 .* `every` of at most 3"),
            ("gradual", 99, "got step 297"),
            ("lp_ft", 12, "below the 12 steps of this fit, got 12"),
        ],
    )
    def test_beyond_the_fit(self, strategy: str, every: int, message: str) -> None:
        with pytest.raises(TransferError, match=message):
            block_times(strategy, 4, 12, every, "step")

    @given(blocks=st.integers(1, 20), every=st.integers(1, 20), length=st.integers(1, 200))
    def test_room_is_what_the_last_block_needs(self, blocks: int, every: int, length: int) -> None:
        last = max(time for time in block_times("gradual", blocks + 1, None, every) if time is not None)
        if last < length:
            check_room(blocks, every, length, "epoch")
        else:
            with pytest.raises(TransferError, match="before the end of the fit"):
                check_room(blocks, every, length, "epoch")

    def test_unfreeze_in_steps(self) -> None:
        times = thaw_times({"a": 0, "b": 0}, {"a"}, {40: {"a"}}, 50, "step")
        assert phases_of(times) == ({"a": 1, "b": 0}, (40,))
        with pytest.raises(TransferError, match="Expected the steps of `unfreeze` below 40, got 40"):
            thaw_times({"a": 0, "b": 0}, {"a"}, {40: {"a"}}, 40, "step")
