"""The costs of a module before and after pruning: its parameters, and a forward of it as its Trainer runs it.

The input is `example_input_array`, or the first batch of the validation, or else of the training, or whichever part of
it the forward accepts. Both modules run at the end, in turns, so that other load of the machine slows down both. If a
module cannot be run, this is reported and not raised: the pruning itself does not need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_autoarch.core.examples import WAYS, arguments_of_array, moved_to
from lightning_autoarch.core.rest import detached_copy
from lightning_autoarch.seam.lightning import callbacks_of
from lightning_autoarch.structure.cost import flops_by_density, seconds_of_each

PATIENCE_SECONDS = 2.0  # for the forwards of both modules
FEWEST, MOST = 5, 101  # forwards of each
SINGLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # all their FLOPs are products with `weight`


@dataclass(frozen=True)
class Costs:
    """The costs of a module; None is unknown.

    Attributes:
        parameters: number of parameters.
        nonzero: number of parameters that are not 0.
        size: bytes of the tensors of its `state_dict`.
        flops: FLOPs of a forward.
        nonzero_flops: FLOPs that multiply with a weight other than 0.
        seconds: median time of a forward.
    """

    parameters: int
    nonzero: int
    size: int
    flops: int | None = None
    nonzero_flops: int | None = None
    seconds: float | None = None


def stored(module: nn.Module) -> Costs:
    """The costs that need no forward."""
    numbers = [parameter.detach() for parameter in module.parameters()]
    return Costs(
        parameters=sum(tensor.numel() for tensor in numbers),
        nonzero=sum(int(torch.count_nonzero(tensor)) for tensor in numbers),
        size=sum(t.numel() * t.element_size() for t in module.state_dict().values() if isinstance(t, Tensor)),
    )


class FirstBatch(Callback):
    """Keeps the first batch that a module receives."""

    def __init__(self) -> None:
        self.batch: Any = None
        self.of = ""

    @contextmanager
    def listening(self, trainer: Trainer) -> Iterator[None]:
        """One of the Trainer's callbacks within the context."""
        callbacks = callbacks_of(trainer)
        callbacks.insert(0, self)
        try:
            yield
        finally:
            callbacks.remove(self)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        self._keep(batch, "the validation")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._keep(batch, "the training")

    def _keep(self, batch: Any, of: str) -> None:
        if not self.of:
            self.batch, self.of = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, batch), of


def compared(
    trainer: Trainer,
    modules: Sequence[LightningModule],  # of the same inputs
    first: FirstBatch,
) -> tuple[list[Costs], list[str]]:  # of each module; and sentences on what was run and what could not be
    """Run the modules on the same input, in turns."""
    costs = [stored(module) for module in modules]
    with _ready(trainer, modules):
        inputs, note = _inputs(trainer, modules[-1], first)
        if inputs is None:
            return costs, [note]
        notes = [note]
        try:
            flops = [flops_by_density(module, inputs, _densities(module)) for module in modules]
            costs = [replace(c, flops=all_, nonzero_flops=some) for c, (all_, some) in zip(costs, flops, strict=True)]
        except Exception as error:  # whatever the forward does that a copy cannot
            notes.append(f"FLOPs are not known: the forward of a copy does not run ({_first_line(error)}).")
        try:
            seconds = _medians(modules, inputs)
            costs = [replace(c, seconds=median) for c, median in zip(costs, seconds, strict=True)]
        except Exception as error:  # the dense module is a copy, which may lack what its forward needs
            notes.append(f"The latency is not known: the forward does not run ({_first_line(error)}).")
    return costs, notes


def copied(module: LightningModule) -> tuple[list[LightningModule], list[str]]:  # none; why there is none
    """A copy of the module, if it can be copied."""
    try:
        return [detached_copy(module)], []
    except Exception as error:  # whatever it holds that cannot be copied: a file, a lock
        return [], [f"FLOPs and latency before are not known: the module cannot be copied ({_first_line(error)})."]


def _inputs(trainer: Trainer, module: LightningModule, first: FirstBatch) -> tuple[Any, str]:
    """The first input that the forward accepts and its origin; or None and the reason."""
    example = module.example_input_array
    if example is not None:
        args, kwargs = arguments_of_array(example)
        ways, what = [kwargs or args], "`example_input_array`"
    else:
        ways, what = list(_parts(first.batch)), f"the first batch of {first.of}"
    why = "it has no parts"
    for way in ways:
        inputs = trainer.precision_plugin.convert_input(moved_to(way, module.device))
        try:
            seconds_of_each([module], inputs, runs=1)
        except Exception as error:  # the next way may fit; the last reason is reported
            why = _first_line(error)
            continue
        where = f"{what}{_shapes(inputs)} on {_machine(module)}"
        return inputs, f"FLOPs and latency are of a forward of {where}, dense and pruned in turns."
    return None, (
        f"FLOPs and latency are not known: the forward does not take {what} ({why}). "
        "Set `self.example_input_array` in the module."
    )


def _parts(batch: Any) -> Iterator[Any]:
    for way in WAYS:
        try:
            args, kwargs = way(batch)
        except (TypeError, KeyError, IndexError, ValueError):  # a batch without parts, or without names
            continue
        yield kwargs or args


@contextmanager
def _ready(trainer: Trainer, modules: Sequence[LightningModule]) -> Iterator[None]:
    """The modules on the device of the fit, with its precision."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.to, module.device)
            module.to(trainer.strategy.root_device)
        stack.enter_context(trainer.precision_plugin.forward_context())
        yield


def _medians(modules: Sequence[nn.Module], inputs: Any) -> list[float]:
    once = sum(seconds_of_each(modules, inputs, runs=1))
    return seconds_of_each(modules, inputs, runs=min(MOST, max(FEWEST, int(PATIENCE_SECONDS / max(once, 1e-9)))))


def _densities(module: nn.Module) -> dict[str, float]:
    layers = [(path, layer.weight) for path, layer in module.named_modules() if isinstance(layer, SINGLE)]
    return {path: int(torch.count_nonzero(w.detach())) / w.numel() for path, w in layers if w.numel()}


def _shapes(inputs: Any) -> str:
    shapes = [" x ".join(map(str, leaf.shape)) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return f" ({', '.join(shapes)})" if shapes else ""


def _machine(module: LightningModule) -> str:
    if module.device.type == "cpu":
        threads = torch.get_num_threads()
        return f"the CPU, {threads} thread{'s' * (threads != 1)}"
    return str(module.device)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
