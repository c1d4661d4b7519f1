"""The subcommand `prune`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, LightningModule

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.callbacks.prune.prune_trained import (
    load_weights,
    prune_trained,
    recipes,
    save_pruned,
    sizes_on_disk,
)
from lightning_autoarch.cli.checkpoint_classes import check_class_paths, check_named_objects, check_takes, class_of
from lightning_autoarch.cli.options import SPARSITY, StateHolder, sections
from lightning_autoarch.cli.pages import page_path, write_page
from lightning_autoarch.cli.sections import differs, hyperparameters, top_level
from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune.schedule import CubicSparsity
from lightning_autoarch.report.pruned import pruned_table
from lightning_autoarch.report.pruning import write_pruning_report
from lightning_autoarch.seam.lightning import CLASS_PATH, fast_dev_run
from lightning_autoarch.seam.lightning_cli import ExtensibleCLI
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint


class PruneCommand(ExtensibleCLI):
    """LightningCLI with the subcommand `prune`, and with `prune:` in its configs."""

    _runs: bool

    def prune(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str = "",
        output: str = "pruned.ckpt",
        report: str | None = None,
    ) -> None:
        """Load weights, train on while pruning, print the result, and save a plain checkpoint.

        Args:
            model: the module to prune.
            datamodule: its data.
            ckpt_path: the checkpoint with its weights.
            output: the checkpoint to write: weights, with zeros where they are pruned, and hyperparameters.
            report: the HTML page to write. None: beside `output`; empty: none.
        """
        load_weights(model, ckpt_path)
        page = page_path(report, output)
        self._runs = True
        pruned = prune_trained(self.trainer, model, datamodule)
        if fast_dev_run(self.trainer):
            print(f"fast_dev_run: one batch was trained; {output} is not written.")
            return
        save_pruned(self.trainer, Path(output))
        if not self.trainer.is_global_zero:
            return
        sizes = sizes_on_disk(model, Path(output), pruned.costs[0] if pruned.costs else None)
        print(f"{pruned_table(pruned, sizes)}\n\nWrote {output}")
        if recipes(self.trainer):
            print(f'It has fewer channels: load it with `load_pruned({type(model).__name__}(...), "{output}")`.')
        write_page(page, lambda path: write_pruning_report(pruned, path, sizes=sizes, title=type(model).__name__))

    def _configured_pruning(self, others: Sequence[Callback]) -> Callback | None:
        given = top_level(self.given("prune"))
        if self.subcommand not in sections()["prune"].subcommands:
            return StateHolder("prune") if given else None
        masked = any(isinstance(callback, MaskedTraining) for callback in others)
        there = masked or any(isinstance(callback, ChannelPruning) for callback in others)
        if differs("prune", given, self.parser_of(self.subcommand)):
            if masked:
                raise PruneValueError(
                    "Expected one pruning callback, got two: use `prune:` or a callback of the Trainer, not both."
                )
        elif there or self.subcommand != "prune":
            return None
        options = top_level(self.instantiated("prune"))
        return MagnitudePruning(**{**options, "schedule": options["schedule"] or CubicSparsity(SPARSITY)})

    def _take_hyperparameters(self) -> None:
        """Take the arguments of the model from the checkpoint."""
        given = self.config["prune"]
        read_checkpoint(given["ckpt_path"])  # its error says in one line what is wrong
        arguments = hyperparameters(Path(given["ckpt_path"]))
        if not arguments:
            return
        check_class_paths(arguments, given, Path(given["ckpt_path"]))
        where = arguments.pop(CLASS_PATH, (given.get("model") or {}).get("class_path"))
        cls = self.model_type if where is None else class_of(where)
        check_named_objects(cls, arguments, given, Path(given["ckpt_path"]))
        if where is not None:
            check_takes(where, arguments, Path(given["ckpt_path"]))
        model = arguments if where is None else {"class_path": where, "dict_kwargs": arguments}
        self.config = self.parser.parse_object({"prune": {"model": model}}, self.config)
