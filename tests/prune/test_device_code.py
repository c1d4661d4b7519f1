"""The CUDA code, executed without a GPU: tests/emulation compiles the very .cu files for the host.

Everything is small there (tests/emulation/tuning.h): a few thousand elements are many chunks, blocks and digits. The
oracles are NumPy and torch, on the bits of the numbers. What only a GPU can show is not seen here: the compiler's
device code, memory that lies across 2^31 elements, speed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="the emulation is for g++ on Linux"
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]  # in the order of Dtype in csrc/prune.h
INTEGERS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
CHUNK = 1024  # tests/emulation/tuning.h
SOURCES = ["csrc/cuda/select.cu", "csrc/cuda/elementwise.cu", "csrc/cuda/patterns.cu", "csrc/cuda/norms.cu"]
SOURCES += ["csrc/cuda/count.cu", "tests/emulation/cases.cpp"]
SANITIZERS = {
    "plain": [],
    "thread": ["-O0", "-g1", "-fsanitize=thread", "-DEMULATION_TSAN"],
    "address": ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}

Array = np.ndarray[Any, Any]


def packed(bits: Array) -> bytes:
    """Whole words of a mask."""
    return np.packbits(bits, bitorder="little").tobytes().ljust((len(bits) + 63) // 64 * 8, b"\0")


def unpacked(mask: bytes, n: int) -> Array:
    """(n,) of bool; what lies behind the last element of a mask is 0."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
    assert not bits[n:].any()
    return bits[:n].astype(bool)


class Answer:
    """What a case wrote, read front to back."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        taken, self.data = bytes(self.data[:size]), self.data[size:]
        assert len(taken) == size
        return taken

    def numbers(self, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}q", self.take(8 * count)))

    def number(self) -> int:
        return self.numbers(1)[0]

    def tensors(self, like: Sequence[Tensor]) -> list[Tensor]:
        return [self.tensor(tensor) for tensor in like]

    def tensor(self, like: Tensor) -> Tensor:
        raw = bytearray(self.take(like.untyped_storage().nbytes()))
        flat = torch.frombuffer(raw, dtype=like.dtype) if raw else torch.empty(0, dtype=like.dtype)
        return torch.as_strided(flat, like.shape, like.stride(), like.storage_offset())

    def mask(self, n: int) -> bytes:
        return self.take((n + 63) // 64 * 8)

    def bits(self, n: int) -> Array:
        return unpacked(self.mask(n), n)


@dataclass
class Case:
    """An operation and its arguments, as bytes, and what is to be done with the answer."""

    operation: int
    dtype: torch.dtype = torch.float32
    check: Callable[[Answer], None] | None = None
    error: str = ""
    parts: list[bytes] = field(default_factory=list)

    def numbers(self, *values: float) -> Case:
        self.parts += [struct.pack("<d" if isinstance(value, float) else "<q", value) for value in values]
        return self

    def tensors(self, tensors: Sequence[Tensor]) -> Case:
        self.numbers(len(tensors))
        for tensor in tensors:
            storage = bytes(tensor.untyped_storage().tolist())
            layout = [] if tensor.is_contiguous() else list(zip(tensor.shape, tensor.stride(), strict=True))
            self.numbers(len(storage)).parts.append(storage)
            self.numbers(tensor.storage_offset(), tensor.numel(), len(layout), *itertools.chain(*layout))
        return self

    def bits(self, masks: Sequence[Array]) -> Case:
        self.parts += [packed(mask) for mask in masks]
        return self

    @property
    def request(self) -> bytes:
        return struct.pack("<qq", self.operation, DTYPES.index(self.dtype)) + b"".join(self.parts)


@dataclass
class Emulation:
    program: Path

    def start(self, cases: Sequence[Case]) -> subprocess.CompletedProcess[bytes]:
        request = struct.pack("<q", len(cases)) + b"".join(case.request for case in cases)
        options = {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66", "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
        return subprocess.run(
            [self.program], input=request, capture_output=True, env=os.environ | options, check=False, timeout=600
        )

    def run(self, cases: Sequence[Case]) -> None:
        done = self.start(cases)
        assert (done.returncode, done.stderr.decode()) == (0, "")
        answer = Answer(memoryview(done.stdout))
        for case in cases:
            worked = answer.number()
            if not worked:
                error = answer.take(answer.number()).decode()
                assert case.error and case.error in error
            else:
                assert not case.error and case.check
                case.check(answer)
        assert not answer.data


def build(sanitizer: str, checkout: Path, into: Path) -> Emulation:
    common = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"]
    here = checkout / "tests/emulation"
    flags = ["-ffp-contract=off", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-include", here / "cuda_runtime.h"]
    flags += [f"-I{here}", f"-I{checkout / 'csrc'}", f'-DAUTOARCH_CUDA_TUNING="{here / "tuning.h"}"']
    commands, objects = [], []
    for source in [checkout / name for name in SOURCES] + [here / "emulation.cpp"]:
        objects.append(into / f"{source.name}.o")
        instrumented = [*flags, *SANITIZERS[sanitizer], "-x", "c++"]
        alone = ["-DEMULATION_TSAN"] if sanitizer == "thread" else []
        chosen = alone if source.name == "emulation.cpp" else instrumented
        commands.append([*common, *chosen, "-c", source, "-o", objects[-1]])
    commands.append(["g++", *SANITIZERS[sanitizer], *objects, "-pthread", "-o", into / "cases"])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return Emulation(into / "cases")


@pytest.fixture(scope="module")
def emulations(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Emulation]:
    """Builds each kind at its first use."""
    checkout, built = Path(__file__).resolve().parents[2], {}

    def emulation(sanitizer: str) -> Emulation:
        if sanitizer not in built:
            built[sanitizer] = build(sanitizer, checkout, tmp_path_factory.mktemp(sanitizer))
        return built[sanitizer]

    return emulation


@pytest.fixture(scope="module")
def emulation(emulations: Callable[[str], Emulation]) -> Emulation:
    return emulations("plain")


def bits_of(tensor: Tensor) -> Array:
    """(n,) the bits of the numbers in logical order."""
    size = tensor.element_size()
    flat = tensor.contiguous().flatten()
    return flat.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[size]).numpy().view(INTEGERS[size])


def keys_of(tensor: Tensor) -> Array:
    bits = bits_of(tensor)
    return (bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)).astype(np.uint64)


def same(a: Tensor, b: Tensor) -> bool:
    return bool((bits_of(a) == bits_of(b)).all())


def clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies with the same geometry in a storage of their own."""
    copies = []
    for tensor in tensors:
        flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage().clone())
        copies.append(torch.as_strided(flat, tensor.shape, tensor.stride(), tensor.storage_offset()))
    return copies


