"""Checkpoints on other machines: a URL, downloaded up to a limit of size, or `hf://` through `huggingface_hub`.

    https://host/path/weights.pt                      kept in `torch.hub.get_dir()`/autoarch, by the whole URL
    hf://owner/name                                   the usual files: model.safetensors, ..., an index with its shards
    hf://owner/name@revision/path/weights.safetensors

Nothing of a repository is ever executed. A given SHA-256 is checked each time, also for a file that was downloaded
before.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import urllib.request
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

import torch

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.transfer.read.formats import read_index

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
HUB_NAME = re.compile(r"^hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?$")
USUAL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
DIGEST = re.compile(r"[0-9a-f]{64}")
LONGEST_NAME = 100  # characters of the name of a downloaded file
BLOCK = 1 << 20  # bytes read or hashed at a time
LARGEST_DOWNLOAD = 32 << 30  # bytes
SECONDS = 60  # timeout


def is_remote(source: str) -> bool:
    """Whether a source is an address instead of a path."""
    return SCHEME.match(source) is not None


def fetch(source: str, sha256: str | None = None) -> Path:
    """The local path of the file of an address, which is downloaded if necessary.

    Raises:
        CheckpointError: An unknown scheme, nothing there, another hash, or huggingface_hub is not installed.
    """
    scheme = source.split("://", 1)[0].lower()
    if scheme in ("http", "https"):
        return _fetch_url(source, sha256)
    if scheme == "hf":
        return _fetch_hub(source)
    raise CheckpointError(f"Expected a path, `https://` or `hf://owner/name`, got {source!r}.")


def check_digest(path: Path, sha256: str) -> None:
    """Raise CheckpointError unless the file has this SHA-256."""
    wanted = sha256.lower()
    if not DIGEST.fullmatch(wanted):
        raise CheckpointError(f"Expected `sha256` of 64 hexadecimal digits, got {sha256!r}.")
    if not path.is_file():
        raise CheckpointError(f"Expected one file for `sha256`, got {path}; check its files one by one.")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != wanted:
        raise CheckpointError(f"Expected SHA-256 {wanted} of {path}, got {digest.hexdigest()}: not loaded.")


def _fetch_url(url: str, sha256: str | None) -> Path:
    try:
        name = PurePosixPath(urlsplit(url).path).name
    except ValueError as error:
        raise CheckpointError(f"Expected the URL of a checkpoint, got '{shown(url)}': {error}.") from error
    safe = re.sub(r"[^\w.-]", "_", name)[-LONGEST_NAME:] or "weights"
    folder = Path(torch.hub.get_dir()) / "autoarch" / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / safe
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _download(url, path, sha256)
        except CheckpointError:
            raise
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            what = shown(str(error), 300)
            raise CheckpointError(f"Expected a checkpoint at {shown(url)}, the download failed: {what}") from error
    return path


def _download(url: str, path: Path, sha256: str | None) -> None:
    """Download to a temporary file, which is renamed when it is complete and removed otherwise."""
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=SECONDS) as answer:
            said = answer.headers.get("Content-Length")
            if said is not None and int(said) > LARGEST_DOWNLOAD:
                raise _too_large(url, f"one of {int(said):,}")
            size = _copied(answer, file, url)
        if said is not None and size != int(said):
            raise OSError(f"the download ended after {size:,} of {int(said):,} bytes")
        if sha256 is not None:
            check_digest(Path(aside), sha256)
        os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _copied(answer: IO[bytes], file: IO[bytes], url: str) -> int:
    size = 0
    while block := answer.read(BLOCK):
        size += len(block)
        if size > LARGEST_DOWNLOAD:
            raise _too_large(url, "more")
        file.write(block)
    return size


def _too_large(url: str, got: str) -> CheckpointError:
    return CheckpointError(
        f"Expected a checkpoint of at most {LARGEST_DOWNLOAD:,} bytes at {shown(url)}, got {got}: not downloaded. If "
        "you want it, download it yourself and pass the path."
    )


def _fetch_hub(source: str) -> Path:
    parts = HUB_NAME.match(source)
    if parts is None:
        raise CheckpointError(f"Expected `hf://owner/name`, `@revision` and a `/file` where needed, got {source!r}.")
    if parts["file"] is not None:
        return _needed(_hub_file(source, parts["repo"], parts["revision"], parts["file"]), source, parts["file"])
    found = (_hub_file(source, parts["repo"], parts["revision"], usual) for usual in USUAL)
    path = next(filter(None, found), None)
    if path is None:
        usual = ", ".join(USUAL)
        raise CheckpointError(f"Expected one of {usual} in {source}, got none: pass a file, `{source}/...`.")
    if path.name.endswith(".index.json"):
        for shard in sorted(set(read_index(path).values())):
            _check_plain(shard, source)
            _needed(_hub_file(source, parts["repo"], parts["revision"], shard), source, shard)
    return path


def _needed(path: Path | None, source: str, file: str) -> Path:
    if path is None:
        raise CheckpointError(f"Expected the file {file!r} in {source}, got none of that name.")
    return path


def _check_plain(name: str, source: str) -> None:
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
        raise CheckpointError(f"Expected files of {source} in its index, got the path '{shown(name)}': not followed.")


def _hub_file(source: str, repo: str, revision: str | None, file: str) -> Path | None:
    """One file, or None if the repository does not have it."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise CheckpointError(f"Expected huggingface_hub for {source}: `pip install huggingface_hub`.") from error
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except EntryNotFoundError:
        return None
    except Exception as error:  # any error of the network or the hub
        raise CheckpointError(
            f"Expected {file!r} of {source}, the download failed: {shown(str(error), 300)}"
        ) from error
