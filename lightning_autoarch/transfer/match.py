"""`transfer_weights`: everything of a source that a module can use, all at once or not at all.

    targets   what the module has         names     which tensor of the source is which
    shapes    what becomes of it          values    its numbers, dequantised and checked
    identity  blocks that are new         commit    the copies

Nothing of the module is touched before the whole plan stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from lightning_autoarch.errors import TransferError
from lightning_autoarch.transfer.checkpoint import read_checkpoint
from lightning_autoarch.transfer.commit import write_all
from lightning_autoarch.transfer.coupled import Axis
from lightning_autoarch.transfer.names import Rule
from lightning_autoarch.transfer.plan import Options, Plan
from lightning_autoarch.transfer.report import TransferReport

OnMismatch: TypeAlias = Literal["skip", "slice", "error"]


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
) -> TransferReport:
    """Copy weights into a module, in place: parameters stay the same objects, and train if they did.

    Args:
        module: with memory; of any dtype, to which weights are cast, on any device.
        source: as for `read_checkpoint`, or what it has returned.
        rules: `(pattern, replacement)` for names of the source, in turn: `("^backbone\\\\.", "encoder.")`. Prefixes of
            wrappers (`module.`, `_orig_mod.`, `model.`) and the path of a net within another need none.
        on_mismatch: of shapes or dtypes. "skip" leaves such a tensor as it is, "slice" copies what both have, "error"
            raises. Position embeddings and the first convolution are adapted in all but "error".
        classes: row of the source's output layer -> row of the module's; others stay as they are.
        reinit: patterns of names in the module that are left as they are.
        head: pattern of the names of the output layer; by default the last linear or convolution that is registered.
            Its rows are classes, which "slice" does not cut.
        groups: for "slice", axes that count the same channels: the most important are kept instead of the first.

    Raises:
        TransferError: bad or unused rules, nothing in common, a mismatch with "error", tied weights of which the source
            has different ones, numbers that do not fit. The module is then as it was.
        CheckpointError: the source cannot be read.

    >>> old = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> new = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
    >>> report = transfer_weights(new, old)
    >>> report.counts, f"{report.share:.0%}"
    ({'loaded': 2, 'skipped': 2}, '47%')
    """
    options = Options(
        tuple(_listed(rules, "rules")), _checked(on_mismatch), _classes(classes),
        tuple(_listed(reinit, "reinit")), head, tuple(map(tuple, groups or ())),
    )  # fmt: skip
    state = read_checkpoint(source)
    with torch.no_grad():
        plan = Plan(module, state, options)
        report = plan.report()
        write_all(plan.writes)
    return report


def _listed(given: Any, name: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TransferError(f"Expected `{name}` as a list, got {given!r}.")
    return list(given)


def _checked(on_mismatch: str) -> str:
    if on_mismatch not in get_args(OnMismatch):
        words = ", ".join(map(repr, get_args(OnMismatch)))
        raise TransferError(f"Expected `on_mismatch` to be one of {words}, got {on_mismatch!r}.")
    return on_mismatch


def _classes(classes: Mapping[int, int] | None) -> dict[int, int]:
    if classes is None:
        return {}
    pairs = dict(classes)
    numbers = [*pairs, *pairs.values()]
    if not pairs or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise TransferError(f"Expected `classes` as {{row of the source: row here}}, got {classes!r}.")
    if len(set(pairs.values())) < len(pairs):
        raise TransferError(f"Expected a row of its own for each of `classes`, got {classes!r}.")
    return pairs
