"""The sections of a config and the options of our subcommands, as jsonargparse reads them.

`search:`, `prune:` and `transfer:` are ours. Callbacks of third parties declare one by `AutoArchCallback.section`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lightning_autoarch.callbacks.base import declared_callbacks
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.search import ArchitectureSearch
from lightning_autoarch.callbacks.search_config import StudyConfig, TrialConfig
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.prune.schedule import CubicSparsity, SparsitySchedule
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.read.checkpoint import source_from
from lightning_autoarch.transfer.tune.thawing import Strategy, Thawing

ABOUT_OWN = {
    "search": "Search an architecture, write a config with it, train nothing afterwards.",
    "prune": "Load weights, train on while pruning, print the result, save a plain checkpoint.",
    "transfer": "Take over weights, fine-tune, print the result, save a plain checkpoint.",
}
FITTING = (None, "fit", "search")  # the subcommands in which `search:` means something; None: `run=False`
SPARSITY = 0.9  # where `prune:` has no schedule
_REPORT = "The HTML page to write; empty: none. Default: beside the checkpoint."


_TRIAL, _STUDY = TrialConfig(), StudyConfig()


class _SearchOptions(ArchitectureSearch):
    """Search an architecture.

    Args:
        space: argument of the model (or `data.` and argument of the data, or a dotted name inside of an argument, such
            as `encoder.init_args.dim`) -> what it can be, such as
            `{low: 16, high: 512, log: true}`, `[relu, gelu]`, `{min: 1, max: 4, block: {width: {low: 8, high: 64}}}`.
        monitor: the logged value that is the score: the best epoch's counts.
    """

    # Only for jsonargparse to read: without `search:` nothing of it is required, and each option of a group has a name.
    def __init__(
        self,
        space: dict[str, Any] | None = None,
        *,
        monitor: str | None = None,
        trial: TrialConfig = _TRIAL,
        study: StudyConfig = _STUDY,
        **kwargs: Any,
    ) -> None:
        super().__init__(space or {}, monitor=monitor or "", trial=trial, study=study, **kwargs)


class _PruneOptions(MagnitudePruning):
    """Prune in training.

    Args:
        schedule: CubicSparsity, ConstantSparsity, OneShot or IterativeSparsity, by `class_path` and `init_args`; None:
            CubicSparsity(0.9) where anything else of `prune` is given, and in the subcommand `prune`.
    """

    # Only for jsonargparse to read: without `prune:` nothing of it is required.
    def __init__(self, schedule: SparsitySchedule | None = None, **kwargs: Any) -> None:
        super().__init__(schedule or CubicSparsity(SPARSITY), **kwargs)


class _TransferOptions(TransferLearning):
    """Start from pretrained weights.

    Args:
        checkpoint: A file, a directory, https:// or hf://owner/name; in the subcommand `transfer` also `--ckpt_path`.
            `{path: ..., key: ..., weights: ..., trusted: [...]}` says what to read of it, see `read_checkpoint`.
        strategy: full, linear_probe, lp_ft, gradual or lora.
    """

    # Only for jsonargparse to read: a config names files, not modules, and a wrong strategy is an error of one line.
    def __init__(
        self,
        checkpoint: str | dict[str, Any] | None = None,
        *,
        strategy: str = "full",
        matching: Matching = Matching(),  # noqa: B008  (frozen)
        thawing: Thawing = Thawing(),  # noqa: B008
        **kwargs: Any,
    ) -> None:
        super().__init__(
            source_from(checkpoint), strategy=cast(Strategy, strategy), matching=matching, thawing=thawing, **kwargs
        )


@dataclass(frozen=True)
class Section:
    """A section of a config: the arguments of one callback.

    Attributes:
        callback: the class that it makes.
        options: the class whose constructor is read by jsonargparse: the same, with a default for every argument.
        subcommands: those in which the section has an effect; None stands for `run=False`.
    """

    callback: type[Callback]
    options: type[Callback]
    subcommands: tuple[str | None, ...]

    @property
    def state_key(self) -> str:
        """What a checkpoint finds the state of its callback by."""
        return f"{self.callback.__module__.partition('.')[0]}.{self.callback.__name__}"


_OWN = {
    "search": Section(ArchitectureSearch, _SearchOptions, FITTING),
    "prune": Section(MagnitudePruning, _PruneOptions, (*FITTING, "prune")),
    "transfer": Section(TransferLearning, _TransferOptions, (*FITTING, "transfer")),
}


def sections() -> dict[str, Section]:
    """All sections by name: ours, and those that imported callbacks declare by `AutoArchCallback.section`."""
    return {**declared_sections(), **_OWN}


def declared_sections() -> dict[str, Section]:
    """The sections of callbacks that no subcommand is about."""
    declared = ((cls.__dict__.get("section"), cls) for cls in declared_callbacks())
    return {name: Section(cls, cls, FITTING) for name, cls in declared if name is not None}


class StateHolder(Callback):
    """Takes the place of a section's callback where nothing is fitted.

    So the state of that callback in a checkpoint has its callback, and Lightning does not warn.
    """

    def __init__(self, section: str) -> None:
        self._section = section

    @property
    def state_key(self) -> str:
        return sections()[self._section].state_key


def add_sections(parser: LightningArgumentParser, subcommand: str | None) -> None:
    """Add every section to a parser, so that one config serves all; with its keys only where they have an effect."""
    for name, section in sections().items():
        if subcommand in section.subcommands:
            parser.add_class_arguments(section.options, name, instantiate=False, fail_untyped=False)
        else:
            used = [f"`{each}`" for each in section.subcommands if each is not None]
            where = f"{', '.join(used[:-1])} and {used[-1]}"
            parser.add_argument(f"--{name}", type=dict, help=f"Of {where}; not used here.")


def add_options(subcommand: str, parser: LightningArgumentParser) -> list[str]:
    """The arguments of our own subcommands' methods; returns their names."""
    if subcommand == "search":
        parser.add_argument("--output", default="best.yaml", help="The config to write; `fit` takes it.")
        return ["output"]
    if subcommand == "prune":
        parser.add_argument("--ckpt_path", required=True, help="A checkpoint of the model, or its weights alone.")
        parser.add_argument(
            "--output", default="pruned.ckpt", help="The checkpoint to write: weights, hyperparameters."
        )
    else:
        parser.add_argument("--ckpt_path", help="Where weights come from: `transfer.checkpoint`.")
        parser.add_argument("--output", default="finetuned.ckpt", help="The checkpoint to write.")
    parser.add_argument("--report", type=str | None, help=_REPORT)
    return ["ckpt_path", "output", "report"]
