"""`AutoArchCLI`: LightningCLI with the subcommands `search`, `prune` and `transfer`, and their sections in a config."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, instantiate_class
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.callbacks.search import ArchitectureSearch
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.cli.checkpoint_classes import check_class_paths, check_named_objects, class_of
from lightning_autoarch.cli.ends import INTERRUPTED, check_installed, in_short
from lightning_autoarch.cli.hints import HintingParser
from lightning_autoarch.cli.options import ABOUT_OWN, StateHolder, add_options, add_sections, declared_sections
from lightning_autoarch.cli.prune import PruneCommand
from lightning_autoarch.cli.search import SearchCommand, first_search
from lightning_autoarch.cli.sections import differs, hyperparameters, top_level
from lightning_autoarch.cli.transfer import TransferCommand
from lightning_autoarch.core.errors import AutoArchError, SearchError
from lightning_autoarch.seam.lightning import CLASS_PATH
from lightning_autoarch.seam.lightning_cli import ExtensibleCLI
from lightning_autoarch.training.links import Links
from lightning_autoarch.training.optimizers import LateOptimizers


class WithLateOptimizers(ExtensibleCLI):
    """LightningCLI that creates the config's optimizers and schedulers anew for each candidate that asks for them."""

    def set_configure_optimizers(self, subcommand: str | None) -> None:
        automatic = self.automatic_optimizers(subcommand)
        if not self.auto_configure_optimizers or any(len(found) > 1 for found in automatic):
            super().set_configure_optimizers(subcommand)
            return
        optimizer, scheduler = (self._initialiser(*found[0]) if found else None for found in automatic)
        if optimizer is None:
            return
        if is_overridden("configure_optimizers", self.model):
            rank_zero_warn(f"The config's `optimizer` replaces `{type(self.model).__name__}.configure_optimizers`.")

        def make(module: LightningModule) -> tuple[torch.optim.Optimizer, Any]:
            made = instantiate_class((module.parameters(),), optimizer)
            return made, None if scheduler is None else instantiate_class((made,), scheduler)

        LateOptimizers(self.configure_optimizers, make).bind(self.model)

    def _initialiser(self, key: str, registered: Any) -> dict[str, Any] | None:
        """The `class_path` and `init_args` of an optimizer or scheduler, or None if none is given."""
        init = self.instantiated(key)
        if isinstance(registered, tuple):
            return init or None
        return {"class_path": f"{registered.__module__}.{registered.__qualname__}", "init_args": init or {}}


_USAGE = (
    "%(prog)s [--config FILE] [--KEY VALUE ...]"  # jsonargparse's default lists every key: 70 lines before each error
)
_OF_OTHERS: dict[str, tuple[type[Callback], ...]] = {  # the callbacks of `trainer.callbacks` that a subcommand ignores
    "prune": (ArchitectureSearch, TransferLearning),  # the model of the checkpoint is searched and fine-tuned already
    "transfer": (ArchitectureSearch,),
}


