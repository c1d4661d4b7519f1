"""`TransferLearning`: add it to a Trainer, and `fit` starts from what is already known and fine-tunes it.

Its arguments are here; what its hooks do is in `life.py`.
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
from lightning_autoarch.callbacks.transfer.recipe import Recipe
from lightning_autoarch.callbacks.transfer.sources import Source
from lightning_autoarch.callbacks.unique import check_unique
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.grids import Grid
from lightning_autoarch.transfer.match.options import OnMismatch, check_min_share, check_on_mismatch
from lightning_autoarch.transfer.patterns import Patterns
from lightning_autoarch.transfer.read.contents import Weights, check_weights
from lightning_autoarch.transfer.read.remote import is_remote
from lightning_autoarch.transfer.tune.clock import Mode, Unit
from lightning_autoarch.transfer.tune.thawing import Strategy

_TUNABLE = (
    "on_mismatch", "freeze", "freeze_depth", "strategy", "layer_decay", "lr_scale", "l2_sp", "warmup_epochs", "head",
    "probe_epochs", "grid", "lora_alpha", "min_share", "frozen_dropout", "weights", "key", "trusted", "thaw_every",
    "unit", "monitor", "mode", "patience", "min_delta",
)  # fmt: skip


class TransferLearning(FineTuning):
    """Takes over weights in `setup(stage="fit")`, and decides what is trained when and how fast.

    The module's `configure_optimizers` stays as it is. Patterns are globs over dotted names, of parameters or of
    modules around them: `backbone`, `encoder.layers.[0-5]`, `*.bias`.

    Args:
        checkpoint: what `read_checkpoint` takes; None where the module comes with its weights. A fit that resumes
            (`ckpt_path`) takes nothing over.
        rules: `(pattern, replacement)` for names in the checkpoint, as for `transfer_weights`.
        on_mismatch: what becomes of tensors of other shapes: "skip", "slice", "widen" or "error".
        classes: row of the checkpoint's output layer -> row of the module's.
        freeze: patterns of what is not trained. A norm with running statistics is in eval while it is frozen.
        freeze_depth: how many blocks from the input on (see `transfer/tune/blocks.py`) are not trained.
        unfreeze: epoch -> patterns of what is trained from then on, from 1; with `unit="step"` optimizer steps.
        strategy: "full" trains everything, "linear_probe" the head, "lp_ft" the head and then everything, "gradual" one
            more block from the top each epoch, "lora" adapters (by `peft`) and the head.
        thaw_every: how many epochs or steps there are between two blocks of "gradual", and for how many "lp_ft" trains
            the head alone. With `monitor` the most that there may be.
        unit: of `thaw_every` and `unfreeze`: "epoch", or "step" of the optimizer, as `trainer.global_step` counts it.
        monitor: a logged value by which "gradual" and "lp_ft" thaw: the next block when validation has not improved it
            for `patience` checks in a row (a NaN is no improvement), whatever the epoch; each block starts a new count.
        mode: "min" or "max": what of `monitor` is better.
        patience: validations without an improvement.
        min_delta: by how much `monitor` has to be better than the best value of the fit so far.
        layer_decay: factor of the learning rate from each block to the one below it, see `transfer/tune/blocks.py`.
        lr_scale: pattern -> factor of the learning rate; of several that match the first counts.
        l2_sp: weight of the penalty ||w - w_0||^2 on what was taken over, logged as `l2_sp`. Its start w_0 is kept in
            each checkpoint.
        reinit: patterns of what is not taken over; without `checkpoint`, of what is initialised anew.
        warmup_epochs: over which the learning rate of what has been thawed grows from 0, also a part of one.
        head: patterns of the output layer; by default the block of the last linear or convolution that is registered.
        probe_epochs: of "lp_ft", in epochs; by default half of the fit's.
        lora: options of `peft.LoraConfig`: {"r": 8, "lora_alpha": 16}.
        example_inputs: of the module's forward, for "slice" and "widen"; "widen" takes the `example_input_array` where
            there are none.
        grid: of position embeddings, as for `transfer_weights`: `((14, 14), (16, 12))`, or pattern -> that.
        lora_alpha: of adapters that the checkpoint holds beside its weights, as for `transfer_weights`.
        min_share: the least share of the parameters that has to come from the checkpoint, from 0 to 1.
        frozen_dropout: whether frozen layers drop out as the others do. With False they are in eval as a whole.
        weights: of the checkpoint: "state_dict", "average" or "current", as for `read_checkpoint`.
        key: of the dict in the checkpoint to take, "generator" or "nets.teacher", as for `read_checkpoint`.
        trusted: classes that the checkpoint may hold beside plain data, as for `read_checkpoint`.

    What the checkpoint does not have is trained from the start, whatever the strategy holds back, and says which layer
    is the head, wherever that is registered. What `freeze` holds back all the same is named in a warning.

    A checkpoint that is saved while adapters are trained ("lora") holds plain weights, the adapters added: it loads
    into the plain module, and resumes bit for bit with this callback, whose state has the adapters.

    Attributes:
        report: what was taken over; None without `checkpoint`, and where the fit goes on from another one.
        blocks: how each block of layers is trained, from the input to the output, and when it thawed; empty before a
            fit.

    Raises:
        TransferError, CheckpointError: in `setup`, with the module as it was, for everything that can be known by then.
            What depends on the data, as times in steps do, is raised before the first step; a `monitor` that is not
            logged, after the first validation.

    Example::

        transfer = TransferLearning("pretrained.ckpt", strategy="gradual", layer_decay=0.75, reinit=["head"])
        L.Trainer(max_epochs=20, callbacks=[transfer]).fit(model, datamodule=dm)

        TransferLearning("pretrained.ckpt", strategy="gradual", thaw_every=500, unit="step")
        TransferLearning("pretrained.ckpt", strategy="gradual", monitor="val_loss", patience=2, thaw_every=5)
    """

    def __init__(
        self,
        checkpoint: Source | None = None,
        *,
        rules: Sequence[tuple[str, str]] = (),
        on_mismatch: OnMismatch = "skip",
        classes: Mapping[int, int] | None = None,
        freeze: Patterns = (),
        freeze_depth: int = 0,
        unfreeze: Mapping[int, Patterns] | None = None,
        strategy: Strategy = "full",
        layer_decay: float | None = None,
        lr_scale: Mapping[str, float] | None = None,
        l2_sp: float | None = None,
        reinit: Patterns = (),
        warmup_epochs: float = 0.0,
        head: Patterns = (),
        probe_epochs: int | None = None,
        lora: Mapping[str, Any] | None = None,
        example_inputs: Any = None,
        grid: Grid | None = None,
        lora_alpha: float | None = None,
        min_share: float | None = None,
        frozen_dropout: bool = True,
        weights: Weights = "state_dict",
        key: str | None = None,
        trusted: Sequence[type | str] = (),
        thaw_every: int | None = None,
        unit: Unit = "epoch",
        monitor: str | None = None,
        mode: Mode = "min",
        patience: int = 3,
        min_delta: float = 0.0,
    ) -> None:
        matching: dict[str, Any] = {
            "rules": rules, "on_mismatch": check_on_mismatch(on_mismatch), "classes": classes,
            "example_inputs": example_inputs, "grid": grid, "lora_alpha": lora_alpha,
            "min_share": check_min_share(min_share), "weights": check_weights(weights), "key": key,
            "trusted": list(trusted) if not isinstance(trusted, str) else trusted,
        }  # fmt: skip
        recipe = Recipe(
            strategy=strategy, freeze=freeze, freeze_depth=freeze_depth, unfreeze={} if unfreeze is None else unfreeze,
            layer_decay=layer_decay, lr_scale={} if lr_scale is None else lr_scale, warmup_epochs=warmup_epochs,
            probe_epochs=probe_epochs, head=head, reinit=reinit, l2_sp=l2_sp, lora={} if lora is None else lora,
            frozen_dropout=frozen_dropout, thaw_every=thaw_every, unit=unit, monitor=monitor, mode=mode,
            patience=patience, min_delta=min_delta,
        )  # fmt: skip
        super().__init__(checkpoint, matching, recipe)

    prefix = "transfer"

    def tunables(self) -> list[Tunable]:
        start = [Tunable("checkpoint", sets_weights=True), Tunable("reinit", sets_weights=True)]
        own = [Tunable(name) for name in _TUNABLE]
        return [*start, *own, Tunable("lr_scale", float, by_pattern=True), Tunable("lora", by_pattern=True)]

    def obstacles(self) -> dict[str, str]:
        if self.recipe.strategy == "lora" and importlib.util.find_spec("peft") is None:
            return {"strategy": MISSING}
        source = self.checkpoint
        if isinstance(source, str | os.PathLike) and not _is_there(os.fspath(source)):
            return {"checkpoint": f"Expected a checkpoint at {source}, got nothing there"}
        return {}

    def make_plain_(self, module: LightningModule) -> None:
        if self.recipe.strategy == "lora":
            merge_lora(module)

    @property
    def state_key(self) -> str:
        key = "lightning_autoarch.TransferLearning"
        remedy = (
            "They would freeze and group the same parameters: give all patterns to one of them, and take over a second "
            "checkpoint by `transfer_weights` before the fit."
        )
        check_unique(self, key, remedy, TransferError)
        return key

    def arguments(self) -> dict[str, Any]:
        """With what `__init__` makes this callback again."""
        return {"checkpoint": self.checkpoint, **self.matching, **vars(self.recipe)}


def _is_there(source: str) -> bool:
    return is_remote(source) or Path(source).expanduser().exists()
