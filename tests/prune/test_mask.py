"""`BitMask`: known bits, numpy's packbits as the oracle, hostile states; a saved one loads without the package."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_autoarch.prune import BitMask
from lightning_autoarch.prune.mask import _count_ones

SHAPES = [(), (0,), (3, 0), (1,), (7,), (8,), (64,), (65,), (3, 5, 7), (1000,)]


def random_keep(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_counts_and_words(shape: tuple[int, ...]) -> None:
    keep = random_keep(shape)
    mask = BitMask.pack(keep)
    assert torch.equal(mask.unpack(), keep)
    assert mask.count() == int(keep.sum()) == _count_ones(mask.words)
    assert (mask.shape, mask.numel) == (shape, math.prod(shape))
    packed = np.packbits(keep.numpy().reshape(-1), bitorder="little")
    assert bytes(mask.words.numpy()) == packed.tobytes().ljust(mask.words.numel(), b"\0")
    assert mask.words.numel() == 8 * -(-keep.numel() // 64)


@given(shape=st.lists(st.integers(0, 9), max_size=3).map(tuple), seed=st.integers(0, 99))
def test_algebra_against_booleans(shape: tuple[int, ...], seed: int) -> None:
    a, b = random_keep(shape, seed), random_keep(shape, seed + 1)
    A, B = BitMask.pack(a), BitMask.pack(b)
    results = [A & B, A | B, A ^ B, ~A, BitMask.ones(shape), BitMask.zeros(shape)]
    oracle = [a & b, a | b, a ^ b, ~a, torch.ones(shape).bool(), torch.zeros(shape).bool()]
    for result, expected in zip(results, oracle, strict=True):
        assert torch.equal(result.unpack(), expected)
        assert result == BitMask.pack(expected) and hash(result) == hash(BitMask.pack(expected))
        assert BitMask(shape, result.words) == result  # the padding is 0


def test_density_of_nothing_is_one() -> None:
    assert BitMask.zeros((0,)).density() == 1.0
    assert BitMask.pack(torch.tensor([True, False])).density() == 0.5


def test_equality_and_digest_know_the_shape() -> None:
    a, b = BitMask.ones((2, 3)), BitMask.ones((3, 2))
    assert a != b and a.digest() != b.digest()
    assert a != "a mask"
    assert BitMask.ones((2,)).digest() == BitMask.ones((2,)).digest()
    assert len({a, b, BitMask.ones((2, 3))}) == 2


def test_copies() -> None:
    mask = BitMask.pack(random_keep((70,)))
    assert pickle.loads(pickle.dumps(mask)) == mask == copy.deepcopy(mask)
    assert mask.to("cpu") is mask


def test_words_that_are_not_aligned_are_taken_in() -> None:
    memory = torch.zeros(17, dtype=torch.uint8)
    memory[1:9] = BitMask.ones((64,)).words
    assert BitMask((64,), memory[1:9]).count() == 64


@pytest.mark.parametrize(
    ("shape", "words", "error", "message"),
    [
        ((3,), torch.zeros(8), TypeError, "Expected `words` to be a contiguous row of uint8, got torch.float32"),
        ((3,), torch.zeros(16, dtype=torch.uint8), ValueError, r"Expected 8 bytes for shape \(3,\), got 16"),
        ((3,), torch.full((8,), 8, dtype=torch.uint8), ValueError, "bits behind the last element to be 0"),
        ((8,), torch.full((8,), 8, dtype=torch.uint8), ValueError, "bits behind the last element to be 0"),
    ],
)
def test_bad_words(shape: tuple[int, ...], words: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BitMask(shape, words)
    with pytest.raises(error, match=message):
        BitMask.from_state({"shape": list(shape), "words": words})


def test_other_bad_input() -> None:
    with pytest.raises(TypeError, match=r"boolean tensor, got torch\.float32"):
        BitMask.pack(torch.ones(3))
    with pytest.raises(ValueError, match=r"shape \(2,\) on cpu, got \(3,\) on cpu"):
        BitMask.ones((2,)) & BitMask.ones((3,))
    with pytest.raises(TypeError, match="Expected a BitMask, got Tensor"):
        BitMask.ones((2,)) | torch.ones(2)  # type: ignore[operator]
    with pytest.raises(TypeError, match="the state of a BitMask"):
        BitMask.from_state({"words": 3})


def test_a_saved_state_loads_where_the_package_is_not(tmp_path: Path) -> None:
    mask = BitMask.pack(random_keep((5, 30)))
    torch.save({"callbacks": {"masks": [mask.state()]}}, tmp_path / "state.pt")
    code = (
        "import sys; sys.modules['lightning_autoarch'] = None\n"
        "import torch; s = torch.load(sys.argv[1], weights_only=True)['callbacks']['masks'][0]\n"
        "print(s['shape'], int(s['words'].sum()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "state.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[5, 30] {int(mask.words.sum())}"
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)["callbacks"]["masks"][0]
    assert BitMask.from_state(loaded) == mask
