"""`AutoArchCLI`: LightningCLI with the subcommands `search`, `prune` and `transfer`, and their sections in a config."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_autoarch.callbacks.search import ArchitectureSearch
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.cli.checkpoint_classes import check_class_paths, check_named_objects, class_of
from lightning_autoarch.cli.ends import INTERRUPTED, check_installed, in_short
from lightning_autoarch.cli.hints import HintingParser
from lightning_autoarch.cli.optimizers import WithLateOptimizers
from lightning_autoarch.cli.options import ABOUT_OWN, StateHolder, add_options, add_sections, declared_sections
from lightning_autoarch.cli.prune import PruneCommand
from lightning_autoarch.cli.search import SearchCommand, first_search
from lightning_autoarch.cli.sections import differs, hyperparameters, top_level
from lightning_autoarch.cli.transfer import TransferCommand
from lightning_autoarch.core.errors import AutoArchError, SearchError
from lightning_autoarch.seam.lightning import CLASS_PATH
from lightning_autoarch.training.links import Links

_USAGE = "%(prog)s [--config FILE] [--KEY VALUE ...]"  # jsonargparse's own names every key: 70 lines before each error
_OF_OTHERS: dict[str, tuple[type[Callback], ...]] = {  # what a subcommand leaves out of `trainer.callbacks`
    "prune": (ArchitectureSearch, TransferLearning),  # what the checkpoint holds is searched and fine-tuned already
    "transfer": (ArchitectureSearch,),
}


class AutoArchCLI(SearchCommand, PruneCommand, TransferCommand, WithLateOptimizers):
    """LightningCLI whose `fit` searches first if the config has `search:`, with the subcommand `search` for that alone.

    With `prune:` in the config training prunes; the subcommand `prune` does so from a checkpoint on. With `transfer:`
    it starts from a checkpoint; the subcommand `transfer` does so and says what was taken over.

    Takes what LightningCLI takes. Optimizers and schedulers of the config are made anew for each candidate. An error of
    this package ends the program with one line, with `JSONARGPARSE_DEBUG=true` in a traceback.

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
            # The same command again is how a search resumes: its config.yaml is there already.
            self.save_config_kwargs = {"overwrite": True, **self.save_config_kwargs}
        for callback in (search, *others):
            if isinstance(callback, ArchitectureSearch):
                callback.links = Links.of(self.parser_of(self.subcommand), self._given)
        if callbacks is not None or any(made):
            kwargs["callbacks"] = [*filter(None, made), *others]
        if self.subcommand in ABOUT_OWN:
            self.save_config_callback = None  # they write something of their own
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
        elif subcommand is not None and subcommand != "transfer":  # there the model is the config's: a new one
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
        except SystemExit as exit_:  # what Lightning makes of Ctrl-C
            raise SystemExit(INTERRUPTED if self.trainer.interrupted else exit_.code) from None

    def _check_data(self, subcommand: str) -> None:
        """There is something to train on: the data of the config, or loaders that the module makes itself."""
        trains = subcommand in ("fit", *ABOUT_OWN)
        if trains and self.datamodule is None and not is_overridden("train_dataloader", self.model):
            raise AutoArchError(
                f"There are no data, and {type(self.model).__name__} has no `train_dataloader` of its own: give the "
                "config a section `data:` with the `class_path` of a LightningDataModule."
            )
