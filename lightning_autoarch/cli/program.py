"""The program `autoarch`, with the subcommands that need neither a model nor data: `report` and `demo`."""

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

_ABOUT = (
    "Search an architecture for a LightningModule, train it, prune it, fine-tune it from a checkpoint, report on it."
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the program `autoarch`.

    A config can name modules in its own folder and in the current one (see `cli.paths`).

    Args:
        args: the arguments of the command line. Default: those of this process.

    Raises:
        SystemExit: with 2 for a wrong config, 1 for a search or fit that failed, 130 for Ctrl-C.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words and words[0] in _COMMANDS:
        with in_short(lambda: True):
            try:
                _COMMANDS[words[0]](words[1:])
            except OSError as error:  # for example a read-only directory or a full disk
                fail(str(error), FAILURE)
    else:
        about = {"description": _ABOUT, "version": __version__}
        with modules_beside(words):
            _Autoarch(args=None if args is None else words, parser_kwargs=about)


def _report(args: Sequence[str]) -> None:
    """Write an HTML report of a study."""
    parser = argparse.ArgumentParser(prog="autoarch report", description=_report.__doc__)
    parser.add_argument(
        "study", metavar="STUDY", help="The file of the study, a directory with study.db, or a storage URL."
    )
    parser.add_argument(
        "--output", metavar="FILE", help="The HTML file to write. Default: report.html beside the study."
    )
    parser.add_argument("--study-name", metavar="NAME", help="The name of the study, if the storage holds several.")
    given = parser.parse_args(args)
    from lightning_autoarch.report import write_report

    study = given.study
    if (Path(study) / "study.db").is_file():
        study = str(Path(study) / "study.db")
    beside = Path(study).parent if Path(study).is_file() else Path()
    print(f"Wrote {write_report(study, given.output or beside / 'report.html', study_name=given.study_name)}")


def _demo(args: Sequence[str]) -> None:
    """Search an architecture for handwritten digits, train the best one and print the result."""
    from lightning_autoarch.demo import DIRECTORY, N_TRIALS, demo

    parser = argparse.ArgumentParser(prog="autoarch demo", description=_demo.__doc__)
    parser.add_argument("--directory", default=DIRECTORY, help="Where to write all files. Default: %(default)s.")
    parser.add_argument(
        "--n-trials", type=int, default=N_TRIALS, help="The number of trials, over all runs. Default: %(default)s."
    )
    given = parser.parse_args(args)
    demo(given.directory, given.n_trials)


_COMMANDS = {"report": _report, "demo": _demo}


class _Autoarch(AutoArchCLI):
    """Lists in its help also the subcommands that `main` runs itself."""

    listed_subcommands: ClassVar = {name: run.__doc__ or "" for name, run in _COMMANDS.items()}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        if self.config.get("subcommand") in _COMMANDS:
            parser.error(f"`{self.config.subcommand}` takes no options before it.")
