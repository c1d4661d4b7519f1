"""The subcommand `transfer`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule

from lightning_autoarch.callbacks.transfer.finetune import fine_tune
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.cli.options import StateHolder, sections
from lightning_autoarch.cli.pages import page_path, write_page
from lightning_autoarch.cli.sections import differs, top_level
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.report.transferred import finetuned_table, write_transfer_report
from lightning_autoarch.seam.lightning import fast_dev_run
from lightning_autoarch.seam.lightning_cli import ExtensibleCLI
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint


class TransferCommand(ExtensibleCLI):
    """LightningCLI with `transfer`, and with `transfer:` in its configs."""

    _runs: bool

    def transfer(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        output: str = "finetuned.ckpt",
        report: str | None = None,
    ) -> None:
        """Take over weights, fine-tune, print the result, save a plain checkpoint.

        Args:
            model: fine-tuned.
            datamodule: its data.
            ckpt_path: where its weights come from.
            output: the checkpoint to write: weights and hyperparameters.
            report: the HTML page to write; None: beside `output`; empty: none.
        """
        page = page_path(report, output)
        self._runs = True
        with _in_one_line():
            tuned = fine_tune(self.trainer, model, datamodule)
        if self.trainer.is_global_zero:
            print(finetuned_table(tuned))
        if fast_dev_run(self.trainer):
            print(f"fast_dev_run: one batch was trained; {output} is not written.")
            return
        self.trainer.save_checkpoint(output, weights_only=True)
        if not self.trainer.is_global_zero:
            return
        print(f"\nWrote {output}")
        assert tuned.report is not None  # there was a checkpoint
        write = partial(
            write_transfer_report,
            tuned.report,
            before=tuned.before,
            after=tuned.after,
            blocks=tuned.blocks,
            title=type(model).__name__,
        )
        write_page(page, write)

    def _configured_transfer(self, others: Sequence[Callback]) -> Callback | None:
        given = top_level(self.given("transfer"))
        if self.subcommand not in sections()["transfer"].subcommands:
            return StateHolder("transfer") if given else None
        written = differs("transfer", given, self.parser_of(self.subcommand))
        listed = [callback for callback in others if isinstance(callback, TransferLearning)]
        if written and listed:
            raise TransferError("There are two TransferLearning: give `transfer:` or the callback, not both.")
        options = top_level(self.instantiated("transfer"))
        if self.subcommand != "transfer":
            return TransferLearning(**options) if written else None
        path = self.given("ckpt_path")
        if listed:
            listed[0].checkpoint = _checkpoint(path, listed[0].checkpoint, listed[0].matching)
            return None
        return TransferLearning(**{**options, "checkpoint": _checkpoint(path, options["checkpoint"], options)})


def _checkpoint(
    path: str | None,  # of the command line
    given: Any,  # in the config
    options: Mapping[str, Any],  # which of the weights in it, and what it may hold
) -> Any:
    """The one that both name; a file that cannot be read is an error before any data are."""
    if path is None and given is None:
        raise TransferError("Nothing to start from: give `--ckpt_path`, or `transfer.checkpoint` in the config.")
    if path is not None and given is not None and str(given) != path:
        raise TransferError(f"There are two checkpoints: `--ckpt_path {path}`, and `{given}` in the config. Give one.")
    source = given if path is None else path
    if isinstance(source, str) and "://" not in source:
        read_checkpoint(source, **{name: options[name] for name in ("weights", "key", "trusted")})
    return source


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """A table below an error goes to the output, the error itself stays one line."""
    try:
        yield
    except TransferError as error:
        line, _, table = str(error).partition("\n")
        if table:
            print(table)
        raise TransferError(line) from error
