"""The sections `search:`, `prune:` and `transfer:` and the subcommands' own options, as jsonargparse reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.search import ArchitectureSearch
from lightning_autoarch.callbacks.search_config import StudyConfig, TrialConfig
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.prune.schedule import CubicSparsity, SparsitySchedule
from lightning_autoarch.transfer.tune.thawing import Strategy

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
    """Start from what is known.

    Args:
        checkpoint: a file, a directory, https:// or hf://owner/name; in the subcommand `transfer` also `--ckpt_path`.
        strategy: full, linear_probe, lp_ft, gradual or lora.
        trusted: classes that the checkpoint may hold beside plain data, as `package.module.Class`. What they do when
            they are loaded is then done: only for a file whose maker you trust.
    """

    # Only for jsonargparse to read: a config names files, not modules, and a wrong strategy is an error of one line.
    def __init__(
        self, checkpoint: str | None = None, *, strategy: str = "full", trusted: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(checkpoint, strategy=cast(Strategy, strategy), trusted=trusted, **kwargs)


SECTIONS: dict[str, tuple[type[Callback], tuple[str | None, ...]]] = {  # the class, and where it means something
    "search": (_SearchOptions, FITTING),
    "prune": (_PruneOptions, (*FITTING, "prune")),
    "transfer": (_TransferOptions, (*FITTING, "transfer")),
}


class StandIn(Callback):
    """Where nothing is fitted: a checkpoint's state of the callback that a section makes then has its callback."""

    def __init__(self, section: str) -> None:
        self._section = section

    @property
    def state_key(self) -> str:
        made = {"search": ArchitectureSearch, "prune": MagnitudePruning, "transfer": TransferLearning}
        return f"lightning_autoarch.{made[self._section].__name__}"


def add_sections(parser: LightningArgumentParser, subcommand: str | None) -> None:
    """Every section to every parser, so that one config serves all; its keys only where they mean something."""
    for section, (options, subcommands) in SECTIONS.items():
        if subcommand in subcommands:
            parser.add_class_arguments(options, section, instantiate=False, fail_untyped=False)
        else:
            names = [f"`{name}`" for name in subcommands if name is not None]
            where = f"{', '.join(names[:-1])} and {names[-1]}"
            parser.add_argument(f"--{section}", type=dict, help=f"Of {where}; not used here.")


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