class AutoArchCLI(SearchCommand, PruneCommand, TransferCommand, WithLateOptimizers):
    """LightningCLI with the subcommands `search`, `prune` and `transfer`, and with their sections in a config.

    If the config has `search:`, `fit` searches before it trains, and the subcommand `search` only searches. With
    `prune:`, `fit` prunes while it trains, and the subcommand `prune` does so from a checkpoint. With `transfer:`,
    `fit` starts from a checkpoint, and the subcommand `transfer` also reports which weights it used.

    Takes the arguments of LightningCLI. Optimizers and schedulers of the config are created anew for each candidate. An
    error of this package ends the program with one line, or with a traceback if `JSONARGPARSE_DEBUG=true` is set.

    Raises:
        SystemExit: with 2 for a wrong config, 1 for a search or fit that failed, 130 for Ctrl-C.

    Example::

        # train.py; python train.py search --config config.yaml && python train.py fit --config best.yaml
        AutoArchCLI(MyModule, MyData)
    """

    own_subcommands = ABOUT_OWN
    usage = _USAGE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_installed()
        self._runs = False
        with in_short(lambda: self._runs):
            super().__init__(*args, **kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        if self.parser_class is LightningArgumentParser:
            self.parser_class = HintingParser
        return super().init_parser(**kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if isinstance(parser, HintingParser):
            parser.words = sys.argv[1:] if args is None else [word for word in args if isinstance(word, str)]
        super().parse_arguments(parser, args)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_sections(parser, self.building)
        super().add_core_arguments_to_parser(parser)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        callbacks = kwargs.get("callbacks", self.instantiated("trainer", {}).get("callbacks"))
        others = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
        others = [
            callback for callback in others if not isinstance(callback, _OF_OTHERS.get(self.subcommand or "", ()))
        ]
        search = self._configured_search()
        made = [search, self._configured_transfer(others), self._configured_pruning(others)]
        made += self._configured_by_section(others)
        if isinstance(search, ArchitectureSearch):
            if first_search(others) is not None:
                raise SearchError("There are two searches: give `search:` or the callback, not both.")
            # A search is resumed by running the command again, so its config.yaml exists already.
            self.save_config_kwargs = {"overwrite": True, **self.save_config_kwargs}
        for callback in (search, *others):
            if isinstance(callback, ArchitectureSearch):
                callback.links = Links.of(self.parser_of(self.subcommand), self._given)
        if callbacks is not None or any(made):
            kwargs["callbacks"] = [*filter(None, made), *others]
        if self.subcommand in ABOUT_OWN:
            self.save_config_callback = None  # they write their own output
        return super().instantiate_trainer(**kwargs)

    def _configured_by_section(self, others: Sequence[Callback]) -> list[Callback]:
        """The callbacks of sections that third parties declare."""
        made: list[Callback] = []
        for name, section in declared_sections().items():
            given = top_level(self.given(name))
            if self.subcommand not in section.subcommands:
                made += [StateHolder(name)] if given else []
            elif differs(name, given, self.parser_of(self.subcommand)):
                kind = section.callback
                if any(isinstance(callback, kind) for callback in others):
                    raise AutoArchError(f"There are two {kind.__name__}: give `{name}:` or the callback, not both.")
                made.append(kind(**top_level(self.instantiated(name))))
        return made

    @property
    def _given(self) -> Any:
        """The config of the subcommand."""
        return self.config if self.subcommand is None else self.config[self.subcommand]

    def add_own_arguments(self, subcommand: str, parser: LightningArgumentParser) -> list[str]:
        return add_options(subcommand, parser)

    def take_hyperparameters(self) -> None:
        subcommand = self.config.get("subcommand")
        if subcommand == "prune":
            self._take_hyperparameters()
        elif subcommand is not None and subcommand != "transfer":  # `transfer` takes the model of the config
            path = self.config[subcommand].get("ckpt_path")
            if path and Path(path).is_file():
                self._check_hyperparameters(self.config[subcommand], Path(path))
            super().take_hyperparameters()

    def _check_hyperparameters(self, given: Any, path: Path) -> None:
        arguments = hyperparameters(path)
        check_class_paths(arguments, given, path)
        named = arguments.get(CLASS_PATH, (given.get("model") or {}).get("class_path"))
        cls = self.model_type if named is None else class_of(named)
        check_named_objects(cls, arguments, given, path)

    def run_subcommand(self, subcommand: str) -> None:
        self._check_data(subcommand)
        try:
            self._runs = self._runs or subcommand not in ABOUT_OWN  # which say it themselves
            super().run_subcommand(subcommand)
        except SystemExit as exit_:  # Lightning's response to Ctrl-C
            raise SystemExit(INTERRUPTED if self.trainer.interrupted else exit_.code) from None

    def _check_data(self, subcommand: str) -> None:
        """Check that there are data to train on: those of the config, or the module's own loaders."""
        trains = subcommand in ("fit", *ABOUT_OWN)
        if trains and self.datamodule is None and not is_overridden("train_dataloader", self.model):
            raise AutoArchError(
                f"There are no data, and {type(self.model).__name__} has no `train_dataloader` of its own: give the "
                "config a section `data:` with the `class_path` of a LightningDataModule."
            )
