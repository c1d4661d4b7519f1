"""Files are whole or not there, and what cannot be written is known before."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_autoarch.core.errors import AutoArchError, PruneValueError, SearchError
from lightning_autoarch.core.files import check_writable, staged, writable_directory


def test_companions_move_too(tmp_path: Path) -> None:
    with staged(tmp_path / "new" / "net.onnx") as part:
        part.write_bytes(b"graph")
        (part.parent / "net.onnx.data").write_bytes(b"weights")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["net.onnx", "net.onnx.data"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"old")

    def fail_halfway() -> None:
        with staged(path) as part:
            part.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PruneValueError, match="to be a file, got the directory"), staged(tmp_path):
        pass
    with pytest.raises(AutoArchError, match="Expected `output` to name a file, got the directory"):
        check_writable(tmp_path, "output")


def test_writable(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "best.ckpt"
    check_writable(path, "output")
    assert path.parent.is_dir()
    assert not path.exists()
    path.write_bytes(b"kept")
    check_writable(path, "output")
    assert path.read_bytes() == b"kept"


def test_not_writable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(AutoArchError, match=r"Expected to write `output` to .*, cannot"):
        check_writable(file / "best.ckpt", "output")
    with pytest.raises(AutoArchError, match="cannot: File name too long"):
        check_writable(tmp_path / ("x" * 300), "output")
    with pytest.raises(SearchError, match=r"cannot be written to: .* Give another"):
        writable_directory(file / "inside", "Give another.")
    with pytest.raises(SearchError, match="Expected a directory on a local disk, got s3://bucket"):
        writable_directory("s3://bucket", "Give another.")


def test_a_directory_is_made(tmp_path: Path) -> None:
    assert writable_directory(tmp_path / "a" / "b", "") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []
