"""Masks of bits: the layout, the algebra, what is saved, and what is refused."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weight_lists import generator

from lightning_autoarch.core.errors import AutoArchError
from lightning_autoarch.prune import BitMask, magnitude_masks, mask, nm_masks

SHAPES = [(), (0,), (1,), (7,), (8,), (63,), (64,), (65,), (3, 0, 2), (5, 13), (4, 3, 3, 3), (1000,)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=generator(seed)) < 0.5


def test_bit_order() -> None:
    keep = torch.zeros(65, dtype=torch.bool)
    keep[[0, 9, 64]] = True
    assert BitMask.pack(keep).words.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]


def test_order_is_logical_whatever_the_strides() -> None:
    keep = drawn(5, 6)
    assert BitMask.pack(keep.t().contiguous().t()) == BitMask.pack(keep)
    assert BitMask.pack(keep.t()) == BitMask.pack(keep.t().contiguous()) != BitMask.pack(keep)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
class TestEveryShape:
    def test_pack_and_unpack(self, shape: tuple[int, ...]) -> None:
        keep = drawn(*shape)
        packed = BitMask.pack(keep)
        assert torch.equal(packed.unpack(), keep) and packed.unpack().shape == shape
        assert (packed.shape, packed.numel, packed.count()) == (shape, keep.numel(), int(keep.sum()))
        assert packed.words.numel() == 8 * ((keep.numel() + 63) // 64)
        data = np.packbits(keep.numpy().reshape(-1), bitorder="little").tobytes()
        assert packed.words.numpy().tobytes() == data.ljust(packed.words.numel(), b"\0")

    def test_algebra(self, shape: tuple[int, ...]) -> None:
        a, b = drawn(*shape), drawn(*shape, seed=1)
        p, q = BitMask.pack(a), BitMask.pack(b)
        for packed, plain in [(p & q, a & b), (p | q, a | b), (p ^ q, a ^ b), (~p, ~a)]:
            assert torch.equal(packed.unpack(), plain)
            BitMask(shape, packed.words)  # the padding is still 0
        assert torch.equal(p.unpack(), a)

    def test_ones_and_zeros(self, shape: tuple[int, ...]) -> None:
        ones, zeros = BitMask.ones(shape), BitMask.zeros(shape)
        assert (ones.count(), zeros.count()) == (ones.numel, 0)
        assert ~ones == zeros and ones.unpack().all() and not zeros.unpack().any()

    def test_saved_in_every_way(self, shape: tuple[int, ...]) -> None:
        packed = BitMask.pack(drawn(*shape))
        file = io.BytesIO()
        torch.save(packed.state(), file)
        file.seek(0)
        copies = [
            BitMask.from_state(torch.load(file, weights_only=True)),
            pickle.loads(pickle.dumps(packed)),
            copy.deepcopy(packed),
            packed.to("cpu"),
        ]
        assert all(each == packed and hash(each) == hash(packed) for each in copies)
        assert copies[2].words.data_ptr() != packed.words.data_ptr() or not packed.numel


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(0, 2**31))
def test_counts(shape: list[int], seed: int) -> None:
    keep = drawn(*shape, seed=seed)
    packed = BitMask.pack(keep)
    assert packed.count() == int(keep.sum()) == mask._count_ones(packed.words)
    assert packed.density() == (float(keep.double().mean()) if keep.numel() else 1.0)


def test_words_of_all_patterns_are_counted() -> None:
    words = torch.randint(256, (8 * 999,), dtype=torch.uint8, generator=generator(0))
    words[:8], words[8:16] = 255, 128
    bits = sum(value.bit_count() for value in words.tolist())
    assert BitMask((64 * 999,), words).count() == bits == mask._count_ones(words)


def test_equal_by_content_and_usable_as_a_key() -> None:
    keep = drawn(6, 5)
    a, b = BitMask.pack(keep), BitMask.pack(keep)
    keep[0, 0] ^= True
    assert a == b and {a: 1}[b] == 1
    assert a != BitMask.pack(keep)
    assert a != BitMask((5, 6), a.words) and a.digest() != BitMask((5, 6), a.words).digest()
    assert a != "mask"


def test_digest_is_what_it_was() -> None:
    # ranks and runs compare it, so it may not change with the version
    assert BitMask.pack(torch.arange(70) % 3 == 0).digest() == "5c70bcbf78deb6c93fc5a1b1af8cf2e0"


def test_frozen() -> None:
    packed = BitMask.ones((3,))
    for name, value in [("shape", (4,)), ("words", packed.words), ("anything", 1)]:
        with pytest.raises(AttributeError):
            setattr(packed, name, value)


def test_state_loads_where_the_package_cannot_be_imported(tmp_path: Path) -> None:
    packed = BitMask.pack(drawn(5, 13))
    torch.save({"masks": {"layer.weight": packed.state()}}, tmp_path / "state.pt")
    code = f"""
