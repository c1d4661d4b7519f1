"""`StepCalls`: the inputs of a module, taken from its first training step if no example is given.

The step itself is the example: every module that it calls with gradients is followed, however it prepares the batch.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from typing import Any

from lightning.pytorch import LightningModule
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn
from torchmetrics import Metric

from lightning_autoarch.core.errors import PruneValueError, StructureError
from lightning_autoarch.core.rest import detached_copy
from lightning_autoarch.prune.channels import Reduction, Selection, check_prunable
from lightning_autoarch.structure.calls import CallRecorder, Calls
from lightning_autoarch.structure.trace import followable

REMEDY = (
    "Set `self.example_input_array` to what the module's `forward` takes (with a `forward` that depends on shapes "
    "alone), or prune the part that can be followed with `prune_channels_` before the training."
)


class StepCalls:
    """The calls in one fit.

    Attributes:
        inputs: in the form of `example_inputs`; None before the first step.
    """

    def __init__(self) -> None:
        self.inputs: Any = None
        self._recorder: CallRecorder | None = None
        self._batch: Any = None
        self._seen = 0  # calls, when they were looked at

    def begin(self, module: LightningModule, batch: Any) -> None:
        """Record the next step, unless one was recorded."""
        if self._recorder is None:
            self._batch = batch
            self._recorder = CallRecorder(module, skip=lambda part: isinstance(part, Metric)).__enter__()

    def end(self) -> bool:
        """End of a step. Returns whether it called more modules than were checked."""
        if self._recorder is None or not self._recorder.is_on:
            return False
        self._recorder.__exit__(None, None, None)
        return len(self._recorder.calls.calls) > self._seen

    def forget(self) -> None:
        """Remove all hooks from the module, and release all tensors."""
        if self._recorder is not None:
            self._recorder.__exit__(None, None, None)
        self._recorder = self._batch = self.inputs = None
        self._seen = 0

    def check(self, module: LightningModule, reduction: Reduction, selection: Selection) -> None:
        """Find inputs with which the module can be followed, and made small enough.

        Raises:
            StructureError: there are none; the error says what to do.
            PruneValueError: as `check_prunable`.
        """
        assert self._recorder is not None
        calls = self._recorder.calls
        self._seen = len(calls.calls)
        self.inputs = _as_example(calls) if calls.calls else _beginning(self._batch)
        try:
            check_prunable(module, self.inputs, reduction, selection)
        except StructureError as error:
            parts, reasons = followable(detached_copy(module), calls)
            if not parts.calls or not reasons:
                raise StructureError(f"{error} {REMEDY}") from error
            self.inputs = parts
            try:
                check_prunable(module, parts, reduction, selection, also_runs=calls)
            except (StructureError, PruneValueError) as second:
                raise type(second)(f"{second} (Before: {error}) {REMEDY}") from second
            names = ", ".join(f"`{path or type(module).__name__}`" for path in reasons)
            rank_zero_info(
                f"ChannelPruning: {names} cannot be followed as a whole ({next(iter(reasons.values()))}), so channels "
                "go inside of its parts only."
            )

    def tell_twins(self, module: LightningModule, followers: Container[str]) -> None:
        """Report nets that ran without learning and have the shapes of one that learns: a target network, an average.

        Args:
            module: that was recorded.
            followers: paths of nets that are pruned with the other one, if the training copies weights into them.
        """
        assert self._recorder is not None
        learning = [module.get_submodule(call.path) for call in self._recorder.calls.calls]
        names = {id(m): name for name, m in module.named_modules()}
        for path in self._recorder.still:
            twin = next((m for part in learning for m in part.modules() if _alike(m, module.get_submodule(path))), None)
            if twin is not None and path in followers:
                rank_zero_info(
                    f"`{path}` has the shapes of `{names[id(twin)]}` and does not learn: it is pruned with it if the "
                    "training has copied weights into it by then."
                )
            elif twin is not None:
                rank_zero_warn(
                    f"`{path}` has the shapes of `{names[id(twin)]}` and does not learn, so it is not pruned with it. "
                    "If the training copies weights from one to the other, prune when it is over: "
                    "`ChannelPruning(..., at=1.0)`."
                )

    @property
    def still(self) -> tuple[str, ...]:
        """Paths of the nets that ran in the recorded step without learning."""
        return self._recorder.still if self._recorder is not None else ()

    def tell_left(self, paths: Collection[str]) -> list[str]:
        """Warn about those of these nets that ran without learning: they keep their sizes. Returns their paths."""
        left = [path for path in self.still if path in paths]
        for path in left:
            rank_zero_warn(
                f"`{path}` has the shapes of a net that loses channels, but the training has not copied weights into "
                "it so far, so it is not pruned. If it will, it fails: prune later, or when the training is over, "
                "`ChannelPruning(..., at=1.0)`."
            )
        return left


def _as_example(calls: Calls) -> Any:
    """A single call of the module itself is an ordinary example."""
    path, args, kwargs = calls.calls[0]
    if len(calls.calls) > 1 or path or (args and kwargs):
        return calls
    return kwargs or args


def _beginning(batch: Any) -> Any:
    """The input of `forward`: the first item of a batch, or a dict as its keywords."""
    return batch[0] if isinstance(batch, tuple | list) else batch


def _alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether they are of one class, with parameters of the same names and shapes."""
    return a is not b and type(a) is type(b) and _shapes(a) == _shapes(b)


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in module.named_parameters()]
