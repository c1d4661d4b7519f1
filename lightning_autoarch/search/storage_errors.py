"""Errors of a study's storage, raised as one of the package: what has happened, and that nothing is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import optuna

from lightning_autoarch.core.errors import SearchError


@contextlib.contextmanager
def storage_errors_translated() -> Iterator[None]:
    """Errors of a study's storage as one that says what is lost: nothing.

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
