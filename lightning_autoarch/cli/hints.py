"""Hints for an unknown key of a config: the keys that exist, and the one that was probably meant."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lightning_autoarch.cli.paths import config_files
from lightning_autoarch.core.errors import did_you_mean
from lightning_autoarch.seam.lightning_cli import subcommand_parsers

# The messages of jsonargparse. If they change, only the hints are lost.
_OF_CLASS = re.compile(r"class_path '([\w.]+)':\s*Option '([\w.]+)' is not accepted")
_OF_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
_OF_PROGRAM = re.compile(r"(?:Subcommand '\w+' does not accept option|Option) '([\w.]+)'")

_NO_KEYS = ("help", "config", "print_config", "print_shtab")  # options that a config cannot contain


class HintingParser(LightningArgumentParser):
    """A parser that adds a hint to its errors about unknown keys.

    Attributes:
        words: the arguments of the command line.
    """

    words: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(message + hint(message, self._names(), config_files(self.words)), ex)

    def _names(self) -> list[str]:
        """The keys that this parser, or the parser of the chosen subcommand, accepts."""
        parsers = subcommand_parsers(self)
        parser = next((parsers[word] for word in self.words if word in parsers), self)
        return [known.dest for known in parser._actions if known.dest not in _NO_KEYS]


def hint(message: str, names: Sequence[str], configs: Sequence[Path]) -> str:
    """Return a line to add to an error message of jsonargparse, or an empty string.

    Args:
        message: the error message.
        names: the known keys.
        configs: config files; the unknown key may be an argument of a class that they name.
    """
    if of_class := _OF_CLASS.search(message):
        return _listed(of_class[1].rpartition(".")[2], of_class[2], _arguments(of_class[1]))
    if of_group := _OF_GROUP.search(message):
        inside = [name.removeprefix(f"{of_group[1]}.") for name in names if name.startswith(f"{of_group[1]}.")]
        return _listed(of_group[1], of_group[2], inside)
    if of_program := _OF_PROGRAM.search(message):
        return _of_program(of_program[1], names, configs)
    return ""


def _of_program(key: str, names: Sequence[str], configs: Sequence[Path]) -> str:
    section, _, last = key.rpartition(".")
    inside = [name.removeprefix(f"{section}.") for name in names if section and name.startswith(f"{section}.")]
    if inside:
        return _listed(section, last, inside)
    elsewhere = [name for name in (*names, *_of_configs(configs)) if name.rpartition(".")[2] == key != name]
    if elsewhere:
        return f"\n  Did you mean `{elsewhere[0]}`?"
    return _listed("a config", key.partition(".")[0], dict.fromkeys(name.partition(".")[0] for name in names))


def _listed(of: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    return f"\n  Known in {of}: {', '.join(names)}.{did_you_mean(name, names)}" if names else ""


def _of_configs(configs: Sequence[Path]) -> Iterator[str]:
    """The keys of the arguments of the classes that configs name as model and data."""
    import yaml

    for path in configs:
        try:
            given = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        for section in ("data", "model"):
            part = given.get(section) if isinstance(given, Mapping) else None
            if isinstance(part, Mapping) and isinstance(part.get("class_path"), str):
                yield from (f"{section}.init_args.{name}" for name in _arguments(part["class_path"]))


def _arguments(class_path: str) -> list[str]:
    """The names of the arguments of a class or function; empty if it cannot be found."""
    module, _, name = class_path.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return []
    if not callable(found):
        return []
    parameters = inspect.signature(found).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
