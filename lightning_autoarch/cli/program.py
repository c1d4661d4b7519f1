"""The program `autoarch`: the command line, and the subcommands that need neither model nor data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.cli import LightningArgumentParser

from lightning_autoarch._version import __version__
from lightning_autoarch.cli.app import AutoArchCLI
from lightning_autoarch.cli.ends import FAILURE, fail, in_short
from lightning_autoarch.cli.paths import modules_beside

_ABOUT = "Find an architecture for a LightningModule, train it, prune it, start it from what is known, report."


def main(args: Sequence[str] | None = None) -> None:
    """The program `autoarch`.

    Modules beside the config, and in the current folder, can be named in it (see `cli.paths`).

    Raises:
        SystemExit: see `AutoArchCLI`.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words and words[0] in _COMMANDS:
        with in_short(lambda: True):
            try:
                _COMMANDS[words[0]](words[1:])
            except OSError as error:  # a directory that may not be written, a full disk
                fail(str(error), FAILURE)
    else:
        about = {"description": _ABOUT, "version": __version__}
        with modules_beside(words):
            _Autoarch(args=None if args is None else words, parser_kwargs=about)


def _report(args: Sequence[str]) -> None:
    """Write a study as one HTML page."""
    parser = argparse.ArgumentParser(prog="autoarch report", description=_report.__doc__)
    parser.add_argument("study", metavar="STUDY", help="The study's file, a directory with study.db, or a storage URL.")
    parser.add_argument("--output", metavar="FILE", help="Default: report.html beside the study.")
    parser.add_argument("--study-name", metavar="NAME", help="Which study, where the storage holds several.")
    given = parser.parse_args(args)
    from lightning_autoarch.report import write_report

    study = given.study
    if (Path(study) / "study.db").is_file():
        study = str(Path(study) / "study.db")
    beside = Path(study).parent if Path(study).is_file() else Path()
    print(f"Wrote {write_report(study, given.output or beside / 'report.html', study_name=given.study_name)}")


def _demo(args: Sequence[str]) -> None:
    """Search on handwritten digits, train the winner, print the result."""
    from lightning_autoarch.demo import DIRECTORY, N_TRIALS, demo

    parser = argparse.ArgumentParser(prog="autoarch demo", description=_demo.__doc__)
    parser.add_argument("--directory", default=DIRECTORY, help="For all that it writes. Default: %(default)s.")
    parser.add_argument("--n-trials", type=int, default=N_TRIALS, help="Over all runs. Default: %(default)s.")
    given = parser.parse_args(args)
    demo(given.directory, given.n_trials)


_COMMANDS = {"report": _report, "demo": _demo}


class _Autoarch(AutoArchCLI):
    """With the subcommands that need neither model nor data, which `main` runs itself, listed in its help."""

    listed_subcommands: ClassVar = {name: run.__doc__ or "" for name, run in _COMMANDS.items()}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        if self.config.get("subcommand") in _COMMANDS:
            parser.error(f"`{self.config.subcommand}` takes no options before it.")
