"""What this package uses of LightningCLI beyond its public interface: subcommands of its own, in a CLI of three mixins.

LightningCLI takes subcommands from the methods of a Trainer. `ExtensibleCLI` overrides the private methods that build
and run them, once, and has named methods and attributes in their places. `tests/seam/test_lightning_cli.py` fails if
the oldest or the newest supported version does not call them as described here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

Registered = tuple[str, Any]  # where in a config, and which class or classes may stand there


class ExtensibleCLI(LightningCLI):
    """LightningCLI with places to extend it.

    Attributes:
        own_subcommands: name -> help, of methods of this class that are subcommands.
        listed_subcommands: name -> help, of subcommands that run elsewhere, and are only listed in the help.
        usage: how the help of each subcommand shows its call; None for jsonargparse's, which names every key.
        building: the subcommand whose parser is being built; None before the first, and with `run=False`.
    """

    own_subcommands: ClassVar[Mapping[str, str]] = {}
    listed_subcommands: ClassVar[Mapping[str, str]] = {}
    usage: ClassVar[str | None] = None
    building: str | None = None

    # To be called

    def given(self, key: str) -> Any:
        """What the config of the subcommand has under a key; None where there is nothing."""
        return self._get(self.config, key)

    def instantiated(self, key: str, default: Any = None) -> Any:
        """The same with objects in the place of their configs."""
        return self._get(self.config_init, key, default=default)

    def parser_of(self, subcommand: str | None) -> LightningArgumentParser:
        """The parser of a subcommand; of the program for None."""
        return self._parser(subcommand)

    @property
    def model_type(self) -> type[LightningModule] | Callable[..., LightningModule]:
        """What makes the model: its class, the base class of those that a config may name, or a function."""
        return self._model_class

    def automatic_optimizers(self, subcommand: str | None) -> tuple[list[Registered], list[Registered]]:
        """The optimizers and the schedulers of which LightningCLI makes `configure_optimizers`, if it is one each."""
        parser = self._parser(subcommand)
        registers = (parser._optimizers, parser._lr_schedulers)
        first, second = ([(key, c) for key, (c, link) in all_.items() if link == "AUTOMATIC"] for all_ in registers)
        return first, second

    # To be overridden

    def add_own_arguments(self, subcommand: str, parser: LightningArgumentParser) -> list[str]:
        """Add the arguments of one of `own_subcommands` to its parser; returns the names that its method takes."""
        return []

    def take_hyperparameters(self) -> None:
        """Take the hyperparameters of `ckpt_path` into the config, before it is instantiated."""
        super()._parse_ckpt_path()

    def set_configure_optimizers(self, subcommand: str | None) -> None:
        """Give the model `configure_optimizers` by the config's `optimizer` and `lr_scheduler`."""
        super()._add_configure_optimizers_method_to_model(subcommand)

    def run_subcommand(self, subcommand: str) -> None:
        """Run a subcommand, when all is instantiated."""
        if subcommand in self.own_subcommands:
            getattr(self, subcommand)(**self._prepare_subcommand_kwargs(subcommand))
        else:
            super()._run_subcommand(subcommand)

    # What LightningCLI calls

    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        main, subcommands = super()._setup_parser_kwargs(parser_kwargs)
        subcommands |= {name: main.pop(name) for name in self.own_subcommands if name in main}
        return main, subcommands

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for name, about in self.own_subcommands.items():
            self.building = name
            own = self.init_parser(**{"description": about, "usage": self.usage, **kwargs.get(name, {})})
            self._subcommand_method_arguments[name] = self.add_own_arguments(name, own)
            self._add_arguments(own)
            self._subcommand_parsers[name] = own
            _list(parser, name, own, about)
        for name, about in self.listed_subcommands.items():
            _list(parser, name, LightningArgumentParser(), about)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        self.building = subcommand
        return super()._prepare_subcommand_parser(klass, subcommand, **{"usage": self.usage, **kwargs})

    def _parse_ckpt_path(self) -> None:
        self.take_hyperparameters()

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        self.set_configure_optimizers(subcommand)

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_subcommand(subcommand)


def subcommand_parsers(parser: LightningArgumentParser) -> dict[str, LightningArgumentParser]:
    """The parsers of a program's subcommands, by their names."""
    action = parser._subcommands_action
    return {} if action is None else dict(action._name_parser_map)


def _list(parser: LightningArgumentParser, name: str, own: LightningArgumentParser, about: str) -> None:
    """Let the help of the program list a subcommand."""
    assert parser._subcommands_action is not None
    parser._subcommands_action.add_subcommand(name, own, help=about)
