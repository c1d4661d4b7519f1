"""Other places, played by a server on this machine: nothing here reaches a network."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import io
import json
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.transfer.read import remote
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []

    def log_message(self, *args: Any) -> None:
        self.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Quiet.asked = []
    with running(functools.partial(Quiet, directory=str(tmp_path / "served"))) as address:
        yield address


@contextlib.contextmanager
def running(handler: Any) -> Iterator[str]:
    """A server in a thread, ended with the block."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


def serve(folder: Path, name: str, state: dict[str, torch.Tensor]) -> str:
    """The hash of what is then served."""
    data = io.BytesIO()
    torch.save(state, data)
    path = folder / "served" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())
    return hashlib.sha256(data.getvalue()).hexdigest()


class TestUrl:
    def test_once(self, server: str, tmp_path: Path) -> None:
        digest = serve(tmp_path, "w.pt", {"w": torch.ones(1)})
        for sha256 in (digest, digest.upper(), None):
            assert read_checkpoint(f"{server}/w.pt", sha256=sha256)["w"] == 1
        assert Quiet.asked == ["/w.pt"]

    def test_same_name_of_two_places(self, server: str, tmp_path: Path) -> None:
        for i in range(2):
            serve(tmp_path, f"{i}/w.pt", {"w": torch.tensor(i)})
        assert [read_checkpoint(f"{server}/{i}/w.pt")["w"] for i in range(2)] == [0, 1]

    def test_other_hash_is_not_kept(self, server: str, tmp_path: Path) -> None:
        digest = serve(tmp_path, "w.pt", {"w": torch.ones(1)})
        with pytest.raises(CheckpointError, match="Expected SHA-256"):
            read_checkpoint(f"{server}/w.pt", sha256="0" * 64)
        assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
        assert read_checkpoint(f"{server}/w.pt", sha256=digest)["w"] == 1

    def test_kept_file_is_checked_again(self, server: str, tmp_path: Path) -> None:
        digest = serve(tmp_path, "w.pt", {"w": torch.ones(1)})
        read_checkpoint(f"{server}/w.pt", sha256=digest)
        kept = next((tmp_path / "hub").rglob("w.pt"))
        torch.save({"w": torch.zeros(1)}, kept)
        with pytest.raises(CheckpointError, match="Expected SHA-256"):
            read_checkpoint(f"{server}/w.pt", sha256=digest)

    def test_nothing_there(self, server: str) -> None:
        with pytest.raises(CheckpointError, match="404"):
            read_checkpoint(f"{server}/none.pt")

    @pytest.mark.parametrize("place", ["file:///etc/hostname", "data:,x", "//\0", "gopher://host/w.pt"])
    def test_redirects_do_not_lead_to_files_of_this_machine(
        self, place: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def redirect(self: Quiet) -> None:
            self.send_response(302)
            self.send_header("Location", place)
            self.end_headers()

        monkeypatch.setattr(Quiet, "do_GET", redirect)
        with pytest.raises(CheckpointError, match=r"the download failed"):
            read_checkpoint(f"{server}/w.pt")
        assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]

    @pytest.mark.parametrize("said", ["too much", "nothing", "less", "more", "no number"])
    def test_size(self, said: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server may say how much it sends, say nothing, or lie."""
        monkeypatch.setattr(remote, "LARGEST_DOWNLOAD", 3000)
        sent = 0 if said == "too much" else 2000 if said in ("less", "more") else 3001
        length = {"too much": "3001", "less": "1999", "more": "2001", "no number": "x"}.get(said)

        def answer(self: Quiet) -> None:
            self.send_response(200)
            if length is not None:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(b"x" * sent)

        monkeypatch.setattr(Quiet, "do_GET", answer)
        expected = {
            "too much": "got one of 3,001",
            "nothing": "at most 3,000 bytes.*got more",
            "more": "ended after",
            "less": "begins",
            "no number": "the download failed",
        }
        with pytest.raises(CheckpointError, match=expected[said]):
            read_checkpoint(f"{server}/w.pt")
        left = [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
        assert [path.stat().st_size for path in left] == ([1999] if said == "less" else [])  # no more than it has said

    def test_what_is_no_url(self, server: str) -> None:
        with pytest.raises(CheckpointError, match="Expected the URL of a checkpoint"):
            read_checkpoint("http://[")
        with pytest.raises(CheckpointError, match="404"):
            read_checkpoint(f"{server}/{'x' * 1000}.pt")

    def test_file_names_are_harmless(self, server: str, tmp_path: Path) -> None:
        serve(tmp_path, "a b;c.pt", {"w": torch.ones(1)})
        assert read_checkpoint(f"{server}/a%20b;c.pt?download=true")["w"] == 1
        assert [path.name for path in (tmp_path / "hub").rglob("*.pt")] == ["a_20b_c.pt"]


@pytest.mark.parametrize("source", ["file:///etc/passwd", "ftp://host/w.pt", "s3://bucket/w.pt"])
def test_other_schemes(source: str) -> None:
    with pytest.raises(CheckpointError, match="Expected a path, `https://` or `hf://"):
        read_checkpoint(source)


class TestDigest:
    def test_of_a_local_file(self, tmp_path: Path) -> None:
        torch.save({"w": torch.ones(1)}, tmp_path / "w.pt")
        digest = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
        assert read_checkpoint(tmp_path / "w.pt", sha256=digest)["w"] == 1
        with pytest.raises(CheckpointError, match="Expected SHA-256 0000"):
            read_checkpoint(tmp_path / "w.pt", sha256="0" * 64)

    def test_what_is_no_digest(self, tmp_path: Path) -> None:
        torch.save({"w": torch.ones(1)}, tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match="64 hexadecimal digits"):
            read_checkpoint(tmp_path / "w.pt", sha256="abc")
        with pytest.raises(CheckpointError, match="one file for `sha256`"):
            read_checkpoint(tmp_path, sha256="0" * 64)
        with pytest.raises(CheckpointError, match="a file for `sha256`"):
            read_checkpoint(torch.nn.Linear(1, 1), sha256="0" * 64)


class EntryNotFoundError(Exception):
    pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the hub: `hf_hub_download` finds files there."""

    def hf_hub_download(repo: str, file: str, revision: str | None = None) -> str:
        path = tmp_path / repo / (revision or "main") / file
        if not path.is_file():
            raise EntryNotFoundError(file)
        return str(path)

    package, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    package.hf_hub_download = hf_hub_download  # type: ignore[attr-defined]
    errors.EntryNotFoundError = EntryNotFoundError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    folder = tmp_path / "owner" / "name" / "main"
    folder.mkdir(parents=True)
    return folder


class TestHub:
    def test_usual_file(self, hub: Path) -> None:
        torch.save({"w": torch.ones(1)}, hub / "pytorch_model.bin")
        assert read_checkpoint("hf://owner/name")["w"] == 1

    def test_named_file_of_a_revision(self, hub: Path) -> None:
        folder = hub.parent / "v2" / "sub"
        folder.mkdir(parents=True)
        torch.save({"w": torch.ones(1)}, folder / "x.bin")
        assert read_checkpoint("hf://owner/name@v2/sub/x.bin")["w"] == 1

    def test_shards(self, hub: Path) -> None:
        torch.save({"w": torch.ones(1)}, hub / "a.bin")
        (hub / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": "a.bin"}}))
        assert read_checkpoint("hf://owner/name")["w"] == 1

    def test_shards_elsewhere_are_not_asked_for(self, hub: Path) -> None:
        (hub / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": "../../x.bin"}}))
        with pytest.raises(CheckpointError, match="not followed"):
            read_checkpoint("hf://owner/name")

    def test_nothing_there(self, hub: Path) -> None:
        with pytest.raises(CheckpointError, match=r"Expected one of model\.safetensors"):
            read_checkpoint("hf://owner/name")
        with pytest.raises(CheckpointError, match=r"'x\.bin'.*none of that name"):
            read_checkpoint("hf://owner/name/x.bin")

    @pytest.mark.parametrize("source", ["hf://name", "hf://", "hf://a b/c"])
    def test_bad_names(self, source: str, hub: Path) -> None:
        with pytest.raises(CheckpointError, match="Expected `hf://owner/name`"):
            read_checkpoint(source)

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
            read_checkpoint("hf://owner/name")


class HubHandler(Quiet):
    """The two answers that `hf_hub_download` needs: what a file is, and the file."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.replace("/resolve/main/", "/"))

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", hashlib.sha256(path.read_bytes()).hexdigest())
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        super().end_headers()


def test_the_real_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    serve(tmp_path, "owner/name/pytorch_model.bin", {"w": torch.ones(1)})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    download = huggingface_hub.hf_hub_download
    with running(functools.partial(HubHandler, directory=str(tmp_path / "served"))) as address:
        local = functools.partial(download, endpoint=address, cache_dir=tmp_path / "cache")
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", local)
        assert remote.fetch("hf://owner/name").name == "pytorch_model.bin"
        assert read_checkpoint("hf://owner/name")["w"] == 1
