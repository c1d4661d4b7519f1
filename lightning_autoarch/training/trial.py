"""One trial: build a candidate, train it, return its score. A function of a picklable spec.

It does not use the study, so an executor can run it anywhere. Whatever goes wrong within one candidate (an impossible
architecture, NaN, too little memory) becomes a failed result with a reason. Only Ctrl-C, a monitor that is not logged
and a checkpoint that cannot be written are raised.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.memory import is_oom_error
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.core.errors import (
    AutoArchError,
    CheckpointError,
    CheckpointNotPlain,
    CheckpointUnwritable,
    MonitorMissing,
)
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.callback_protocols import fresh
from lightning_autoarch.training.data import TrialData, split_architecture
from lightning_autoarch.training.data_snapshot import is_installed
from lightning_autoarch.training.folds import Folds
from lightning_autoarch.training.inheritance import STATE_KEY as INHERITANCE
from lightning_autoarch.training.inheritance import Inherited, Parent, WeightInheritance
from lightning_autoarch.training.isolation import isolated
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.plain_checkpoints import OMITTED
from lightning_autoarch.training.recorder import SCHEMA, STATE_KEY, OnNan, Report, TrialRecorder
from lightning_autoarch.training.trial_files import BEST, last_checkpoint, read_lightning
from lightning_autoarch.training.trial_logger import TrialLogger

State = Literal["complete", "pruned", "failed"]
Failure = Literal["value", "memory", "build", "code"]
RETRIED: tuple[Failure, ...] = ("build", "code")  # by the next start of a search: the code may have been fixed


_NO_VALIDATION = (
    " No validation ran: without a validation loader and `validation_step`, monitor what training logs; with them, let "
    "a trial reach one by `trial.trainer`: more `max_epochs` or `max_steps`, fewer `limit_train_batches`, a smaller "
    "`val_check_interval` or `check_val_every_n_epoch`, `limit_val_batches` above 0."
)


@dataclass(frozen=True)
class TrialSpec:
    """All that a trial depends on.

    Attributes:
        architecture: the module's arguments, and those of the datamodule with the prefix `data.`. Values with other
            prefixes are not used here: `trainer` and `callbacks` have been made from them.
        builder: makes the module.
        data: gives the batches.
        trainer: arguments of the trial's Trainer.
        callbacks: copied for the trial.
        monitor, mode: the score.
        seed: of this trial.
        on_nan: "fail" ends it at the first monitored value that is not finite; "ignore" lets it continue.
        directory: for its checkpoints. None: nothing is written, and the trial cannot continue.
        parent: the trial whose weights it starts from; None: fresh weights.
        folds: how its training set is split for cross-validation; None trains it once.
    """

    architecture: Architecture
    builder: ModuleBuilder
    data: TrialData
    trainer: Mapping[str, Any]
    monitor: str
    mode: str
    seed: int
    directory: Path | None = None
    callbacks: Sequence[Callback] = ()
    parent: Parent | None = None
    on_nan: OnNan = "fail"
    folds: Folds | None = None


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        state: "complete", "pruned" (stopped early by the report) or "failed".
        score: the best monitored value that counts (in a trial that prunes: at the final sparsity); None when failed.
        history: the monitored value at each validation (or epoch), including those that do not count.
        epochs: trained, including those before an interruption.
        seconds: of training, including those before an interruption.
        checkpoint: Lightning checkpoint of the best epoch.
        error: the reason of a failure.
        failure: its kind: "value" (the score is worthless), "memory" (there was too little), "build" (the module's
            `__init__` raised) or "code" (anything else that raised).
        stderr, fold_scores: with cross-validation.
        inherited: with a parent.
        shares: of the net that callbacks had changed at that score: "sparsity", "removed", "transferred", in [0, 1].
        metrics: everything that was logged in the epoch of that score.
    """

    state: State
    score: float | None = None
    history: tuple[float, ...] = ()
    epochs: int = 0
    seconds: float = 0.0
    checkpoint: Path | None = None
    error: str | None = None
    failure: Failure | None = None
    stderr: float | None = None
    fold_scores: tuple[float, ...] = field(default=())
    inherited: Inherited | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def run_trial(spec: TrialSpec, report: Report) -> TrialResult:
    """Train one candidate from its last checkpoint on.

    Raises:
        KeyboardInterrupt: the user stops the search; the trial's last checkpoint is kept.
        MonitorMissing: it trained, but `monitor` was not logged.
        CheckpointUnwritable: the trial's checkpoint cannot be written, as when the disk is full.
        CheckpointNotPlain: its checkpoint would hold an object that cannot be read as plain data.
    """
    recorder = TrialRecorder(spec.monitor, spec.mode, spec.directory, report, spec.on_nan)
    heritage = None if spec.parent is None else WeightInheritance(spec.parent)
    result = _run(spec, recorder, [] if heritage is None else [heritage])
    return result if heritage is None else replace(result, inherited=heritage.inherited)


