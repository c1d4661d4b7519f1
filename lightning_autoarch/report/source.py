"""Opens a study for a report without creating or changing anything.

Optuna's `load_study` creates a missing database and missing tables. Here an SQLite file is opened through SQLite's URI
with `mode=rw` (`ro` if it is not writable), which cannot create a file, and no tables are created.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from lightning_autoarch.core.errors import ReportError, did_you_mean, shown
from lightning_autoarch.search.storage import without_password

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

_SQLITE_MAGIC = b"SQLite format 3\x00"


def open_study(study: Study | str | os.PathLike[str], *, study_name: str | None = None) -> Study:
    """Return a study, or open the one in a file or storage.

    Args:
        study: a study; the path of an SQLite or Optuna journal file; or a storage URL.
        study_name: the name of the study. Default: the only one in the storage.

    Raises:
        ReportError: there is no such file or study, the file is not a study, the storage holds several studies and
            no name is given, or the study has several objectives.
    """
    from optuna import Study, load_study

    if not isinstance(study, Study):
        with _reading(without_password(os.fspath(study))):
            storage = _storage(study)
            study = load_study(study_name=_choose(storage, study, study_name), storage=storage)
            study.get_trials(deepcopy=False)
    if len(study.directions) != 1:
        raise ReportError(
            f"Expected a study with one objective, got {len(study.directions)} in `{study.study_name}`: "
            "a report ranks trials by one score."
        )
    return study


def study_file(study: object) -> Path | None:
    """The file behind a path or an `sqlite:///` URL; None for anything else."""
    if not isinstance(study, str | os.PathLike):
        return None
    text = os.fspath(study)
    if "://" not in text:
        return Path(text)
    scheme, _, rest = text.partition(":///")
    is_file = scheme.split("+")[0] == "sqlite" and rest and not rest.startswith((":memory:", "file:"))
    return Path(rest.partition("?")[0]) if is_file else None


def _storage(source: str | os.PathLike[str]) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    path = study_file(source)
    if path is None:
        return RDBStorage(os.fspath(source), skip_table_creation=True)
    if not path.is_file():
        raise ReportError(_not_there(path))
    with open(path, "rb") as file:
        head = file.read(len(_SQLITE_MAGIC))
    if head == _SQLITE_MAGIC:
        return _sqlite(path)
    if head.startswith(b'{"op_code"'):
        return JournalStorage(JournalFileBackend(str(path)))
    raise ReportError(f"`{path}` is not a study: expected an SQLite or an Optuna journal file.")


def _sqlite(path: Path) -> BaseStorage:
    from optuna.storages import RDBStorage

    uri = sqlite_uri(path, writable=os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    return RDBStorage(
        "sqlite://",
        engine_kwargs={"creator": lambda: sqlite3.connect(uri, uri=True)},
        skip_table_creation=True,
    )


def sqlite_uri(path: Path, *, writable: bool) -> str:
    """Return a URI that opens an SQLite file and cannot create one.

    A search that was killed leaves a journal, which must be rolled back before reading, so a writable file is opened
    `rw`. For a file that is not writable and has no journal, `immutable` avoids lock files that could not be written.
    """
    address = f"file:{quote(str(path.resolve()))}"
    if writable:
        return f"{address}?mode=rw"
    unfinished = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    return f"{address}?mode=ro" if unfinished else f"{address}?mode=ro&immutable=1"


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn the errors of a damaged file, or of one by another program or Optuna version, into a ReportError."""
    import sqlalchemy.exc
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except ReportError:
        raise
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ImportError) as error:
        cause = error.__cause__ or error
        first_line = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise ReportError(f"`{name}` cannot be read as an Optuna study: {shown(first_line, 300)}") from error
    except (OSError, RuntimeError, AssertionError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ReportError(f"`{name}` cannot be read as an Optuna study: {shown(repr(error), 300)}") from error


def _choose(storage: BaseStorage, source: str | os.PathLike[str], name: str | None) -> str:
    names = sorted(study.study_name for study in storage.get_all_studies())
    where = without_password(os.fspath(source))
    listed = ", ".join(f"`{known}`" for known in names)
    if not names:
        raise ReportError(f"`{where}` holds no study yet.")
    if name is None and len(names) > 1:
        raise ReportError(f"`{where}` holds several studies: name one of {listed}.")
    if name is not None and name not in names:
        near = did_you_mean(name, names)
        raise ReportError(f"No study `{name}` in `{where}`.{near} It holds {listed}.")
    return names[0] if name is None else name


def _not_there(path: Path) -> str:
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".db", ".sqlite", ".sqlite3", ".log"))
        hint = f" It holds {', '.join(files)}." if files else ""
        return f"`{path}` is a directory: expected the study's file.{hint}"
    siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"No file `{path}`.{did_you_mean(path.name, siblings)} Expected a study's file or a storage URL."
