"""Knowledge distillation: a module that is made smaller learns from what it was, or from another.

    loss = loss of training_step + weight * mean over the calls of D(student(x), teacher(x))

with D as in prune/distillation.py (Hinton, Vinyals & Dean 2015: T^2 KL of softened classes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_autoarch.callbacks.base import AutoArchCallback
from lightning_autoarch.callbacks.prune.distilled_step import DistilledStep, Given, is_compiled
from lightning_autoarch.callbacks.prune.trainer import number
from lightning_autoarch.callbacks.sharding import check_whole_parameters
from lightning_autoarch.callbacks.unique import check_unique
from lightning_autoarch.core.errors import PruneTypeError, PruneValueError, did_you_mean
from lightning_autoarch.core.patterns import plain_name
from lightning_autoarch.core.schema import Schema, text
from lightning_autoarch.prune.counts import non_negative
from lightning_autoarch.prune.distillation import KINDS, OutputLoss, check_temperature, output_loss
from lightning_autoarch.seam.lightning import callbacks_of


class Distillation(AutoArchCallback):
    """Adds to the loss of `training_step` how far the outputs are from a teacher's on the same inputs.

    The module stays as it is: while a fit runs, its `training_step` is wrapped, and each call in it of the module, or
    of its `layer`, is repeated by the teacher. Calls under `torch.no_grad` are left out. The teacher is a frozen copy
    in eval mode that is no part of the module: not of its parameters, state_dict, optimizers or checkpoints.

    Args:
        temperature: T, of KL.
        weight: of what is added.
        teacher: None: the module as the fit begins, before anything is pruned (such a fit cannot be resumed: the
            teacher is not in its checkpoints); or a module: a LightningModule stands for its `layer`; or the path of a
            checkpoint of this module.
        loss: "kl", "mse", "auto" (KL for outputs (batch, classes > 1), else MSE: for a regression with several outputs
            take "mse"), or a function of the student's output and the teacher's.
        layer: name of the submodule that is taught, for a `training_step` that does not call the module itself.

    Logs `distillation_loss`, without its weight, beside what the user logs.

    Raises:
        PruneTypeError, PruneValueError: here, or before training starts: no such layer, or one inside of a compiled
            module; manual optimization; a strategy that shards parameters; a teacher that cannot be made. In the first
            step: nothing was called, or the outputs do not match.

    >>> Distillation(temperature=2.0).state_dict()
    {}
    >>> trainer = Trainer(callbacks=[Distillation(layer="backbone", teacher="dense.ckpt")])  # doctest: +SKIP
    """

    schema = Schema("Distillation", 1, {"teacher": text()})
    remedy = "Let one of them teach another `layer`."

    def __init__(
        self,
        temperature: float = 4.0,
        weight: float = 0.5,
        teacher: Given = None,
        loss: Literal["auto", "kl", "mse"] | OutputLoss = "auto",
        layer: str = "",
    ) -> None:
        self.temperature, self.weight = check_temperature(temperature), non_negative(weight, "weight")
        if not (teacher is None or isinstance(teacher, nn.Module | str | Path)):
            raise PruneTypeError(f"Expected `teacher` to be a module, a path or None, got {teacher!r:.80}.")
        if loss not in KINDS and not callable(loss):
            raise PruneValueError(f"Expected `loss` to be one of {', '.join(KINDS)}, or a function, got {loss!r:.80}.")
        if not isinstance(layer, str):
            raise PruneTypeError(f"Expected `layer` to be the name of a submodule, got {layer!r:.80}.")
        self.teacher, self.loss, self.layer = teacher, loss, layer
        self._was_module = False  # whether a fit had the module itself as its teacher
        self._resumes = False
        self._step: DistilledStep | None = None

    @property
    def state_key(self) -> str:
        key = f"lightning_autoarch.Distillation{self.layer and '.'}{self.layer}"
        check_unique(self, key, self.remedy)
        return key

    def save_state(self) -> dict[str, Any] | None:
        return {"teacher": "the module as the fit began"} if self._was_module else None

    def restore_state(self, state: dict[str, Any]) -> None:
        self._resumes = True

    def fit_attributes(self) -> dict[str, object]:
        return {"_step": None}  # which holds the module and the teacher

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_whole_parameters(self, trainer)
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            _come_before_pruning(self, callbacks_of(trainer))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        self._check(pl_module)
        resumes, self._resumes = self._resumes, False
        if self.teacher is None and resumes:
            raise PruneValueError(
                "This fit goes on from a checkpoint of one whose teacher was the module as it began, which the "
                "checkpoint does not hold. Give it: `Distillation(teacher=...)`, a module or the path of a checkpoint."
            )
        from lightning_autoarch.callbacks.prune.teacher import make_teacher, to_precision_of  # reads checkpoints

        teacher = to_precision_of(make_teacher(pl_module, self.teacher, self.layer), pl_module)
        self._was_module = self.teacher is None
        key = f"distillation_loss{number(self, trainer)}"
        self._step = DistilledStep(pl_module, self.layer, teacher, self._distance, self.weight, key)
        self._step.install()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self._step is not None:
            self._step.remove()
            self._step = None

    def _distance(self, student: Any, teacher: Any) -> Tensor:
        if isinstance(self.loss, str):
            return output_loss(student, teacher, self.loss, self.temperature)
        value = self.loss(student, teacher)
        if not isinstance(value, Tensor) or value.dim():
            raise PruneTypeError("Expected `loss` to return a tensor without dimensions.")
        return value

    def _check(self, module: LightningModule) -> None:
        if not module.automatic_optimization:
            raise PruneValueError(
                f"{type(module).__name__} optimizes by itself, so there is no loss to add to. Add the term in its "
                "`training_step`: `lightning_autoarch.prune.distillation.output_loss(student, teacher)`."
            )
        if hasattr(module.training_step, "_torchdynamo_orig_callable"):
            raise PruneValueError("`training_step` is compiled as a whole. Compile submodules instead.")
        _check_layer(module, self.layer)


def _check_layer(module: nn.Module, layer: str) -> None:
    names: dict[str, nn.Module] = {}
    for raw, child in module.named_modules():
        names.setdefault(plain_name(raw), child)
    if layer not in names:
        hint = did_you_mean(layer, filter(None, names))
        raise PruneValueError(f"Expected `layer` to be in {type(module).__name__}, got `{layer}`.{hint}")
    parts = layer.split(".") if layer else []
    for outer in (".".join(parts[:i]) for i in range(len(parts))):
        if is_compiled(names[outer]):
            raise PruneValueError(
                f"`{layer}` lies inside of a compiled module, where nothing can look. Take `layer={outer!r}`, or "
                "compile less."
            )


def _come_before_pruning(callback: Distillation, callbacks: list[Callback]) -> None:
    """The teacher is the module before the callbacks beside this one begin to prune it."""
    package = __name__.rpartition(".")[0]
    kin = [cb for cb in callbacks if type(cb).__module__.startswith(f"{package}.")]
    first = next((cb for cb in kin if not isinstance(cb, Distillation)), None)
    if first is not None and callback in callbacks and callbacks.index(first) < callbacks.index(callback):
        callbacks.remove(callback)
        callbacks.insert(callbacks.index(first), callback)