def _run(spec: TrialSpec, recorder: TrialRecorder, heritage: Sequence[WeightInheritance]) -> TrialResult:
    try:
        with isolated(spec.seed):
            logged = _train(spec, recorder, heritage)
    except (MonitorMissing, CheckpointNotPlain, CheckpointUnwritable, KeyboardInterrupt):
        raise
    except Exception as error:
        kind: Failure = "memory" if is_out_of_memory(error) else "code" if recorder.built else "build"
        return _failed(recorder, _reason(error), kind)
    finally:
        _free_memory()
    if recorder.failure is not None:
        return _failed(recorder, recorder.failure, "value")
    if not recorder.history:
        raise MonitorMissing(_missing(spec.monitor, logged, recorder.validated))
    return _finished(spec, recorder)


def saved_states(directory: Path | None) -> dict[str, Any]:
    """The states of the callbacks in a trial's last checkpoint, including the recorder's; empty where it has none.

    A checkpoint from which the trial cannot continue (damaged, or of another program) is ignored with a warning.
    """
    path = None
    try:
        path = None if directory is None else last_checkpoint(directory)
        content = {} if path is None else read_lightning(path)
        if OMITTED in content:
            raise CheckpointError(f"{path} was written without what the module stores beside its weights.")
        states: dict[str, Any] = content.get("callbacks", {})
        return {**states, STATE_KEY: SCHEMA.read(states.get(STATE_KEY))} if path is not None else {}
    except AutoArchError as error:
        rank_zero_warn(f"The trial in {directory} starts from its beginning, not from its last checkpoint: {error}")
        return {}


def _train(spec: TrialSpec, recorder: TrialRecorder, heritage: Sequence[WeightInheritance]) -> list[str]:
    """Fit the candidate; returns the names that were logged."""
    states = saved_states(spec.directory)
    saved = states.get(STATE_KEY)
    if saved is not None and (saved["stopped"] or saved["failure"]):
        recorder.load_state_dict(saved)
        for each in heritage:
            each.load_state_dict(states.get(INHERITANCE) or {})
        return []
    architecture, data_parameters = split_architecture(spec.architecture)
    module = spec.builder.build(architecture)
    recorder.built = True
    _decouple_metrics(module)
    _leave_out_checkpoints(module)
    logger = TrialLogger(spec.directory)
    trainer = Trainer(**_trainer_arguments(spec, [*heritage, *fresh(spec.callbacks), recorder]))
    trainer.loggers = [logger]  # not as an argument: `fast_dev_run` would put another in its place
    with spec.data.for_trial(data_parameters) as data, contextlib.closing(logger):
        _fit(
            trainer,
            module,
            data,
            None if saved is None or spec.directory is None else last_checkpoint(spec.directory),
        )
    return sorted(trainer.callback_metrics)


