"""Sparse checkpoints: bit for bit there and back, small, readable without the package, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from weight_lists import generator

from lightning_autoarch.core.errors import AutoArchError, MissingPackageError, PruneTypeError, PruneValueError
from lightning_autoarch.prune import prune_
from lightning_autoarch.training import sparse_file
from lightning_autoarch.training.sparse_file import load_sparse, save_sparse

safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
from safetensors.torch import load_file, save_file  # noqa: E402

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64),
]
fresh = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def sparse(*shape: int, sparsity: float = 0.9, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    weight = torch.randn(shape, generator=generator(1))
    prune_([weight], sparsity=sparsity)
    return weight.to(dtype)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def round_trip(state: Any, path: Path) -> dict[str, torch.Tensor]:
    save_sparse(state, path)
    loaded = load_sparse(path)
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(loaded[name]) == bits(tensor) and loaded[name].is_contiguous()
    return loaded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.sparse.safetensors"


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits of any dtype, most of them zero."""
    dtype = draw(st.sampled_from(DTYPES))
    n, b = draw(st.integers(0, 1500)), dtype.itemsize
    raw = np.random.default_rng(draw(st.integers(0, 2**31)))
    data = raw.integers(0, 2 if dtype == torch.bool else 256, n * b, dtype=np.uint8).reshape(n, b)
    data[raw.random(n) < draw(st.sampled_from([0.0, 0.5, 0.95, 1.0]))] = 0
    tensor = torch.tensor(data.reshape(-1)).view(dtype)
    return tensor.view(draw(st.sampled_from([(n,), (1, n), (n, 1, 1), (n // 2, 2) if n % 2 == 0 else (n,)])))


@fresh
@given(st.dictionaries(st.text(max_size=8).filter(lambda name: name != "__metadata__"), tensors(), max_size=4))
def test_round_trip(path: Path, state: dict[str, torch.Tensor]) -> None:
    round_trip(state, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_zeros_with_a_sign_and_nan_come_back(path: Path, dtype: torch.dtype) -> None:
    weight = torch.zeros(1000, dtype=dtype)
    weight[3], weight[4], weight[5], weight[999] = -0.0, float("nan"), float("inf"), -1e-30
    loaded = round_trip({"w": weight}, path)["w"]
    assert torch.signbit(loaded[3]) and not torch.signbit(loaded[2])
    assert load_file(path).keys() == {"w::values", "w::bitmask"}


def test_the_size_shows_the_sparsity(path: Path) -> None:
    weight = sparse(400, 300)
    round_trip({"w": weight}, path)
    assert path.stat().st_size < 0.14 * weight.numel() * 4
    half = sparse(400, 300, dtype=torch.float16)
    round_trip({"w": half}, path)
    assert path.stat().st_size < 0.17 * half.numel() * 2


@pytest.mark.parametrize("weight", [torch.ones(400, 300), torch.zeros(7), torch.ones(()), torch.zeros(0, 3)], ids=str)
def test_what_would_not_become_smaller_is_stored_as_it_is(path: Path, weight: torch.Tensor) -> None:
    round_trip({"w": weight}, path)
    assert load_file(path).keys() == {"w"}


def test_tied_tensors_are_stored_once_and_stay_tied(path: Path) -> None:
    net = nn.Sequential(nn.Embedding(50, 40), nn.Linear(40, 50, bias=False))
    net[1].weight = net[0].weight
    for weight, size in [(net[0].weight.detach(), 8000), (sparse(50, 40), 2000)]:
        net[0].weight.data.copy_(weight)
        loaded = round_trip(net.state_dict(), path)
        assert loaded["0.weight"] is loaded["1.weight"]
        assert path.stat().st_size < size + 600


def test_views_are_stored_without_what_they_are_views_of(path: Path) -> None:
    whole = torch.randn(1000, 1000, generator=generator(0))
    state = {"slice": whole[:2, :2], "turned": whole[:3, :5].t(), "again": whole[0, :4].view(2, 2)}
    round_trip(state, path)
    assert path.stat().st_size < 1000


def test_any_strides_and_lazy_signs(path: Path) -> None:
    state = {
        "empty": torch.from_numpy(np.empty(0, dtype=np.float32)),
        "one": torch.ones(5, 5)[:1, 0],
        "wide": torch.ones(1).as_strided((1, 1), (7, 7)),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
    }
    save_sparse(state, path)
    loaded = load_sparse(path)
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_the_same_state_gives_the_same_file(path: Path, tmp_path: Path) -> None:
    state = {name: sparse(20, 20) for name in "zyxabc"}
    save_sparse(state, path)
    save_sparse(state, tmp_path / "other")
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_the_state_is_left_as_it_was_and_the_result_is_its_own(path: Path) -> None:
    weight = sparse(30, 30).requires_grad_()
    before = weight.detach().clone()
    loaded = round_trip({"w": weight, "dense": torch.ones(300)}, path)
    content = path.read_bytes()
    loaded["w"].fill_(7), loaded["dense"].fill_(7)
    assert torch.equal(weight, before) and path.read_bytes() == content


def test_the_recipe_of_the_docstring_reads_it(path: Path) -> None:
    tied = sparse(40, 10)
    state = {"a.weight": tied, "norm": torch.ones(3), "b.weight": tied, "c": sparse(5, 7, 20, dtype=torch.float16)}
    save_sparse(state, path)
    recipe = (sparse_file.__doc__ or "").partition("Without this package:\n\n")[2]
    code = "\n".join(line.removeprefix("    ") for line in recipe.splitlines())
    found: dict[str, Any] = {}
    exec(code.replace('"net.sparse.safetensors"', repr(str(path))), found)
    assert list(found["state"]) == list(state)
    for name, tensor in state.items():
        assert np.array_equal(found["state"][name], tensor.numpy())


class TestRefusedToWrite:
    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ([torch.ones(2)], "Expected a state_dict.*got list"),
            ({"extra": 3}, "Expected a tensor under `extra`, got int"),
            ({3: torch.ones(2)}, "to be strings, got 3"),
            ({"w": torch.eye(3).to_sparse()}, "plain dense tensor under `w`, got layout torch.sparse_coo"),
            ({"w": torch.ones(2, device="meta")}, "under `w`, got one on the meta device"),
            ({"w": nn.LazyLinear(3).weight}, "under `w`, got a UninitializedParameter"),
            ({"w": torch.ones(2, dtype=torch.complex128)}, "under `w`, got torch.complex128"),
            ({"__metadata__": torch.ones(2)}, "under `__metadata__`, got that name"),
            ({"w": torch.zeros(999), "w::values": torch.ones(1)}, "no tensor named `w::values`"),
            ({"w::values": torch.ones(1), "w": torch.zeros(999)}, "no tensor named `w::values`"),
        ],
    )
    def test_what_cannot_be_stored(self, path: Path, state: Any, message: str) -> None:
        path.write_bytes(b"old")
        with pytest.raises((PruneTypeError, PruneValueError), match=message):
            save_sparse(state, path)
        assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]

    def test_a_failure_on_the_way_leaves_the_old_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def half(tensors: Any, filename: Path, metadata: Any) -> None:
            filename.write_bytes(b"half")
            raise OSError("disk full")

        path.write_bytes(b"old")
        monkeypatch.setattr("safetensors.torch.save_file", half)
        with pytest.raises(OSError, match="disk full"):
            save_sparse({"w": torch.ones(3)}, path)
        assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(PruneValueError, match="to be a file, got the directory"):
            save_sparse({}, tmp_path)

    def test_without_safetensors(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "safetensors", None)
        monkeypatch.delitem(sys.modules, "safetensors.torch", raising=False)
        for call in (lambda: save_sparse({}, path), lambda: load_sparse(path)):
            with pytest.raises(MissingPackageError, match="pip install safetensors"):
                call()


class TestRefusedToRead:
    def test_nothing(self, path: Path) -> None:
        with pytest.raises(PruneValueError, match="there is none"):
            load_sparse(path)

    @pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" + bytes(100), bytes(1000), b"\xff" * 50])
    def test_no_safetensors_file(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(PruneValueError, match="Expected a whole safetensors file"):
            load_sparse(path)

    def test_another_safetensors_file(self, path: Path) -> None:
        save_file({"w": torch.ones(3)}, path)
        with pytest.raises(PruneValueError, match=r"another safetensors file.*safetensors\.torch\.load_file"):
            load_sparse(path)

    def test_every_cut(self, path: Path) -> None:
        save_sparse({"w": sparse(20, 20), "b": torch.ones(3)}, path)
        content = path.read_bytes()
        for end in range(0, len(content), 11):
            path.write_bytes(content[:end])
            with pytest.raises(PruneValueError, match="Expected a whole safetensors file"):
                load_sparse(path)

    def test_every_byte(self, path: Path) -> None:
        """A changed byte is found, or changes nothing (padding of the header)."""
        tied = sparse(20, 10)
        state = {"w": tied, "b": torch.arange(5.0), "t": tied}
        save_sparse(state, path)
        content = path.read_bytes()
        for i in range(len(content)):
            path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
            try:
                loaded = load_sparse(path)
            except PruneValueError:
                continue
            assert {name: bits(t) for name, t in loaded.items()} == {name: bits(t) for name, t in state.items()}

    @pytest.mark.parametrize(
        ("described", "message"),
        [
            ("nonsense", "its metadata cannot be read"),
            ("[]", "its metadata cannot be read"),
            ('{"version": 2, "tensors": {}}', "Expected version 1 of the format, got 2"),
            ('{"version": 1, "tensors": {}, "crc32": 0}', "its metadata has changed"),
        ],
    )
    def test_metadata(self, path: Path, described: str, message: str) -> None:
        save_file({"w": torch.ones(3)}, path, metadata={"sparse": described})
        with pytest.raises(PruneValueError, match=message):
            load_sparse(path)

    @pytest.mark.parametrize(
        "entries",
        [
            {},
            {"v": {"is": "dense"}},
            {"w": {"is": "dense"}},
            {"w": None},
            {"w": {"is": "tied", "to": "v"}},
            {"w": {"is": "dense", "shape": [4], "dtype": "float32", "crc32": 1}},
            [1],
        ],
    )
    def test_entries_that_do_not_fit(self, path: Path, entries: Any) -> None:
        described = {"version": 1, "crc32": sparse_file._crc_of_text(entries), "tensors": entries}
        save_file({"w": torch.ones(3)}, path, metadata={"sparse": json.dumps(described)})
        with pytest.raises(AutoArchError, match="is damaged"):
            load_sparse(path)
