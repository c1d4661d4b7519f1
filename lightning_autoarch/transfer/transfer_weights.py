"""`transfer_weights`: everything of a source that a module can use, all at once or not at all.

    targets   what the module has         names     which tensor of the source is which
    shapes    what becomes of it          values    its numbers, dequantised and checked
    coupling  channels that hang together identity  blocks that are new
    proof     the same outputs            commit    the copies

Nothing of the module is touched before the whole plan stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightning_autoarch.transfer.match.coupled import Axis
from lightning_autoarch.transfer.match.grids import Grid
from lightning_autoarch.transfer.match.names import Rule
from lightning_autoarch.transfer.match.options import OnMismatch, check_min_share, checked_options
from lightning_autoarch.transfer.match.plan import Plan
from lightning_autoarch.transfer.match.report import TransferReport, check_share
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.write.commit import write_all
from lightning_autoarch.transfer.write.proof import check_function


def transfer_weights(
    module: nn.Module,
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Any],
    *,
    rules: Sequence[Rule] = (),
    on_mismatch: OnMismatch = "skip",
    classes: Mapping[int, int] | None = None,
    reinit: Sequence[str] = (),
    head: str | None = None,
    groups: Iterable[Sequence[Axis]] | None = None,
    example_inputs: Any = None,
    approximate: bool = False,
    lora_alpha: float | None = None,
    grid: Grid | None = None,
    min_share: float | None = None,
    accept: Callable[[TransferReport], None] | None = None,
) -> TransferReport:
    """Copy weights into a module, in place: parameters stay the same objects, and train if they did.

    Args:
        module: with memory; of any dtype, to which weights are cast, on any device.
        source: as for `read_checkpoint`, or what it has returned.
        rules: `(pattern, replacement)` for names of the source, in turn: `("^backbone\\\\.", "encoder.")`. Prefixes of
            wrappers (`module.`, `_orig_mod.`, `model.`) and the path of a net within another need none.
        on_mismatch: of shapes or dtypes. "skip" leaves such a tensor as it is, "slice" copies what both have, "widen"
            replicates channels where the module has more of them, so that it computes what the source's module did, and
            slices where it has fewer; "error" raises. Position embeddings of images and the first convolution are
            adapted in all but "error". Those of a sequence are tensors like any other: "slice" copies the first rows.
        classes: row of the source's output layer -> row of the module's; others stay as they are.
        reinit: patterns of names in the module that are left as they are.
        head: pattern of the names of the output layer; by default the last linear or convolution that is registered.
            Its rows are classes, which "slice" does not cut.
        groups: for "slice", axes that count the same channels: the most important are kept instead of the first.
        example_inputs: arguments of the module's forward, as for `structure.channel_groups`. "widen" needs them; with
            "slice" they find the `groups`. They are given to the forward of a source that is a module, too.
        approximate: let "widen" come near where the function cannot be kept; the report says where. Of a source that is
            only tensors, what these do not say is assumed: heads of the same size, norms over as many groups, and the
            same constants.
        lora_alpha: of low-rank adapters that the source holds beside its weights, which are then added to them; 0
            leaves them out. Such a file does not say it.
        grid: of position embeddings, where it cannot be known from the module: `((14, 14), (16, 12))`, rows and columns
            in the source and here, or a pattern of names -> that. What rows there are in front of the grid (class,
            distillation and register tokens) is kept apart. For a table of relative positions, its window. Of one
            dimension, `((512,), (1024,))`, it stretches the positions of a sequence.
        min_share: the least share of the parameters that has to come from the source, from 0 to 1; less raises.
        accept: called with the report before anything is written; what it raises leaves the module as it was.

    Raises:
        TransferError: bad or unused rules or grids, nothing in common, a mismatch with "error", tied weights of which
            the source has different ones, adapters without their scale, a share below `min_share`, numbers that do not
            fit, a function that "widen" cannot keep, or cannot know to be kept. The module is then as it was.
        StructureError: the forward cannot be followed. Likewise.
        CheckpointError: the source cannot be read.

    >>> old = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> new = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
    >>> report = transfer_weights(new, old)
    >>> report.counts, f"{report.share:.0%}"
    ({'loaded': 2, 'skipped': 2}, '47%')
    """
    options = checked_options(
        rules, on_mismatch, classes, reinit, head, groups=groups, example_inputs=example_inputs,
        approximate=approximate, lora_alpha=lora_alpha, grid=grid,
    )  # fmt: skip
    state = read_checkpoint(source)
    with torch.no_grad():
        plan = Plan(module, state, options)
        report = plan.report()
        check_share(report, check_min_share(min_share))
        if accept is not None:
            accept(report)
        if plan.coupling is not None and not approximate:
            run = source if isinstance(source, nn.Module) else None
            check_function(module, plan.writes, run, example_inputs, report, plan.coupling)
        write_all(plan.writes)
    return report
