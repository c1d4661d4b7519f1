"""Storages of studies, any of Optuna's or the path of an SQLite file, and the error when one is lost."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from lightning_autoarch.core.errors import SearchError

HEARTBEAT_SECONDS = 60
GRACE_SECONDS = 180


def open_storage(storage: str | os.PathLike[str] | BaseStorage) -> BaseStorage:
    """The storage of a URL; a path of an SQLite file is one too.

    Raises:
        SearchError: it cannot be opened; the message says which and why.
    """
    if not isinstance(storage, str | os.PathLike):
        return storage
    place = os.fspath(storage)
    path = _sqlite_file(place)
    if path is not None and path.exists() and not os.access(path, os.W_OK):
        raise SearchError(f"The study {path} is read-only: make it writable, or give another `study.storage`.")
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        if place.startswith("grpc://"):
            host, _, port = place.removeprefix("grpc://").partition(":")
            return optuna.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
        return _database(place)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise SearchError(
            f"The storage {without_password(place)!r} cannot be opened: {type(error).__name__}: {reason}. "
            "A damaged file can be moved away; the search then starts anew."
        ) from error


def _sqlite_file(place: str) -> Path | None:
    """The file of an SQLite URL, or of a path itself; None for another kind, or a database in memory."""
    if "://" not in place:
        return Path(place)
    scheme, _, name = place.partition("?")[0].partition(":///")
    return Path(name) if scheme == "sqlite" and name and not name.startswith((":memory:", "file:")) else None


def _database(place: str) -> optuna.storages.RDBStorage:
    url, options = place, {}
    if "://" not in place:  # not made part of a URL, where `?`, `%` and `{` mean something
        connect = functools.partial(sqlite3.connect, os.path.abspath(place), check_same_thread=False)
        url, options = "sqlite:///study.db", {"creator": connect}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        opened = optuna.storages.RDBStorage(
            url, options, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS
        )
    if url.startswith("sqlite"):
        _write_ahead(opened)
    return opened


def _write_ahead(storage: optuna.storages.RDBStorage) -> None:
    """SQLite appends to a log instead of waiting for the disk at each of a trial's twenty commits.

    A killed process loses nothing; a power cut may lose the last commits, and damages nothing (sqlite.org/wal.html).
    """
    from sqlalchemy import event

    def on_connect(connection: Any, record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}").close()

    event.listen(storage.engine, "connect", on_connect)
    storage.engine.dispose()


def without_password(url: str) -> str:
    """A storage's URL, or path, as it may be shown.

    >>> without_password("postgresql://me:secret@host/studies")
    'postgresql://me:***@host/studies'
    """
    if "://" not in url:
        return url
    head, at, tail = url.rpartition("@")
    scheme, slashes, credentials = head.partition("://")
    return f"{scheme}{slashes}{credentials.partition(':')[0]}:***@{tail}" if at else url


@contextlib.contextmanager
def storage_errors_translated() -> Iterator[None]:
    """Raise what Optuna and its databases raise as one error, which says that the trials so far are kept.

    Raises:
        SearchError: the storage cannot be read or written.
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, OSError) as error:
        raise _lost_storage(error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "sqlalchemy":  # which a storage of another kind does not need
            raise
        raise _lost_storage(error) from error


def _lost_storage(error: Exception) -> SearchError:
    cause = error.__cause__ or error
    reason = next(iter(str(cause).strip().splitlines()), "")
    return SearchError(
        f"The study cannot be read or written: {type(cause).__name__}: {reason}. What it holds is kept: "
        "free some space, or make its storage writable or reachable, then start the same script again to go on."
    )
