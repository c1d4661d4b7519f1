"""The subcommand `transfer`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from lightning.pytorch import Callback, LightningDataModule, LightningModule

from lightning_autoarch.callbacks.transfer.fine_tune import fine_tune
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.cli.options import StateHolder, sections
from lightning_autoarch.cli.pages import page_path, write_page
from lightning_autoarch.cli.sections import differs, top_level
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.report.transferred import finetuned_table, write_transfer_report
from lightning_autoarch.seam.lightning import fast_dev_run
from lightning_autoarch.seam.lightning_cli import ExtensibleCLI
from lightning_autoarch.transfer.read.checkpoint import AnySource, Source, read_checkpoint, source_from


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
            model: The module to fine-tune.
            datamodule: Its data.
            ckpt_path: Where its weights come from.
            output: The checkpoint to write, with weights and hyperparameters.
            report: The HTML page to write. None writes it beside `output`, an empty string writes none.
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
        assert tuned.report is not None  # a checkpoint is required
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
            raise TransferError("Expected one TransferLearning, got two: pass `transfer:` or the callback, not both.")
        options = top_level(self.instantiated("transfer"))
        options["checkpoint"] = source_from(options["checkpoint"])
        if self.subcommand != "transfer":
            return TransferLearning(**options) if written else None
        path = self.given("ckpt_path")
        if listed:
            listed[0].checkpoint = _checkpoint(path, listed[0].checkpoint)
            return None
        return TransferLearning(**{**options, "checkpoint": _checkpoint(path, options["checkpoint"])})


def _checkpoint(path: str | None, given: AnySource | None) -> AnySource:
    """The checkpoint that `--ckpt_path` or the config names, read once so that errors come before data are loaded.

    Raises:
        TransferError: There is none, or there are two.
        CheckpointError: The file cannot be read.
    """
    if path is None and given is None:
        raise TransferError(
            "Expected a checkpoint, got none: pass `--ckpt_path`, or `transfer.checkpoint` in the config."
        )
    in_config = given.path if isinstance(given, Source) else given
    if path is not None and in_config is not None and str(in_config) != path:
        raise TransferError(
            f"Expected one checkpoint, got `--ckpt_path {path}`, and `{in_config}` in the config. Pass one of them."
        )
    source = path if given is None else given
    assert source is not None
    held = source.path if isinstance(source, Source) else source
    if isinstance(held, str) and "://" not in held:
        source.read() if isinstance(source, Source) else read_checkpoint(held)
    return source


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Print the table below an error to the output, so that the error itself is one line."""
    try:
        yield
    except TransferError as error:
        line, _, table = str(error).partition("\n")
        if table:
            print(table)
        raise TransferError(line) from error