import sys
sys.modules["lightning_autoarch"] = None  # `import lightning_autoarch` raises
import torch
state = torch.load({str(tmp_path / "state.pt")!r}, weights_only=True)["masks"]["layer.weight"]
print(state["shape"], int(torch.tensor([v.bit_count() for v in state["words"].tolist()]).sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.split() == ["[5,", "13]", str(packed.count())], done.stderr


def test_words_at_an_odd_address_are_copied() -> None:
    packed = BitMask.pack(drawn(130))
    memory = torch.zeros(packed.words.numel() + 1, dtype=torch.uint8)
    memory[1:] = packed.words
    odd = BitMask((130,), memory[1:])
    assert odd == packed and odd.count() == packed.count() and odd.words.data_ptr() % 8 == 0


def words(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("shape", "given_words", "error", "message"),
    [
        ((3,), [7, 0, 0, 0, 0, 0, 0, 0], TypeError, "Expected `words` to be a torch.Tensor, got list"),
        ((3,), torch.zeros(8), TypeError, "Expected `words` to be a contiguous row of uint8, got torch.float32"),
        ((3,), torch.zeros(8, 1, dtype=torch.uint8), TypeError, r"contiguous row of uint8, got torch.uint8 \(8, 1\)"),
        ((3,), torch.zeros(16, dtype=torch.uint8)[::2], TypeError, "contiguous row"),
        ((3,), words(7), ValueError, r"Expected `words` of 8 bytes for shape \(3,\), got 1"),
        ((0,), words(0), ValueError, r"Expected `words` of 0 bytes for shape \(0,\), got 1"),
        ((3,), words(8, 0, 0, 0, 0, 0, 0, 0), ValueError, "the bits of `words` after the last element to be 0"),
        ((3,), words(7, 0, 0, 0, 0, 0, 0, 1), ValueError, "the bits of `words` after the last element to be 0"),
        ((8,), words(7, 1, 0, 0, 0, 0, 0, 0), ValueError, "the bits of `words` after the last element to be 0"),
        ((-3,), words(), ValueError, r"Expected `shape` of sizes >= 0, got \(-3,\)"),
        ((2.5,), words(0, 0, 0, 0, 0, 0, 0, 0), TypeError, r"Expected `shape` a sequence of ints, got \(2.5,\)"),
    ],
)
def test_bad_words(shape: tuple[int, ...], given_words: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BitMask(shape, given_words)
    with pytest.raises(error, match=message):
        BitMask.from_state({"shape": shape, "words": given_words})


@pytest.mark.parametrize("state", [None, {}, {"shape": [3]}, {"shape": [3], "words": words(), "more": 1}], ids=str)
def test_bad_state(state: object) -> None:
    with pytest.raises(TypeError, match="Expected the state of a BitMask, a dict of shape and words"):
        BitMask.from_state(state)


def test_bad_operands() -> None:
    packed = BitMask.ones((3,))
    with pytest.raises(ValueError, match=r"Expected a mask of shape \(3,\) on cpu, got \(4,\) on cpu"):
        packed & BitMask.ones((4,))
    with pytest.raises(TypeError, match="Expected a BitMask, got Tensor"):
        packed | packed.words
    with pytest.raises(TypeError, match="Expected `keep` to be a boolean tensor, got ndarray"):
        BitMask.pack(np.ones(3, dtype=bool))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected `keep` to be a boolean tensor"):
        BitMask.pack(packed.words)


@pytest.mark.parametrize("make", [BitMask.zeros, BitMask.ones])
@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((-1, 2), ValueError, r"Expected `shape` of sizes >= 0, got \(-1, 2\)"),
        ((-1, 0), ValueError, r"Expected `shape` of sizes >= 0, got \(-1, 0\)"),
        ((2.0,), TypeError, r"Expected `shape` a sequence of ints, got \(2.0,\)"),
        (3, TypeError, "Expected `shape` a sequence of ints, got 3"),
        ("ab", TypeError, "Expected `shape` a sequence of ints, got 'ab'"),
        (None, TypeError, "Expected `shape` a sequence of ints, got None"),
    ],
    ids=str,
)
def test_bad_shapes(make: Any, shape: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        make(shape)
    assert isinstance(raised.value, AutoArchError)


def test_shapes_of_numpy_are_shapes() -> None:
    packed = BitMask.zeros(np.array([2, 3]))  # type: ignore[arg-type]
    assert packed.shape == (2, 3) and [type(size) for size in packed.shape] == [int, int]
    assert BitMask.ones(torch.Size([2, 3])) == ~packed


def test_no_mask_has_memory_that_nobody_wrote() -> None:
    assert not hasattr(BitMask, "empty")
    for n in (1, 63, 65):
        for made in (magnitude_masks([torch.ones(n)], k=n // 2)[0], nm_masks([torch.ones(n)], 1, 1)[0]):
            BitMask((n,), made.words)  # raises where the padding is not 0


@pytest.mark.parametrize("packed", [BitMask.ones((3,)), BitMask.zeros((1,)), BitMask.zeros((0,))], ids=repr)
def test_neither_true_nor_false(packed: BitMask) -> None:
    for ask in (bool, lambda mask: not mask, lambda mask: mask and 1):
        with pytest.raises(TypeError, match=r"no truth value: use `mask\.count\(\) > 0`"):
            ask(packed)


@pytest.mark.gpu
def test_cuda_is_the_same() -> None:
    keep = drawn(777, 13)
    there, here = BitMask.pack(keep.cuda()), BitMask.pack(keep)
    assert there == here.to("cuda") and there.to("cpu") == here and there == here
    assert (there.count(), there.digest(), hash(there)) == (here.count(), here.digest(), hash(here))
    assert (~there).to("cpu") == ~here and torch.equal(there.unpack().cpu(), keep)