def split(values: Array, tensors: Sequence[Tensor]) -> list[Array]:
    return np.split(values, np.cumsum([tensor.numel() for tensor in tensors])[:-1]) if tensors else []


def select_case(
    tensors: Sequence[Tensor],
    remove: float,  # the share of the candidates, or their number
    *,
    given: Sequence[Array] | None = None,
    regrow: bool = False,
    keep_nan: bool = False,
    zero: bool = True,
    out: bool = True,
    in_place: bool = False,
    collect_all: int = 512,
    sample: int = 1024,
    scratch: int = 64 << 10,
    deviations: float = 3.0,
    expect_waits: int = 0,
) -> Case:
    dtype = tensors[0].dtype
    keys = np.concatenate([keys_of(tensor) for tensor in tensors])
    candidates = np.concatenate(given).astype(bool) if given is not None else np.ones(len(keys), bool)
    candidates = ~candidates if regrow else candidates
    k = int(remove * candidates.sum()) if isinstance(remove, float) else remove

    def check(answer: Answer) -> None:
        key, kept_equal, numbers, nan_array, bytes_used, waits = answer.numbers(6)
        changed = answer.tensors(tensors)
        masks = [answer.mask(tensor.numel()) for tensor in tensors if out]
        assert waits == (expect_waits or waits)
        weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        assert bytes_used <= max(weights // 50, scratch)
        nan = candidates & (keys > int(keys_of(torch.tensor([torch.inf], dtype=dtype))[0]))
        first = next((i for i, part in enumerate(split(nan, tensors)) if part.any()), -1)
        if (not keep_nan and first >= 0) or k > (candidates & ~nan).sum():
            assert (key, kept_equal, nan_array) == (0, 0, -1 if keep_nan else first)
            assert numbers == ((candidates & ~nan).sum() if keep_nan else 0)
            assert all(same(a, b) for a, b in zip(changed, tensors, strict=True))
            untouched = [packed(mask) for mask in given or []] if in_place else [b"\xcd" * len(mask) for mask in masks]
            assert masks == untouched
            return
        order = np.lexsort((-np.arange(len(keys)), keys))
        removed = np.zeros(len(keys), bool)
        removed[order[candidates[order]][:k]] = True
        assert numbers == (candidates & ~nan).sum() and nan_array == -1
        assert key == (keys[removed].max() if k else 0)
        assert kept_equal == ((candidates & ~removed & (keys == key)).sum() if k else 0)
        if not out:
            return
        wanted = (candidates | regrow) & ~removed
        bits = [unpacked(mask, tensor.numel()) for mask, tensor in zip(masks, tensors, strict=True)]
        assert (np.concatenate(bits) == wanted).all()
        for after, before, kept in zip(changed, tensors, split(wanted, tensors), strict=True):
            expected = np.where(kept | (not zero), bits_of(before), 0)
            assert (bits_of(after) == expected).all()

    case = Case(0, dtype, check).tensors(tensors)
    case.numbers(given is not None, in_place, out, regrow, k, keep_nan, zero, collect_all, sample, scratch, deviations)
    return case.bits(given or [])


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def hard_inputs(dtype: torch.dtype, n: int = 5000) -> dict[str, Tensor]:
    x = normal(n, dtype=dtype, seed=1)
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(2))
    info = torch.finfo(dtype)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, info.tiny, info.tiny / 4, info.max, 1.0], dtype=dtype)
    return {
        "normal": x,
        "sorted": x.sort().values,
        "all equal": torch.full((n,), -1.5, dtype=dtype),
        "two values": torch.where(uniform < 0.5, 1.0, -2.0).to(dtype),
        "nine in ten zero": torch.where(uniform < 0.9, 0.0, x.double()).to(dtype),
        "heavy tails": (1 / (uniform + 1e-6)).to(dtype),
        "few values": (x.double() * 3).round().to(dtype),
        "special": special.repeat(n // 8 + 1)[:n],
    }


def list_of(dtype: torch.dtype) -> list[Tensor]:
    """Sizes around words, chunks and packs, a storage that is not aligned, strides."""
    sizes = [1, 0, 31, 32, 33, 63, 64, 65, 127, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 77]
    tensors = [normal(n, dtype=dtype, seed=n) for n in sizes]
    tensors.append(normal(400, dtype=dtype, seed=3)[1:])
    tensors.append(normal(40, 37, dtype=dtype, seed=4).t())
    tensors.append(normal(3, 5, 4, 7, dtype=dtype, seed=5).contiguous(memory_format=torch.channels_last))
    tensors.append(normal(90, 20, dtype=dtype, seed=6)[::2, 1::3])
    tensors.append(torch.tensor(0.25, dtype=dtype))
    return tensors


def random_masks(tensors: Sequence[Tensor], share: float = 0.7) -> list[Array]:
    generator = np.random.default_rng(0)
    return [generator.random(tensor.numel()) < share for tensor in tensors]


ROUTES: dict[str, dict[str, Any]] = {
    "bracket": {"sample": 4096},
    "everything collected": {"collect_all": 1 << 30},
    "bracket misses": {"deviations": 0.0},  # it has no width
    "buffer overflows": {"collect_all": 1 << 30, "scratch": 10 << 10},
    "sample of two": {"sample": 2},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestSelect:
    def test_hard_inputs(self, emulation: Emulation, dtype: torch.dtype) -> None:
        shares = (0.01, 0.5, 0.97)
        emulation.run([select_case([x], share) for x in hard_inputs(dtype).values() for share in shares])

    @pytest.mark.parametrize("route", ROUTES)
    def test_every_route_gives_the_same_answer(self, emulation: Emulation, dtype: torch.dtype, route: str) -> None:
        inputs = hard_inputs(dtype, 3000)
        lists = [[inputs[name]] for name in ("normal", "few values", "special")]
        emulation.run([select_case(tensors, share, **ROUTES[route]) for tensors in lists for share in (0.02, 0.6)])

    @pytest.mark.parametrize(("route", "waits"), [("bracket", 1), ("bracket misses", 2), ("buffer overflows", 2)])
    def test_it_is_the_route_that_was_meant(
        self, emulation: Emulation, dtype: torch.dtype, route: str, waits: int
    ) -> None:
        if dtype in (torch.bfloat16, torch.float16) and route == "bracket misses":
            waits = 0  # many are equal: it may hit
        x = normal(9000, dtype=dtype)
        emulation.run([select_case([x], 0.4123, expect_waits=waits, **ROUTES[route])])

    def test_lists_views_and_layouts(self, emulation: Emulation, dtype: torch.dtype) -> None:
        tensors = list_of(dtype)
        rounded = [(tensor.double() * 2).round().to(dtype) for tensor in tensors]  # ties across arrays
        cases = [select_case(list_of(dtype), share) for share in (0.3, 0.9)]
        cases += [select_case([r if r.is_contiguous() else t for r, t in zip(rounded, tensors, strict=True)], 0.5)]
        cases += [select_case(rounded, share) for share in (0.1, 0.5)]
        emulation.run(cases)

    def test_masks_and_regrowth(self, emulation: Emulation, dtype: torch.dtype) -> None:
        tensors = list_of(dtype)
        ties = [torch.zeros_like(tensor) for tensor in tensors]
        masks = random_masks(tensors)
        choices = itertools.product((tensors, ties), (False, True), (False, True))
        cases = [select_case(x, 0.4, given=masks, regrow=regrow, in_place=place) for x, regrow, place in choices]
        emulation.run(cases)

    def test_bits_or_threshold_alone(self, emulation: Emulation, dtype: torch.dtype) -> None:
        x = [normal(3000, dtype=dtype)]
        emulation.run([select_case(x, 0.5, zero=False), select_case(x, 0.5, zero=False, out=False)])

    def test_none_and_all(self, emulation: Emulation, dtype: torch.dtype) -> None:
        tensors = list_of(dtype)
        masks = random_masks(tensors)
        cases = [select_case(tensors, remove) for remove in (0, 0.0, 1, 1.0)]
        cases += [select_case(tensors, share, given=masks, regrow=regrow) for share in (0.0, 1.0) for regrow in (0, 1)]
        emulation.run(cases)

    def test_nan(self, emulation: Emulation, dtype: torch.dtype) -> None:
        tensors = list_of(dtype)
        for i, place in ((11, 900), (12, 1500), (14, 7)):
            tensors[i][np.unravel_index(place, tensors[i].shape)] = torch.nan
        n = sum(tensor.numel() for tensor in tensors)
        hidden = [np.ones(tensor.numel(), bool) for tensor in tensors]
        hidden[11][900] = False
        cases = [select_case(tensors, 0.5), select_case(tensors, 0.5, given=hidden), select_case(tensors, 0)]
        cases += [select_case(tensors, k, keep_nan=True) for k in (0.5, n - 2, n - 1, n)]
        emulation.run(cases)


class TestSelectLists:
    def test_a_cut_at_the_end_of_a_chunk(self, emulation: Emulation) -> None:
        ones = [torch.ones(CHUNK + 3), torch.ones(2 * CHUNK), torch.ones(5)]
        kept = [CHUNK + place for place in (-1, 0, 1, 2, 3, 4)] + [2 * CHUNK + 3, 3 * CHUNK + 3, 3 * CHUNK + 7]
        emulation.run([select_case(ones, 3 * CHUNK + 8 - k) for k in kept])

    def test_a_bracket_of_one_value_that_is_too_low(self, emulation: Emulation) -> None:
        x = torch.cat([torch.ones(3000), torch.full((1000,), 2.0), torch.full((1000,), 3.0)])
        orders = [torch.randperm(5000, generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
        emulation.run([select_case([x[order]], 0.7, sample=2, deviations=0.0) for order in orders])

    def test_many_arrays(self, emulation: Emulation) -> None:
        sizes = np.random.default_rng(1).integers(0, 90, 250)
        tensors = [normal(int(n), seed=i) for i, n in enumerate(sizes)]
        emulation.run([select_case(tensors, 0.5), select_case([torch.ones_like(x) for x in tensors], 0.5)])

    def test_nothing(self, emulation: Emulation) -> None:
        emulation.run([select_case([torch.empty(0)], 0), select_case([torch.empty(0), torch.ones(1)], 1)])

    def test_more_than_there_is(self, emulation: Emulation) -> None:
        x = [normal(100)]
        over = select_case(x, 101)
        over.error = "Expected `remove` in [0, 100], got 101."
        masked = select_case(x, 51, given=[np.arange(100) < 50])
        masked.error = "Expected `remove` in [0, 50], got 51."
        no_bits = select_case(x, 5, out=False)
        no_bits.error = "Expected `out`"
        emulation.run([over, masked, no_bits])

    def test_random(self, emulation: Emulation) -> None:
        generator = np.random.default_rng(2)
        cases = []
        for seed in range(60):
            dtype = DTYPES[seed % 4]
            tensors = [normal(int(n), dtype=dtype, seed=seed) for n in generator.integers(1, 1500, 1 + seed % 3)]
            if seed % 5 == 0:
                tensors = [(x.double() * 1.5).round().to(dtype) for x in tensors]
            given = random_masks(tensors, generator.random()) if seed % 2 else None
            route = list(ROUTES.values())[seed % len(ROUTES)]
            cases.append(select_case(tensors, generator.random(), given=given, regrow=seed % 4 == 3, **route))
        emulation.run(cases)


def apply_case(tensors: Sequence[Tensor], masks: Sequence[Array]) -> Case:
    def check(answer: Answer) -> None:
        for after, before, mask in zip(answer.tensors(tensors), tensors, masks, strict=True):
            assert (bits_of(after) == np.where(mask, bits_of(before), 0)).all()

    return Case(1, tensors[0].dtype, check).tensors(tensors).bits(masks)


def soft_case(tensors: Sequence[Tensor], amounts: Sequence[float]) -> Case:
    def check(answer: Answer) -> None:
        for after, before, amount in zip(answer.tensors(tensors), tensors, amounts, strict=True):
            work = torch.promote_types(before.dtype, torch.float32)
            left = before.to(work).abs() - torch.tensor(amount, dtype=work)
            shrunk = torch.where(left > 0, left, 0).to(before.dtype)
            signed = torch.where((before < 0) & (left > 0), -shrunk, shrunk)
            assert same(after, torch.where(before.isnan(), before, signed))

    return Case(2, tensors[0].dtype, check).tensors(tensors).numbers(*amounts)


def nm_case(tensor: Tensor, dim: int, n: int, m: int) -> Case:
    keys = keys_of(tensor).reshape(tensor.shape)
    outer, length = int(np.prod(tensor.shape[:dim])), tensor.shape[dim]
    inner = tensor.numel() // (outer * length)

    def check(answer: Answer) -> None:
        grouped = keys.reshape(outer, length // m, m, inner)
        before = grouped.max() - grouped if grouped.size else grouped
        rank = before.argsort(axis=2, kind="stable").argsort(axis=2, kind="stable")
        assert (answer.bits(tensor.numel()) == (rank < n).flatten()).all()

    return Case(3, tensor.dtype, check).tensors([tensor]).numbers(outer, length, inner, n, m)


def transposable_patterns() -> Array:
    """(90, 4, 4) in the order of csrc/patterns.h."""
    rows = [[i in pair for i in range(4)] for pair in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]]
    every = np.array([np.array(rows)[list(four)] for four in itertools.product(range(6), repeat=4)])
    return every[(every.sum(axis=1) == 2).all(axis=1)]


def transposable_case(tensor: Tensor) -> Case:
    *batch, rows, columns = tensor.shape

    def check(answer: Answer) -> None:
        got = answer.bits(tensor.numel()).reshape(-1, rows // 4, 4, columns // 4, 4)
        magnitudes = tensor.abs().double().numpy().reshape(got.shape)
        patterns = transposable_patterns()
        for b, r, c in np.ndindex(got.shape[0], got.shape[1], got.shape[3]):
            tile = magnitudes[b, r, :, c, :]
            sums = [sum(tile[pattern].tolist()) for pattern in patterns]
            assert (got[b, r, :, c, :] == patterns[int(np.argmax(sums))]).all()

    return Case(4, tensor.dtype, check).tensors([tensor]).numbers(int(np.prod(batch)), rows, columns)


def groups_case(tensor: Tensor, dim: int, p: int, amount: float) -> Case:
    outer, length = int(np.prod(tensor.shape[:dim])), tensor.shape[dim]
    inner = tensor.numel() // (outer * length)

    def norm(values: Array) -> float:
        terms = values if p == 1 else values * values
        lanes = np.zeros(32)
        for row in np.split(np.pad(terms, (0, -len(terms) % 32)), max(1, -(-len(terms) // 32))):
            lanes = lanes + row if len(row) else lanes
        for offset in (16, 8, 4, 2, 1):
            lanes = lanes[:offset] + lanes[offset : 2 * offset]
        return float(lanes[0] if p == 1 else np.sqrt(lanes[0]))

    def check(answer: Answer) -> None:
        norms = np.frombuffer(answer.take(8 * length))
        view = tensor.double().reshape(outer, length, inner)
        assert norms.tolist() == [norm(view[:, g].abs().flatten().numpy()) for g in range(length)]
        factors = torch.tensor([1 - amount / x if x > amount else 0.0 for x in norms], dtype=torch.float64)
        work = torch.promote_types(tensor.dtype, torch.float32)
        scaled = (view * factors[:, None]).to(work).to(tensor.dtype)
        expected = torch.where(factors[:, None] == 0, torch.zeros_like(scaled), scaled)
        assert same(answer.tensor(tensor), expected)

    return Case(5, tensor.dtype, check).tensors([tensor]).numbers(outer, length, inner, p, amount)


def count_case(tensor: Tensor) -> Case:
    def check(answer: Answer) -> None:
        assert answer.number() == int(torch.count_nonzero(tensor))

    return Case(6, tensor.dtype, check).tensors([tensor])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestOtherOperations:
    def test_apply_masks(self, emulation: Emulation, dtype: torch.dtype) -> None:
        special = [hard_inputs(dtype)["special"], torch.full((100,), torch.nan, dtype=dtype)]
        lists = [list_of(dtype), special]
        emulation.run([apply_case(tensors, random_masks(tensors, share)) for tensors in lists for share in (0, 0.5, 1)])

    def test_soft_threshold(self, emulation: Emulation, dtype: torch.dtype) -> None:
        special = [*hard_inputs(dtype, 600).values(), torch.tensor([torch.nan, 2.0], dtype=dtype)]
        amounts = np.random.default_rng(0).random(len(list_of(dtype))).tolist()
        cases = [soft_case(list_of(dtype), amounts), soft_case(special, [0.1] * 9), soft_case(special, [0.0] * 9)]
        emulation.run([*cases, soft_case(special, [float("inf")] * 9)])

    def test_nm_mask(self, emulation: Emulation, dtype: torch.dtype) -> None:
        x = (normal(12, 8, 16, dtype=dtype).double() * 2).round().to(dtype)
        x[0, 0, :3] = torch.nan
        choices = [(2, 2, 4), (2, 1, 4), (2, 4, 4), (1, 2, 4), (0, 1, 3), (2, 3, 8), (2, 1, 1), (2, 5, 16), (0, 2, 4)]
        cases = [nm_case(x, *choice) for choice in choices]
        cases += [nm_case(x.permute(2, 0, 1), 2, 2, 4), nm_case(normal(5, 64, dtype=dtype), 1, 20, 64)]
        cases += [nm_case(normal(3001, 4, dtype=dtype)[1:], 1, 2, 4), nm_case(normal(9, 4, 7, dtype=dtype), 1, 2, 4)]
        emulation.run(cases)

    def test_transposable_mask(self, emulation: Emulation, dtype: torch.dtype) -> None:
        x = normal(2, 12, 20, dtype=dtype)
        ties = (x.double() * 1.5).round().to(dtype)
        wide = normal(8, 64, dtype=dtype)
        cases = [transposable_case(tensor) for tensor in (x, ties, wide, wide.t(), torch.zeros_like(x))]
        emulation.run(cases)

    def test_groups(self, emulation: Emulation, dtype: torch.dtype) -> None:
        x = normal(6, 7, 15, dtype=dtype)
        cases = [groups_case(x, dim, p, amount) for dim in range(3) for p, amount in ((1, 20.0), (2, 9.0), (2, 0.0))]
        cases += [groups_case(x.permute(1, 2, 0), 1, 2, 5.0), groups_case(normal(5000, 3, dtype=dtype), 1, 2, 50.0)]
        emulation.run(cases)

    def test_count_nonzero(self, emulation: Emulation, dtype: torch.dtype) -> None:
        inputs = [*hard_inputs(dtype).values(), torch.empty(0, dtype=dtype), torch.ones(1, dtype=dtype)]
        emulation.run([count_case(x) for x in inputs])


class TestHostFunctions:
    @pytest.mark.parametrize(
        "sizes",
        [[1], [0, 5, 0, CHUNK + 1], [CHUNK] * 300, [7, -9, 2**40, -(2**35), 0, 3], [-1, -CHUNK, -5000], [0, 0]],
        ids=str,
    )
    def test_batches(self, emulation: Emulation, sizes: list[int]) -> None:
        def check(answer: Answer) -> None:
            total, count = answer.numbers(2)
            rows = [answer.numbers(8) for _ in range(count)]
            chunks = [-(-abs(n) // CHUNK) for n in sizes]
            starts = np.concatenate([[0], np.cumsum(chunks)])
            assert total == sum(chunks)
            assert sorted(row[5] for row in rows) == [i for i, n in enumerate(sizes) if n]
            for batch, group in itertools.groupby(rows, key=lambda row: row[0]):
                first = 0
                members = list(group)
                assert len(members) == 1 or all(sizes[row[5]] > 0 for row in members), batch
                for _, _, n, start, number, i, array, found in members:
                    assert (n, start, number, array, found) == (abs(sizes[i]), first, starts[i], i, 1)
                    first += chunks[i]
                assert {row[1] for row in members} == {first}

        emulation.run([Case(7, check=check).numbers(len(sizes), *sizes)])

    def test_ranks_of_the_sample(self, emulation: Emulation) -> None:
        def case(expected: list[int], *values: float) -> Case:
            def check(answer: Answer) -> None:
                assert answer.numbers(2) == expected

            return Case(8, check=check).numbers(*values)

        emulation.run(
            [
                case([442, 558], 1000, 10**9, 5 * 10**8, 1.0, 3.4),  # 500 -+ 3.4 (sqrt(250) + 1)
                case([0, 5], 1000, 10**9, 0, 1.0, 5.0),
                case([995, 0], 1000, 10**9, 10**9, 1.0, 5.0),
                case([0, 0], 0, 10**9, 5, 1.0, 5.0),
                case([0, 0], 3, 10, 5, 2.0, 5.0),
            ]
        )

    def test_place_of_a_rank(self, emulation: Emulation) -> None:
        def case(rank: int, expected: list[int]) -> Case:
            def check(answer: Answer) -> None:
                assert answer.numbers(3) == expected

            return Case(9, check=check).numbers(10, 2, 5, 3, rank)

        missed, at_low, inside, at_high = range(4)
        expected = {10: [missed, 0, 0], 11: [at_low, 1, 10], 12: [at_low, 2, 10], 13: [inside, 1, 12]}
        expected |= {17: [inside, 5, 12], 18: [at_high, 1, 17], 20: [at_high, 3, 17], 21: [missed, 0, 0]}
        emulation.run([case(rank, answer) for rank, answer in expected.items()])


def few_cases(size: int) -> list[Case]:
    """Every kernel once or twice."""
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        x = [normal(size + 5, dtype=dtype), normal(size // 2, dtype=dtype)[1:], normal(20, 9, dtype=dtype).t()]
        ties = [torch.ones_like(tensor) for tensor in x]
        cases += [select_case(x, 0.5), select_case(ties, 0.4, given=random_masks(x), in_place=True)]
        cases += [apply_case(x, random_masks(x)), soft_case(x, [0.5] * 3)]
    grid = normal(2, 8, 20)
    cases += [select_case(x, 0.5, **route) for route in (ROUTES["bracket misses"], ROUTES["buffer overflows"])]
    cases += [nm_case(grid, 2, 2, 4), nm_case(grid, 1, 2, 4), transposable_case(grid)]
    return [*cases, groups_case(grid, 1, 2, 3.0), count_case(grid)]


class TestSanitizers:
    def test_addresses_and_undefined_behaviour(self, emulations: Callable[[str], Emulation]) -> None:
        emulations("address").run(few_cases(2000))

    def test_races(self, emulations: Callable[[str], Emulation]) -> None:
        emulations("thread").run(few_cases(1200))

    @pytest.mark.parametrize("mistake", [0, 1], ids=["two warps", "two blocks"])
    def test_a_race_is_seen(self, emulations: Callable[[str], Emulation], mistake: int) -> None:
        done = emulations("thread").start([Case(10).numbers(mistake)])
        assert done.returncode == 66 and "data race" in done.stderr.decode()

    def test_a_barrier_that_some_threads_miss_is_seen(self, emulation: Emulation) -> None:
        done = emulation.start([Case(10).numbers(2)])
        assert done.returncode == 3 and "a barrier that not all threads reach" in done.stderr.decode()
