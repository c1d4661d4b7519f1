"""Sets of labels, layouts of tensors, rows of a plan: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_autoarch.structure.labels import LabelClash, LabelSets, rigid, squeezed, varying
from lightning_autoarch.structure.layout import ChannelLayout, join, reduced, reshaped
from lightning_autoarch.structure.resize_plan import ResizePlan


def row(*labels: int) -> np.ndarray:
    return np.array(labels, dtype=np.int64)


def test_sets_merge_and_keep_the_smallest_name() -> None:
    sets = LabelSets(6)
    sets.merge(row(3, 4), row(1, 5))
    sets.merge(row(5), row(0))
    assert sets.roots(np.arange(6)).tolist() == [0, 1, 2, 1, 0, 0]


def test_reasons_and_marks_go_along() -> None:
    sets = LabelSets(6)
    sets.fix(row(5), "first")
    sets.fix(row(4), "second")
    sets.mark(row(3), "summed")
    sets.merge(row(5, 4), row(2, 2))
    sets.merge(row(3), row(0))
    assert sets.reason(2) in ("first", "second") and sets.reason(0) is None
    assert sets.marks(0) == {"summed"} and sets.marks(2) == frozenset()
    assert sets.all_fixed(row(2, 4, 5)) and not sets.all_fixed(row(0, 2))


def test_known_channels_do_not_merge() -> None:
    sets = LabelSets(3, distinct=True)
    fresh = sets.fresh(2)
    sets.merge(fresh, row(0, 1))
    assert not sets.free(fresh)
    with pytest.raises(LabelClash):
        sets.merge(fresh[:1], fresh[1:])


def test_many_labels() -> None:
    sets = LabelSets(0)
    labels = sets.fresh(5000)
    sets.merge(labels[:-1], labels[1:])
    assert set(sets.roots(labels).tolist()) == {0} and sets.size == 5000 and sets.free(labels)


def test_squeezed_and_rigid() -> None:
    sets = LabelSets(6)
    heads = np.arange(6).reshape(2, 3)
    assert varying(squeezed(sets, heads)) == (0, 1)
    assert rigid(sets, heads, [1], "why").shape == (2, 1)
    assert sets.roots(np.arange(6)).tolist() == [0, 0, 0, 3, 3, 3]
    assert squeezed(sets, heads).tolist() == [[0], [3]]
    rigid(sets, heads, [0], "why")
    assert sets.reason(0) == sets.reason(3) == "why"


def test_reshaping_moves_labels() -> None:
    sets = LabelSets(8)
    flat = reshaped(sets, ChannelLayout((5, 2, 3), (row(0, 1).reshape(1, 2, 1),)), (5, 6), "here")
    assert [f.tolist() for f in flat] == [[[0, 0, 0, 1, 1, 1]]]
    (back,) = reshaped(sets, ChannelLayout((5, 6), flat), (5, 2, 3), "here")
    assert back.shape == (1, 2, 1)
    (cut,) = reshaped(sets, ChannelLayout((6,), (np.arange(6),)), (2, 3), "here")
    assert cut.tolist() == [[0, 1, 2], [3, 4, 5]]
    (same,) = reshaped(sets, ChannelLayout((1, 6, 1), (np.arange(6).reshape(1, 6, 1),)), (6,), "here")
    assert same.tolist() == list(range(6))


def test_two_kinds_of_channels_in_one_dimension_are_fixed() -> None:
    sets = LabelSets(5)
    both = ChannelLayout((2, 3), (row(0, 1).reshape(2, 1), row(2, 3, 4).reshape(1, 3)))
    assert reshaped(sets, both, (6,), "here") == ()
    assert "share one dimension at here" in (sets.reason(0) or "") and sets.reason(4) is not None


def test_joining_broadcasts() -> None:
    sets = LabelSets(6)
    heads = ChannelLayout((2, 2), (np.arange(4).reshape(2, 2),))
    (joined,) = join(sets, [heads, ChannelLayout((2, 1), (row(4, 5).reshape(2, 1),))], 2, "here")
    assert joined.shape == (2, 1) and sets.roots(np.arange(6)).tolist() == [0, 0, 2, 2, 0, 2]
    other = LabelSets(3)
    assert join(other, [ChannelLayout((3,), (np.arange(3),)), ChannelLayout((2, 3))], 2, "here") == ()
    assert "given from outside at here" in (other.reason(1) or "")
    lone = LabelSets(3)
    (kept,) = join(lone, [ChannelLayout((3,), (np.arange(3),)), ChannelLayout((2, 1))], 2, "here")
    assert kept.shape == (1, 3) and lone.reason(1) is None


def test_reducing_ends_a_factor() -> None:
    sets = LabelSets(8)
    left, ended = reduced(sets, (np.arange(3).reshape(3, 1), (3 + np.arange(4)).reshape(1, 4)), [1], "here")
    assert [f.shape for f in left] == [(3, 1)] and [f.shape for f in ended] == [(1, 4)]


def test_rows_of_a_plan() -> None:
    roots = row(0, 0, 1, 1, 0, 0, 1, 1)  # two blocks of two units of two
    removed, kept = ResizePlan({0: []}, 2).row(roots), ResizePlan({}, 2).row(roots)
    assert removed[0].tolist() == [2, 3, 6, 7] and kept[0].tolist() == list(range(8))
    index, labels = ResizePlan({0: [0, 2], 1: [1]}, 3).row(roots)
    assert index.tolist() == [0, 1, 0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert labels.tolist() == [0, 0, 2, 2, 1, 1, 0, 0, 2, 2, 1, 1]