def _fit(trainer: Trainer, module: LightningModule, data: Mapping[str, Any], ckpt_path: Path | None) -> None:
    resume: dict[str, Any] = {} if ckpt_path is None else {"ckpt_path": str(ckpt_path), "weights_only": True}
    try:
        trainer.fit(module, **data, **resume)
    except SIGTERMException:  # a cluster takes the machine back
        raise
    except SystemExit as exit_:
        if isinstance(exit_.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise RuntimeError(f"the candidate called sys.exit({exit_.code})") from exit_
    if trainer.interrupted:
        raise KeyboardInterrupt


def _trainer_arguments(spec: TrialSpec, callbacks: Sequence[Callback]) -> dict[str, Any]:
    root = None if spec.directory is None else str(spec.directory)
    ours = {"callbacks": list(callbacks), "default_root_dir": root, "use_distributed_sampler": False, "logger": False}
    if any(isinstance(callback, ProgressBar) for callback in callbacks):  # the user asks for one in `trial.callbacks`
        ours["enable_progress_bar"] = True
    return {**{name: _own(value) for name, value in spec.trainer.items()}, **ours}


def _own(argument: Any) -> Any:
    """A copy for this trial, for example of a plugin that scales gradients; what cannot be copied is shared."""
    try:
        return copy.deepcopy(argument)
    except Exception:  # whatever `__deepcopy__` and `__reduce__` raise
        return argument


def _decouple_metrics(module: LightningModule) -> None:
    """Metrics of a trial must not synchronise with trials on other ranks: a hang, or mixed numbers."""
    import torchmetrics

    for child in module.modules():
        if isinstance(child, torchmetrics.Metric):
            child.distributed_available_fn = bool  # False, and unlike a lambda saved with modules that save a metric


def _leave_out_checkpoints(module: LightningModule) -> None:
    """A ModelCheckpoint of `configure_callbacks` is the outer fit's: trials must not write into its folder."""
    if not is_overridden("configure_callbacks", module):
        return
    configure = module.configure_callbacks

    def configure_callbacks() -> list[Callback]:
        made = configure()
        return [cb for cb in (made if isinstance(made, Sequence) else [made]) if not isinstance(cb, Checkpoint)]

    module.configure_callbacks = configure_callbacks  # type: ignore[method-assign]


def _finished(spec: TrialSpec, recorder: TrialRecorder) -> TrialResult:
    if recorder.best_step is None:
        return _failed(recorder, recorder.why_none_counts(), "value")
    best = None if spec.directory is None else spec.directory / BEST
    return TrialResult(
        state="pruned" if recorder.pruned else "complete",
        score=recorder.history[recorder.best_step],
        history=tuple(recorder.history),
        epochs=recorder.epochs,
        seconds=recorder.seconds,
        checkpoint=best if best is not None and best.exists() else None,
        shares=dict(recorder.shares),
        metrics=dict(recorder.metrics),
    )


def _failed(recorder: TrialRecorder, reason: str, kind: Failure) -> TrialResult:
    return TrialResult(
        state="failed",
        history=tuple(recorder.history),
        epochs=recorder.epochs,
        seconds=recorder.seconds,
        error=reason,
        failure=kind,
    )


def _reason(error: Exception) -> str:
    """One line: the kind of error, its message, and the user's line that raised it."""
    if is_out_of_memory(error):
        return f"out of memory: {_first_line(error)}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_installed(f.filename)]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_first_line(error)}{where}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the host."""
    return isinstance(error, MemoryError) or is_oom_error(error) or "DefaultCPUAllocator" in str(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _missing(monitor: str, logged: Sequence[str], validated: bool) -> str:
    from lightning_autoarch.core.errors import did_you_mean

    names = ", ".join(f"`{name}`" for name in logged) or "nothing"
    return (
        f"`monitor={monitor!r}` was not logged by the first trial, which logged {names}.{did_you_mean(monitor, logged)}"
        f"{'' if validated else _NO_VALIDATION}"
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
