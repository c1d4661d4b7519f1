"""Sparse checkpoints of this package as a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.training.sparse_file import load_sparse, save_sparse
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.transfer_weights import transfer_weights

pytest.importorskip("safetensors", reason="safetensors is not installed")


def sparse_net() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 3))
    with torch.no_grad():
        net[0].weight[torch.rand(64, 64) < 0.9] = 0
        net[0].weight[0, 0] = -0.0
    return net


def edited(path: Path, change: Any) -> None:
    """Rewrite the header of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_all_of_it_is_taken_over(tmp_path: Path) -> None:
    net, new = sparse_net(), nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 3))
    save_sparse(net.state_dict(), tmp_path / "net.sparse.safetensors")
    report = transfer_weights(new, tmp_path / "net.sparse.safetensors", on_mismatch="error")
    assert report.share == 1 and report.counts == {"loaded": 9}
    expected, got = net.state_dict(), new.state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert torch.signbit(got["0.weight"][0, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_it_reads_what_load_sparse_reads(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = torch.zeros(1003, dtype=dtype)
    weight[::50] = 3
    state = {"a": weight, "b": weight, "empty": torch.zeros(0, dtype=dtype), "dense": torch.ones(2, 3, dtype=dtype)}
    save_sparse(state, tmp_path / "x.sparse.safetensors")
    read, expected = read_checkpoint(tmp_path / "x.sparse.safetensors"), load_sparse(tmp_path / "x.sparse.safetensors")
    assert list(read) == list(expected) and all(torch.equal(read[name], expected[name]) for name in read)
    assert all(read[name].dtype == dtype for name in read)


def test_other_metadata_are_no_matter(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"sparse": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert read_checkpoint(tmp_path / "x.safetensors")["sparse"].tolist() == [1, 1]


class TestDamaged:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        save_sparse({"w": torch.eye(64)}, tmp_path / "x.sparse.safetensors")
        return tmp_path / "x.sparse.safetensors"

    def described(self, header: Any, change: Any, *, signed: bool = True) -> None:
        import zlib

        held = json.loads(header["__metadata__"]["sparse"])
        change(held)
        if signed:
            held["crc32"] = zlib.crc32(json.dumps(held["tensors"], separators=(",", ":")).encode())
        header["__metadata__"]["sparse"] = json.dumps(held)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda held: held["tensors"]["w"].update(shape=[1 << 20, 1 << 20]),
                "have changed since they were written",
            ),
            (lambda held: held["tensors"]["w"].update(shape=[-64, -64]), "has no shape"),
            (lambda held: held["tensors"]["w"].update(shape="64"), "has no shape"),
            (lambda held: held["tensors"]["w"].update(dtype="float64"), "another shape or dtype"),
            (lambda held: held["tensors"]["w"].update({"is": "dense"}), "nothing is stored for `w`"),
            (lambda held: held["tensors"].update(v={"is": "tied", "to": "v"}), "nothing is stored for `v`"),
            (lambda held: held["tensors"].update(v=3), "nothing is stored for `v`"),
            (lambda held: held.update(version=2), "Expected version 1"),
        ],
    )
    def test_a_description_that_is_not_true(self, path: Path, change: Any, message: str) -> None:
        edited(path, lambda header: self.described(header, change))
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)

    def test_a_description_that_has_changed(self, path: Path) -> None:
        edited(path, lambda header: self.described(header, lambda held: held["tensors"].pop("w"), signed=False))
        with pytest.raises(CheckpointError, match="has changed since it was written"):
            read_checkpoint(path)
        edited(path, lambda header: header["__metadata__"].update(sparse="[" * 9))
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(path)

    def test_bytes_that_have_changed(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        with pytest.raises(CheckpointError, match="have changed since they were written"):
            read_checkpoint(path)
