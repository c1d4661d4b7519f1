"""`TransferLearning`: add it to a Trainer, and `fit` starts from pretrained weights and fine-tunes them.

The arguments are here, the hooks in `life.py`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from lightning_autoarch.callbacks.base import Tunable
from lightning_autoarch.callbacks.transfer.life import FineTuning
from lightning_autoarch.callbacks.transfer.lora import MISSING, merge_lora
from lightning_autoarch.callbacks.transfer.plan import Tuning
from lightning_autoarch.callbacks.transfer.starting_point import with_inputs
from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.transfer.match.name_matching import Rule, checked_rules
from lightning_autoarch.transfer.matching import (
    Matching,
    OnMismatch,
    TransferOptions,
    check_on_mismatch,
    from_mapping,
    matching_from,
)
from lightning_autoarch.transfer.read.checkpoint import AnySource, Source
from lightning_autoarch.transfer.read.remote import is_remote
from lightning_autoarch.transfer.tune.thawing import Strategy, Thawing

TUNABLE = (
    "on_mismatch", "freeze", "freeze_depth", "strategy", "layer_decay", "lr_scale", "l2_sp", "warmup_epochs", "head",
    "frozen_dropout",
)  # fmt: skip
GROUPED = {  # arguments whose fields a search varies by their own names
    "thawing": ("every", "unit", "monitor", "mode", "patience", "min_delta", "probe_epochs"),
    "matching": ("grid", "lora_alpha", "min_share"),
}


class TransferLearning(FineTuning):
    """Takes weights over in `setup(stage="fit")`, and decides which parameters are trained when and how fast.

    The module's `configure_optimizers` stays as it is. Patterns are globs over dotted names, of parameters or of
    modules around them: `backbone`, `encoder.layers.[0-5]`, `*.bias`. A regular expression is given as
    `re.compile(...)`, or as a string `re:...`.

    Args:
        checkpoint: A path, a URL, `hf://owner/name`, a module, a mapping of names to tensors, or a `Source`, which says
            what to read of a checkpoint. None if the module comes with its weights. A fit that resumes (`ckpt_path`)
            takes nothing over.
        rules: Pairs `(pattern, replacement)` for names of the checkpoint, as for `transfer_weights`.
        on_mismatch: What happens to tensors of other shapes: "skip", "slice", "widen" or "error", as for
            `transfer_weights`. "widen" uses the module's `example_input_array` if `matching` has no inputs.
        reinit: Patterns of what is not taken over; without `checkpoint`, of what is initialised anew.
        head: Patterns of the output layer. Default: the block of the last linear layer or convolution.
        matching: The less common options of matching, as a `Matching` or a mapping of its arguments.
        strategy: "full" trains everything, "linear_probe" only the head, "lp_ft" the head and then everything,
            "gradual" one more block from the top each epoch, "lora" adapters (by `peft`) and the head.
        freeze: Patterns of what is not trained. A norm with running statistics is in eval mode while it is frozen.
        freeze_depth: Number of blocks, counted from the input (see `transfer/tune/blocks.py`), that are not trained.
        thawing: When frozen blocks start to train, as a `Thawing` or a mapping of its arguments.
        layer_decay: Factor of the learning rate from each block to the one below it, in (0, 1].
        lr_scale: Pattern -> factor of the learning rate; the first pattern that matches a name counts.
        warmup_epochs: Number of epochs, or a fraction, over which the learning rate of what thaws grows from 0.
        l2_sp: Weight of the penalty ||w - w_0||^2 on what was taken over, logged as `l2_sp`. The starting weights w_0
            are kept in each checkpoint.
        lora: Options of `peft.LoraConfig`: {"r": 8, "lora_alpha": 16}.
        frozen_dropout: Whether dropout in frozen layers stays active; otherwise frozen layers are in eval mode.

    What the checkpoint does not have is trained from the start, whatever the strategy freezes, and tells which layer is
    the head. What `freeze` freezes nevertheless is named in a warning.

    A checkpoint that is saved while adapters are trained ("lora") holds plain weights with the adapters merged: it
    loads into the plain module, and resumes bit for bit with this callback, whose state has the adapters.

    Attributes:
        report: What was taken over; None without `checkpoint`, and in a fit that continues another one.
        blocks: How each block of layers is trained, from the input to the output, and when it thawed; empty before a
            fit.

    Raises:
        TransferError, CheckpointError: In `setup`, with the module unchanged, for everything that is known by then.
            What depends on the data, such as times in steps, is raised before the first step; a `monitor` that is not
            logged, after the first validation.

    Example::

        transfer = TransferLearning("pretrained.ckpt", strategy="gradual", layer_decay=0.75, reinit=["head"])
        L.Trainer(max_epochs=20, callbacks=[transfer]).fit(model, datamodule=dm)

        TransferLearning("pretrained.ckpt", strategy="gradual", thawing=Thawing(every=500, unit="step"))
        TransferLearning("pretrained.ckpt", strategy="gradual", thawing=Thawing(monitor="val_loss", patience=2))
        TransferLearning(Source("gan.ckpt", key="generator"), matching=Matching(min_share=0.9))
    """

    prefix = "transfer"

    def __init__(
        self,
        checkpoint: AnySource | None = None,
        *,
        rules: Sequence[Rule] = (),
        on_mismatch: OnMismatch = "skip",
        reinit: Patterns = (),
        head: Patterns = (),
        matching: Matching | Mapping[str, Any] | None = None,
        strategy: Strategy = "full",
        freeze: Patterns = (),
        freeze_depth: int = 0,
        thawing: Thawing | Mapping[str, Any] | None = None,
        layer_decay: float | None = None,
        lr_scale: Mapping[str, float] | None = None,
        warmup_epochs: float = 0.0,
        l2_sp: float | None = None,
        lora: Mapping[str, Any] | None = None,
        frozen_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.rules = rules
        self.on_mismatch: OnMismatch = on_mismatch
        self.reinit = reinit
        self.head = head
        self.matching = matching_from(matching)
        self.strategy: Strategy = strategy
        self.freeze = freeze
        self.freeze_depth = freeze_depth
        self.thawing: Thawing = from_mapping(Thawing, thawing, "thawing")
        self.layer_decay = layer_decay
        self.lr_scale: Mapping[str, float] = {} if lr_scale is None else lr_scale
        self.warmup_epochs = warmup_epochs
        self.l2_sp = l2_sp
        self.lora: Mapping[str, Any] = {} if lora is None else lora
        self.frozen_dropout = frozen_dropout
        checked_rules(rules)
        check_on_mismatch(on_mismatch)
        self.tuning  # noqa: B018  (raises what is wrong)

    @property
    def tuning(self) -> Tuning:
        return Tuning(
            strategy=self.strategy, freeze=self.freeze, freeze_depth=self.freeze_depth, layer_decay=self.layer_decay,
            lr_scale=self.lr_scale, warmup_epochs=self.warmup_epochs, l2_sp=self.l2_sp, reinit=self.reinit,
            head=self.head, lora=self.lora, frozen_dropout=self.frozen_dropout, thawing=self.thawing,
        )  # fmt: skip

    def transfer_options(self, module: LightningModule) -> TransferOptions:
        matching = with_inputs(self.matching, self.on_mismatch, module)
        return TransferOptions(self.rules, self.on_mismatch, self.reinit, self.head, matching)

    def tunables(self) -> list[Tunable]:
        start = [Tunable("checkpoint", sets_weights=True), Tunable("reinit", sets_weights=True)]
        grouped = [
            Tunable(name, argument=argument, field=name) for argument, names in GROUPED.items() for name in names
        ]
        patterns = [Tunable("lr_scale", float, by_pattern=True), Tunable("lora", by_pattern=True)]
        return [*start, *map(Tunable, TUNABLE), *grouped, *patterns]

    def obstacles(self) -> dict[str, str]:
        if self.strategy == "lora" and importlib.util.find_spec("peft") is None:
            return {"strategy": MISSING}
        source = self.checkpoint.path if isinstance(self.checkpoint, Source) else self.checkpoint
        if isinstance(source, str | os.PathLike) and not _exists(os.fspath(source)):
            return {"checkpoint": f"Expected a checkpoint at {source}, got nothing there"}
        return {}

    def make_plain_(self, module: LightningModule) -> None:
        if self.strategy == "lora":
            merge_lora(module)


def _exists(source: str) -> bool:
    return is_remote(source) or Path(source).expanduser().exists()
