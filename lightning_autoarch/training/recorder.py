"""The callback in every trial: records the monitored value, writes checkpoints, and ends the trial early on request.

At the end of each epoch, after every other callback, the value is appended to the history, `last.ckpt` is replaced
atomically (the best epoch's file is a hard link to it), and the value is reported; the report may ask to stop. While a
callback is not settled, values neither count nor are reported: in a trial that prunes, an early, dense epoch would
otherwise be the best.

A killed trial continues from `last.ckpt` bit for bit. The checkpoint holds the RNG states, which are restored in
`on_fit_start` (later, the loader's iterator has already drawn its seed), and the metrics that drive schedulers, whose
step Lightning skips on resume.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.core.errors import CheckpointUnwritable
from lightning_autoarch.core.rng import RNG, rng_state, set_rng_state
from lightning_autoarch.core.schema import VERSION, Schema, data, flag, mapping, optional, real, sequence, text, whole
from lightning_autoarch.seam.lightning import forget_train_loaders, once_loaded, resume_after_last_epoch
from lightning_autoarch.training.callback_protocols import TrialMark, shares, unsettled
from lightning_autoarch.training.generators import held, restore, states
from lightning_autoarch.training.plain_checkpoints import check_reads_back, describe_hyperparameters, omit_objects
from lightning_autoarch.training.trial_files import BEST, LAST

Report = Callable[[int, float], bool]  # (step, value) -> whether to stop the trial
STATE_KEY = "lightning_autoarch.TrialRecorder"
OnNan: TypeAlias = Literal["fail", "ignore"]


SCHEMA = Schema(
    "TrialRecorder",
    1,
    {
        "history": sequence(real(finite=False)),
        "stopped": flag(),
        "pruned": flag(),
        "failure": optional(text()),
        "epochs": whole(),
        "seconds": real(0.0),
        "at_validation": optional(flag()),
        "metrics": mapping(real(finite=False)),
        "rng": RNG,
        "generators": mapping(data()),
    },
    {
        "counts": sequence(flag()),
        "awaited": sequence(text()),
        "shares": mapping(real(finite=False)),
        "best_metrics": mapping(real(finite=False)),
    },
)


class TrialRecorder(Checkpoint, TrialMark):
    """See the module's docstring.

    Args:
        monitor: the name of the logged value that is the score.
        mode: "min" or "max".
        directory: for `last.ckpt` and `best.ckpt`; None writes nothing.
        report: called with each new value.
        on_nan: "fail": a monitored value that is not finite fails and ends the trial; "ignore": such a value does not
            count and is not reported, and the trial continues.

    Attributes:
        history: the monitored values so far; their index is the step.
        awaited: the callbacks that were not settled at the last value; the value counts if there are none.
        stopped: whether a pruner or a callback such as EarlyStopping asked to end the trial.
        pruned: whether it was `report` that asked.
        shares: of the net that callbacks had changed (`training/callback_protocols.py`) at the best value that counts.
        metrics: everything that had been logged by the end of that value's epoch.
        built: whether the module has been built.
        failure: why the trial has failed; None if it has not.
        validated: whether a validation has been completed.
    """

    def __init__(self, monitor: str, mode: str, directory: Path | None, report: Report, on_nan: OnNan = "fail") -> None:
        self.monitor, self.mode, self.directory, self.report = monitor, mode, directory, report
        self.on_nan = on_nan
        self.history: list[float] = []
        self.awaited: list[str] = []
        self.shares: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self._counts: list[bool] = []  # of `history`
        self._awaited_at_start: list[str] = []  # of the epoch, to all of which a value logged in training belongs
        self.stopped = self.pruned = False
        self.failure: str | None = None
        self.validated = self.built = False
        self._epochs = 0
        self._seconds_before = 0.0
        self._started = time.perf_counter()
        self._at_validation: bool | None = None
        self._improved = self._best_is_new = False
        self._saving: Trainer | None = None
        self._content: dict[str, Any] | None = None  # of the checkpoint that is being saved
        self._before_module: frozenset[str] = frozenset()  # its keys before the module adds its own
        self._warned_of_omitted = False
        self._resumed: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return STATE_KEY

    @property
    def seconds(self) -> float:
        """Training seconds, those before an interruption included."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def epochs(self) -> int:
        """Epochs trained, those before an interruption included."""
        return self._epochs

    @property
    def best_step(self) -> int | None:
        """The step of the best value that counts, the earliest of equals; None before there is one."""
        sign = 1 if self.mode == "min" else -1
        counting = [(sign * value, step) for step, value in enumerate(self.history) if self._counts[step]]
        return min(counting)[1] if counting else None

    @property
    def dirpath(self) -> str | None:
        """As ModelCheckpoint has it: modules read it from `trainer.checkpoint_callback`, which this is in a trial."""
        return None if self.directory is None else str(self.directory)

    @property
    def best_model_path(self) -> str:
        """Of the best epoch's checkpoint so far; empty before there is one."""
        return self._path_of("best.ckpt")

    @property
    def last_model_path(self) -> str:
        """Of the last epoch's checkpoint; empty before there is one."""
        return self._path_of("last.ckpt")

    @property
    def best_model_score(self) -> torch.Tensor | None:
        """The best value that counts; None before there is one."""
        return None if self.best_step is None else torch.tensor(self.history[self.best_step])

    def why_none_counts(self) -> str:
        """The reason, where `history` has values but `best_step` is None."""
        n = len(self.history)
        if not any(math.isfinite(value) for value in self.history):
            return f"`{self.monitor}` was never finite, in {n} values"
        return (
            f"none of the {n} values of `{self.monitor}` counts: {', '.join(self.awaited)} was not done yet with "
            "pruning. Let the schedule end earlier, or a trial train longer"
        )

    def _path_of(self, name: str) -> str:
        path = None if self.directory is None else self.directory / name
        return str(path) if path is not None and path.exists() else ""

    def state_dict(self) -> dict[str, Any]:
        trainer = self._saving
        if trainer is None:
            return {}
        return {
            VERSION: SCHEMA.version,
            "history": list(self.history),
            "counts": list(self._counts),
            "awaited": list(self.awaited),
            "shares": dict(self.shares),
            "stopped": self.stopped,
            "pruned": self.pruned,
            "failure": self.failure,
            "epochs": self._epochs,
            "seconds": self.seconds,
            "at_validation": self._at_validation,
            "metrics": _floats(trainer.callback_metrics),
            "best_metrics": dict(self.metrics),
            "rng": rng_state(),
            "generators": states(held(_holders(trainer))),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = SCHEMA.read(state_dict)
        self._resumed = state_dict
        self.history = list(state_dict["history"])
        counts = list(state_dict.get("counts", []))
        self._counts = [*counts[: len(self.history)], *[True] * (len(self.history) - len(counts))]
        self.awaited = list(state_dict.get("awaited", []))
        self.shares = dict(state_dict.get("shares", {}))
        self.metrics = dict(state_dict.get("best_metrics", {}))
        self.stopped, self.pruned = state_dict["stopped"], state_dict["pruned"]
        self.failure = state_dict["failure"]
        self._epochs = state_dict["epochs"]
        self._seconds_before = state_dict["seconds"]
        self._at_validation = state_dict["at_validation"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed is not None:
            set_rng_state(self._resumed["rng"])
            # `estimated_stepping_batches` in `configure_optimizers` makes the loaders, whose iterators draw, too early.
            forget_train_loaders(trainer)
            resume_after_last_epoch(trainer)
            _restore_generators(trainer, pl_module, self._resumed["generators"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed is None:
            return
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in self._resumed["metrics"].items()})
        for config in trainer.lr_scheduler_configs:
            due = config.interval == "epoch" and trainer.current_epoch % config.frequency == 0
            if config.reduce_on_plateau and due and config.monitor in self._resumed["metrics"]:
                config.scheduler.step(self._resumed["metrics"][config.monitor])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._awaited_at_start = unsettled(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.validated = True
        if self._at_validation is None:  # before any epoch has ended, only the validation can have logged it
            self._at_validation = not self.history and self.monitor in trainer.callback_metrics
        if self._at_validation:
            self._record(trainer, unsettled(trainer))
            if self._improved and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
                self._save(trainer, BEST)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._at_validation and self.monitor in trainer.callback_metrics:
            self._record(trainer, self._awaited_at_start)
        if self._best_is_new:  # values logged in training are available only now
            self.metrics |= _floats(trainer.callback_metrics)
            self._best_is_new = False
        self._epochs = trainer.current_epoch + 1
        self.stopped = self.stopped or trainer.should_stop
        self._save(trainer, LAST)
        if self._improved and self.directory is not None:
            _link(self.directory / LAST, self.directory / BEST)
        self._improved = False

    def _record(self, trainer: Trainer, awaited: list[str]) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        finite = math.isfinite(value)
        self.history.append(value)
        self.awaited = awaited
        self._counts.append(not awaited and finite)
        step = len(self.history) - 1
        if not finite:
            if self.on_nan == "fail":
                self.failure = f"`{self.monitor}` became {value} in epoch {trainer.current_epoch + 1}"
                trainer.should_stop = True
            return
        if awaited or self.best_step == step:  # a share that is counted only at first, such as `transferred`, is kept
            self.shares |= shares(trainer)
        if awaited:
            return
        if self.best_step == step:
            self.metrics, self._best_is_new = _floats(trainer.callback_metrics), True
        self._improved = self._improved or self.best_step == step
        if not self.pruned and self.report(step, value):
            self.pruned = True
            trainer.should_stop = True

    def _save(self, trainer: Trainer, name: str) -> None:
        if self.directory is None:
            return
        part = self.directory / f"{name}.part"
        self._saving = trainer
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)  # a link would be written through
            trainer.save_checkpoint(part, weights_only=False)
            self._omit_objects(trainer, part)
            check_reads_back(part, self._content)
            os.replace(part, self.directory / name)
        except OSError as error:
            raise CheckpointUnwritable(
                f"The trial's checkpoint {self.directory / name} cannot be written: {error}. What is done is kept: "
                "free some space, or make the directory writable, then start the same script again to go on."
            ) from error
        finally:
            self._saving = self._content = None
        if name == BEST:
            self._improved = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Replace hyperparameters that are not plain data by descriptions, in checkpoints of this trial only."""
        if self._saving is trainer:
            describe_hyperparameters(checkpoint)
            self._content, self._before_module = checkpoint, frozenset(checkpoint)  # the module's hook comes next

    def _omit_objects(self, trainer: Trainer, path: Path) -> None:
        """Write the checkpoint again without objects that the module's own hook has added to it."""
        if self._content is None:
            return
        described = describe_hyperparameters(self._content)
        omitted = omit_objects(self._content, self._content.keys() - self._before_module)
        if described or omitted:
            torch.save(self._content, path)
        if omitted and not self._warned_of_omitted:
            self._warned_of_omitted = True
            rank_zero_warn(
                f"`on_save_checkpoint` of {type(trainer.lightning_module).__name__} stores objects in "
                f"{', '.join(f'`{key}`' for key in omitted)}. Checkpoints of trials hold data alone and leave them "
                "out, so a trial that is interrupted starts from its beginning. The checkpoints of the fit have them."
            )


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _link(source: Path, target: Path) -> None:
    """Make `target` another name of `source`, or a copy where the file system has no links; atomically."""
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    os.replace(part, target)


def _holders(trainer: Trainer) -> dict[str, Any]:
    return {"train": trainer.train_dataloader, "val": trainer.val_dataloaders, "module": trainer.lightning_module}


def _restore_generators(trainer: Trainer, module: LightningModule, saved: Mapping[str, Any]) -> None:
    """Restore the module's generators now, and those of the loaders when they are created, before the first batch."""
    restore(held({"module": module}), saved)
    once_loaded(trainer, "train", lambda loaders: restore(held({"train": loaders}), saved))
    once_loaded(trainer, "val", lambda loaders: restore(held({"val": loaders}), saved))
