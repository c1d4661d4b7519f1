"""Where the weights come from: a checkpoint, or the module as it is; and what of them is made new."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils._pytree import tree_map

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.grids import Grid
from lightning_autoarch.transfer.match.report import TAKEN, TransferReport
from lightning_autoarch.transfer.patterns import Names
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.read.contents import Weights
from lightning_autoarch.transfer.transfer_weights import transfer_weights

Source: TypeAlias = str | os.PathLike[str] | nn.Module | Mapping[str, Any]


def take_over(
    module: nn.Module,
    names: Names,
    source: Source,
    *,
    reinit: Collection[str],
    head: Collection[str],
    check: Callable[[TransferReport], None],
    rules: Sequence[tuple[str, str]],
    on_mismatch: Any,
    classes: Mapping[int, int] | None,
    example_inputs: Any = None,
    grid: Grid | None = None,
    lora_alpha: float | None = None,
    min_share: float | None = None,
    weights: Weights = "state_dict",
    key: str | None = None,
    trusted: Collection[type | str] = (),
) -> TransferReport:
    """Transfer a checkpoint into a module; `reinit` and `head` are names, `check` is called before anything is written.

    Raises:
        TransferError: "widen" without an input, not a parameter came from it, or as `transfer_weights`.
        CheckpointError: it cannot be read.
    """

    def accept(report: TransferReport) -> None:
        if not report.taken:
            where = source if isinstance(source, str | os.PathLike) else type(source).__name__
            raise TransferError(
                f"Expected weights for {type(module).__name__} in {where}, but not one parameter was taken over: it is "
                f"of another architecture, its names need `rules`, or `reinit` names all that it has.\n{report}"
            )
        check(report)

    plain = weights == "state_dict" and key is None and not trusted
    return transfer_weights(
        module,
        source if plain else read_checkpoint(source, weights=weights, key=key, trusted=trusted),
        rules=rules,
        on_mismatch=on_mismatch,
        classes=classes,
        reinit=[_regex(names.raw(reinit))] if reinit else [],
        head=_regex(names.raw(head)) if head else None,
        example_inputs=_inputs(module, on_mismatch, example_inputs),
        grid=_grid(names, grid),
        lora_alpha=lora_alpha,
        min_share=min_share,
        accept=accept,
    )


def started_from(names: Names, report: TransferReport | None, reinit: Collection[str]) -> set[str]:
    """Parameters that have weights of before: from the checkpoint, or all where the module already had them."""
    if report is None:
        return set(names.parameters) - set(reinit)
    taken = {tensor.name for tensor in report if tensor.status in TAKEN}
    return {name for name in names.parameters if taken.intersection(names.raw([name]))}


def reset_parameters(module: nn.Module, names: Names, chosen: Collection[str]) -> None:
    """Initialise parameters anew, as their layers do; others of the same layer stay.

    Raises:
        TransferError: a layer has no `reset_parameters`.
    """
    wanted = {id(names.parameters[name]): name for name in chosen if name in names.parameters}
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        here = [wanted[id(parameter)] for parameter in own if id(parameter) in wanted]
        if not here:
            continue
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if not callable(reset):
            raise TransferError(
                f"Expected a `reset_parameters` of {type(layer).__name__} to make `{here[0]}` anew, got none: "
                "initialise it in the module, and leave it out of `reinit`."
            )
        kept = [(parameter, parameter.detach().clone()) for parameter in own if id(parameter) not in wanted]
        reset()
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)


def _inputs(module: nn.Module, on_mismatch: Any, given: Any) -> Any:
    """For the forward that "widen" runs, where the module is."""
    if on_mismatch == "widen" and given is None:
        given = getattr(module, "example_input_array", None)
        if given is None:
            raise TransferError(
                f'Expected an input for `on_mismatch="widen"`, which runs the forward of {type(module).__name__}: set '
                "`self.example_input_array` in the module, or give `example_inputs=`."
            )
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, given)


def _grid(names: Names, grid: Grid | None) -> Grid | None:
    """With regular expressions for the globs of its patterns."""
    if not isinstance(grid, Mapping):
        return grid
    return {_regex(names.raw(names.matching(pattern, "grid"))): pair for pattern, pair in grid.items()}


def _regex(names: Collection[str]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$"
