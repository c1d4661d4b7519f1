"""The config that a search writes, and where to find its study."""

from __future__ import annotations

import copy
import enum
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.core.files import check_writable
from lightning_autoarch.search.choices import as_python, import_path
from lightning_autoarch.search.parameters import Categorical, Repeat

_MARK = "# Written by the subcommand `search`"


def as_config(name: str, value: Any) -> Any:
    """A value of an architecture as it is written in a config: an Enum member by name, a class or function by its path.

    Raises:
        SearchError: the value is an object that cannot be written in a config.
    """
    value = as_python(value)
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {as_config(name, key): as_config(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_config(name, item) for item in value]
    if (path := import_path(value)) is not None and callable(value):
        return path
    raise SearchError(
        f"`{name}` of the space has the choice {value!r}, which cannot be written in a "
        "config: give its name, or use `fit`."
    )


def check_config(parameters: Mapping[str, Any], prefix: str = "") -> None:
    """Check before the search that every choice of a space can be written in a config.

    Raises:
        SearchError: a choice cannot be written in a config.
    """
    for name, parameter in parameters.items():
        if isinstance(parameter, Categorical):
            as_config(prefix + name, list(parameter.choices))
        elif isinstance(parameter, Repeat):
            check_config(parameter.of(0)[1], f"{prefix}{name}.")


def with_arguments(
    written: Mapping[str, Any], whole: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the section `model` or `data` of a config with other arguments.

    Args:
        written: the section without defaults.
        whole: the section with defaults.
        arguments: the new values by name; a dotted name is a value inside an argument.
    """
    if "class_path" not in whole:
        section = dict(written)
        for name, value in arguments.items():
            section |= _item(whole, name, value, section)
        return section
    section = {"class_path": whole["class_path"], **written}
    for name, value in arguments.items():
        where = "init_args" if name.partition(".")[0] in (whole.get("init_args") or {}) else "dict_kwargs"
        there = section.get(where) or {}
        section[where] = {**there, **_item(whole.get(where) or {}, name, value, there)}
    return section


def _item(whole: Mapping[str, Any], name: str, value: Any, written: Mapping[str, Any]) -> dict[str, Any]:
    """The argument to which a dotted name belongs, with the new value."""
    argument, _, inner = name.partition(".")
    if not inner:
        return {argument: value}
    changed = copy.deepcopy(_merged(whole.get(argument), written.get(argument)))
    *path, last = inner.split(".")
    place = changed
    for key in path:
        place = place.setdefault(key, {})
    place[last] = value
    return {argument: changed}


def _merged(whole: Any, written: Any) -> Any:
    """`whole`, updated recursively by `written`."""
    if not (isinstance(whole, Mapping) and isinstance(written, Mapping)):
        return (whole or {}) if written is None else written
    return {**whole, **{key: _merged(whole.get(key), value) for key, value in written.items()}}


def writable(path: Path) -> Path:
    """Check before the search that the config can be written, and return its path.

    Raises:
        AutoArchError: the path is not writable.
        SearchError: the file exists and was not written by `search`.
    """
    check_writable(path, "output")
    if path.exists() and not path.read_text("utf-8", errors="replace").startswith(_MARK):
        raise SearchError(f"`{path}` was not written by `search` and is left alone: give another `--output`.")
    return path


def write_config(path: Path, config: Mapping[str, Any], origin: str) -> None:
    """Write a config whose first line names its origin."""
    import yaml

    path.write_text(f"{_MARK}: {origin}.\n{yaml.safe_dump(dict(config), sort_keys=False)}", "utf-8")


def near(path: str | Path) -> str:
    """A path, relative to the current folder if that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def where_study(storage: Any, name: str) -> tuple[str, str | None]:
    """Describe where a study is stored, without a password, and the command that reports it, if there is one."""
    place = os.fspath(storage) if isinstance(storage, str | os.PathLike) else ""
    is_url = "://" in place
    if not place or (is_url and "@" in place):
        return f"`{name}` in its storage", None
    shown = place if is_url else near(place)
    return shown, f"autoarch report {shlex.quote(shown)}"
